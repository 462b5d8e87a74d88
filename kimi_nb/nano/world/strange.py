"""Tools that no other conversation has: what they do, take and tell is drawn from the dictionary, or made up.

What they are asked leans on the words of their declarations, so that nano must read those, and meets verbs, orders of
words and questions with things that they go with nowhere else. They are for training; the exam does not ask for them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import families, words
from kimi_nb.nano.world.families import FAMILIES, Arguments, Family, Slot
from kimi_nb.nano.world.phrasing import dressed, expand, framed, kept_out
from kimi_nb.nano.world.words import made_up, ordinary, pick

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kimi_nb.nano.world.words import Split

__all__ = ["any_family", "strange"]

_VERBS = (
    "print show say send get fetch give bring find check read open write make set start stop move paint book rent buy sell cook wash "
    "lock call visit follow join share count sort mark pack plant draw carry push pull test build clean close copy delete drop fill "
    "hide hold keep load lift mix name order park play post raise ring roll save scan serve sign switch tag throw touch turn wake "
    "watch warm weigh wrap tell look track search remind change report"
).split()
# What is asked without a tool, or of the weather: none of it is a strange tool's thing.
_TALKED = frozenset(
    "list lists name names word words quote quotes comma commas this that text days months colours fruits animals planets "
    "rain snow sun wind fog storm storms clouds sky air weather".split()
)
_LINKS = ("to", "for", "in", "with", "from", "as", "at", "on", "about", "into", "by")

_THINGS = ("the [N] of {v}", "the [N] for {v}", "the {v} [N]", "{v}'s [N]", "{v} [N]", "the [N] of (the |)[K] {v}", "(a|some|any) [N] (for|of|in) {v}",
           "the (current|latest|local|new|whole|next) [N] (of|in|for|on|about) {v}", "the (latest|current|new) {v} [N]", "[N] (of|for|in|on|about) {v}", "[K] {v}'s [N]")  # fmt: skip
_CLAUSES = ("what the [N] of {v} is", "which [N] {v} has", "(if|whether) {v} has a [N]", "where the [N] of {v} is", "when the [N] of {v} will (arrive|come|be here)",
            "how (big|late|high|good|warm) the [N] of {v} is", "what [N] is in {v}", "where {v} keeps its [N]")  # fmt: skip
_ASKS = ("What is the [N] (of|in|for|on) {v}?", "(Which|What) [N] (does {v} have|is in {v}|has {v}|is the one of {v})?", "(Does|Did) {v} have (a|any|much) [N]?",
         "How is the [N] (of|in|for) {v}( today| now|)?", "When will the [N] (of|for) {v} (arrive|come|start|be ready)?", "When (did|will) {v} get (a|its) [N]?",
         "When will [N] {v} (arrive|leave|come|be here)?", "Will [N] {v} (arrive|come|start) (soon|today)?", "Is [N] {v} (still|already|not) (on its way|waiting|here|open)?",
         "In {v}, (what|which|how) is the [N]?", "{v}: (what is the [N]|which [N]|any [N]|[N])?", "(About|As for|On|For) {v}(:|,) (what is the [N]|which [N] is it|is there any [N])?",
         "Is there (a|any|much|still) [N] (in|for|at|on) {v}?", "Has {v} (a|any) [N]( yet|)?", "Is the [N] of {v} (big|late|high|ready|good|here)?", "How (much|big|late|high|good|old) is the [N] (of|in|for) {v}?",
         "How much [N] (is there in|has|does it take for|can I get for) {v}?", "What would the [N] of {v} (be|make|say)?", "At (which|what) [N] is {v}?", "(Where|How) (do|can|should) I (find|get|reach|see) the [N] of {v}?",
         "I am in {v}. (What is the [N]|Is there any [N])?", "What does (the [N] of {v}|{v} have as [N]|{v} say about the [N]) (mean|say|look like|cost)?", "From {v}, what [N] do I get?", "If I take {v}, what is the [N]?",
         "What do (people|they|you) (say|call|write) for the [N] of {v}?", "Has anything (new|bad|good) happened (to|with) the [N] of {v}?", "(Which|What) [N] should I (dial|take|use|see) (for|with) {v}?",
         "Does the [N] (have|show|know|define) {v}?", "(Does|Did) anyone see the [N] of {v}?", "Once you (see|have|know) {v}, tell me its [N].", "Which [N]s are (in|of|for) {v}?")  # fmt: skip
_ONE: tuple[str, ...] = ("[V] {v}", "[V] {v}", "[V] (the |)[N] {v}", "[V] (a|the|my|one) [N](:| called| named| about| for| of| on| with) {v}", "[V] (me |us |)(the |a )[N] (for|of) {v}", "[V] {v} as a [N]", "[V] it: {v}",
        "[V] the [N] that is (called |){v}", "[V] {v}, the [N]", "[V] {v} (now|today|again|first)")  # fmt: skip
_ONE_ASKS: tuple[str, ...] = ("{v}: [V] it.", "[N] {v}: [V] it.", "{v} is the [N] to [V].", "There is a [N], {v}. [V] it.", "{v} [N], please.", "(A|The|Another) [N] for {v}, please.", "When will you [V] {v}?", "Will you [V] {v} (soon|today)?",
             "A new [N], and it is {v}: [V] it.", "For {v}: [V] a [N].", "About {v}: [V] a [N].", "{v} (needs|wants|should have|must get) a [N].", "Did you [V] {v}?", "[N]: {v}.", "[N] {v}, please.", "I have {v}. [V] it.")  # fmt: skip
_TWO = ("[V] {v} (with|,) [P] {w}", "[V] (the |a |)[N] {v} [L] (the |)[P] {w}", "[V] [L] {w}: {v}", "[V] {v} [L] {w}", "[V] {v} [L] {w}", "[V] (a |the |)[N] [L] {w}: {v}", "[V] {v}, [P] {w}", "[V] {v} and make its [P] {w}",
        "[V], [L] (the |)[P] {w}, {v}", "[V] {v} [L] [P] {w}", "[V] (a|the) [N] with [P] {w}: {v}")  # fmt: skip
_TWO_ASKS = ("[L] {w}, [V] {v}.", "[L] {w}: (please |)[V] {v}.", "[P] {w}: [V] {v}.", "With [P] {w}: [V] {v}.", "{v}, [P] {w}: [V] it.", "[P] {w}, [N] {v}: [V] that.", "A [N] [L] {w}: {v}.", "{w} is the [P]. [V] {v}.",
             "{v} [L] {w}(, please.|?|.)", "{v} as [N], {w} as [P].", "A new [N], and its [P] is {w}: {v}.", "{v} is a [N], its [P] {w}. [V] it.", "What is {v} [L] {w}?", "What would {v} be [L] {w}?", "[N] {v}, [L] {w}: [V] that as well.",
             "What do people [V] [L] {w} for {v}?", "How much is {v} [L] {w}?", "{v} [N], {w} [P], please.", "From [P] {w}, [V] {v}.")  # fmt: skip


def any_family(rng: random.Random, split: Split, *, odds: float = 0.35, named: bool = False) -> Family:
    """Return one of the families or, in training, now and then a strange one."""
    if split == "train" and rng.random() < odds:
        return strange(rng, split, named=named)
    return rng.choice(FAMILIES)


@cache
def _taken() -> frozenset[str]:
    """Return the words that say what the other families do: a strange tool for them would be another of theirs."""
    texts = (
        text for family in FAMILIES for text in (*family.names, *family.about, family.noun, *family.slots)
    )
    return _TALKED | {word.lower() for text in texts for word in text.split()}


def _noun(rng: random.Random, split: Split) -> str:
    while True:
        word = ordinary(rng, split) if rng.random() < 0.75 else made_up(rng, split, syllables=(1, 2))
        if word not in _taken():
            return word


def _verb(rng: random.Random, split: Split) -> str:
    return rng.choice(_VERBS) if rng.random() < 0.75 else _noun(rng, split)


def _tag(rng: random.Random, split: Split) -> str:
    return words.draw(lambda: f"{rng.choice('ABCDKNRX')}{rng.randint(1, 9999)}", split)


def _name(rng: random.Random, split: Split) -> str:
    return pick(rng, words.PEOPLE, split) if rng.random() < 0.4 else made_up(rng, split).capitalize()


def _word(rng: random.Random, split: Split) -> str:
    return pick(rng, words.TOPICS, split) if rng.random() < 0.2 else _noun(rng, split)


def _few(rng: random.Random, split: Split) -> str:
    return " ".join(_word(rng, split) for _ in range(rng.choice([1, 2, 2, 3])))


def _count(rng: random.Random, split: Split) -> int:
    return int(words.draw(lambda: str(rng.randint(1, rng.choice([20, 300, 9000]))), split))


_VALUES: tuple[tuple[str, Callable[[random.Random, Split], Any]], ...] = (
    ("string", families.any_city), ("string", families.any_city), ("string", _name), ("string", _word), ("string", _word), ("string", _few),
    ("string", families.any_identifier), ("string", families.any_path), ("string", families.any_path), ("string", _tag), ("integer", _count),
    ("number", _count), ("string", lambda rng, split: made_up(rng, split).upper()[:4]),
)  # fmt: skip


def _answer(noun: str, says: str) -> Callable[..., tuple[Any, str, tuple[str, ...]]]:
    def answer(rng: random.Random, split: Split, _values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
        told: Any = rng.choice(
            [rng.randint(0, 9999), _tag(rng, split), made_up(rng, split), _few(rng, split)]
        )
        shape = rng.randrange(4)
        result = ({noun: told}, {"result": told}, {noun: told, "ok": True}, str(told))[shape]
        return result, f"{says}{told}.", (str(told),)

    return answer


def strange(rng: random.Random, split: Split, *, named: bool = False) -> Family:
    """Return a tool of its own kind.

    Args:
        rng: Where chance comes from.
        split: Whose names it may use.
        named: Whether what is asked must name what it is about, as it is told where no tool is offered.
    """
    noun, owner = _noun(rng, split), _noun(rng, split)
    if named or rng.random() < 0.5:
        return _lookup(rng, split, noun, owner, named=named)
    return _action(rng, split, noun, owner)


def _asked(
    rng: random.Random,
    kinds: tuple[tuple[str, tuple[str, ...]], ...],
    marks: dict[str, str],
    *,
    named: bool = False,
) -> Callable[[random.Random, Split], str]:
    """Return what draws a phrasing; ``[N]`` and the like stand for the words of this tool."""

    def ask(_rng: random.Random, _split: Split) -> str:
        while True:
            kind, patterns = rng.choice(kinds)
            text = rng.choice(expand(rng.choice(patterns)))
            if named and "[N]" not in text and "[P]" not in text:
                continue
            for mark, word in marks.items():
                text = text.replace(mark, word)
            text = framed(rng, text, kind) if kind else text[0].upper() + text[1:]
            if not kept_out(text):
                return dressed(rng, text)

    return ask


def _lookup(rng: random.Random, split: Split, noun: str, owner: str, *, named: bool) -> Family:
    verb = rng.choice(("get", "find", "fetch", "look up", "read", "tell", "show", "search", "check"))
    names = (f"{verb} {noun}", noun, f"{owner} {noun}", f"{noun} of {owner}", f"{noun} lookup")
    about = (f"{verb.capitalize()} the {noun} of a {owner}", f"{noun.capitalize()} of a {owner}", f"{verb.capitalize()} the {noun}",
             f"The {noun} for one {owner}", f"Returns the {noun} of the given {owner}", f"Tell which {noun} a {owner} has")  # fmt: skip
    kind, value = rng.choice(_VALUES)
    slot = Slot((owner, owner, "name", "id", "which", "query", _noun(rng, split)), kind,
                rng.choice((f"the {owner}", f"name of the {owner}", f"which {owner}", f"a {owner}")), value)  # fmt: skip
    kinds = (("", _ASKS), ("", _ASKS), ("things", _THINGS), ("things", _THINGS), ("clauses", _CLAUSES))
    marks = {"[N]": noun, "[K]": owner}
    ask = _asked(rng, kinds, marks, named=named)
    return Family("strange", names, about, {"v": slot}, ask, _answer(noun, f"The {noun} is "), f"the {noun}")


def _action(rng: random.Random, split: Split, noun: str, owner: str) -> Family:
    verb, link, other = _verb(rng, split), rng.choice(_LINKS), _noun(rng, split)
    # Mostly it is asked for by its verb; else by its noun, and now and then only by a thing that it can take.
    asked = verb if rng.random() < 0.7 else _verb(rng, split)
    named = asked != verb and rng.random() < 0.7
    names = (f"{verb} {noun}", f"{verb} {noun}", f"{noun} {verb}", verb if asked == verb else noun)
    about = (f"{verb.capitalize()} a {noun}", f"{verb.capitalize()} the {noun}", f"{verb.capitalize()} a {noun} {link} a {other}",
             f"{verb.capitalize()} one {noun} of a {owner}")  # fmt: skip
    (kind, value), (second, another) = rng.choice(_VALUES), rng.choice(_VALUES)
    first = Slot(
        (noun, noun, "what", owner),
        kind,
        rng.choice((f"the {noun}", f"what to {verb}", f"which {noun}")),
        value,
    )
    slots, orders, asks = {"v": first}, _ONE, _ONE_ASKS
    if rng.random() < 0.55:
        places = (
            f"{link} what to {verb}",
            f"{link} which {other} to {verb}",
            f"the {other}, {link} which to {verb}",
        )
        slots["w"] = Slot((other, link, f"{link}_{other}"), second, rng.choice(places), another)
        orders, asks = _TWO, _TWO_ASKS
    marks = {"[N]": noun, "[V]": asked, "[P]": other, "[L]": link, "[K]": owner}
    ask = _asked(rng, (("orders", orders), ("orders", orders), ("", asks)), marks, named=named)
    return Family("strange", names, about, slots, ask, _answer(noun, f"Done. The {noun}: "), f"the {noun}")
