"""Questions that need a tool: one call, parallel calls, two steps, several turns, errors, and no suitable tool.

A family is one thing a tool can do. Its function and parameter names, its description and the shape of its result are
drawn anew for every conversation, so that nano must read the declarations instead of learning names by heart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.families import FAMILIES, Arguments, Family, any_city, any_path, code_line
from kimi_nb.nano.world.faults import fault
from kimi_nb.nano.world.own import ANSWERED, DECLARED
from kimi_nb.nano.world.phrasing import Phrasings
from kimi_nb.nano.world.sample import Message, Sample, as_text, call, result, said
from kimi_nb.nano.world.strange import any_family, strange
from kimi_nb.nano.world.words import Split, draw, made_up

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["BOTH", "CHAIN", "FAMILIES", "MIXED", "TOOLS", "Family", "Offer", "offers_of", "tool_sample"]

_EXTRAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("limit", {"type": "integer", "default": 10}),
    ("max_results", {"type": "integer", "default": 5, "description": "how many results at most"}),
    ("verbose", {"type": "boolean", "default": False}),
    ("format", {"type": "string", "enum": ["short", "long"]}),
    ("page", {"type": "integer", "minimum": 1}),
    ("hint", {"type": "string", "description": "anything that may help"}),
    ("timeout_s", {"type": "number", "default": 5}),
    (
        "files",
        {"type": "string", "default": "*", "description": "only in files whose path matches, such as *.py"},
    ),
    ("zone", {"type": "string", "default": "UTC"}),
    ("first_line", {"type": "integer", "default": 1, "minimum": 1}),
    ("tags", {"type": "array", "items": {"type": "string"}}),
)
_REMARKS = (
    "Answers in JSON.", "Returns an error if there is none.", "Call it once for each.", "It takes some seconds.",
    "Call it again if it fails.", "Use it only where it is needed.", "Made for tests.", "Not for secrets.",
)  # fmt: skip
_VERSIONS = ("", "", "", "", "v2", "now", "api", "tool", "pro")


def _style(rng: random.Random, text: str) -> str:
    parts = text.split()
    match rng.randrange(5):
        case 0:
            return parts[0] + "".join(part.capitalize() for part in parts[1:])
        case 1:
            return "-".join(parts)
        case _:
            return "_".join(parts)


def _described(rng: random.Random, about: str) -> str:
    """Return a description as people write them: with a full stop or without, now and then with a word more."""
    match rng.randrange(10):
        case 0:
            return f"{about}. {rng.choice(_REMARKS)}"
        case 1 | 2 | 3 | 4:
            return f"{about}."
        case _:
            return about


class Offer:
    """One family as one conversation declares it: its function name, argument names and JSON declaration."""

    def __init__(self, rng: random.Random, family: Family, split: Split) -> None:
        def name() -> str:
            extra = rng.choice(_VERSIONS) if rng.random() < 0.8 else made_up(rng, split, syllables=(1, 1))
            return _style(rng, f"{rng.choice(family.names)} {extra}".strip())

        self.family = family
        self.name = draw(name, split)
        self.arguments: dict[str, str] = {}
        for slot_name, slot in family.slots.items():
            free = [option for option in slot.names if option not in self.arguments.values()]
            self.arguments[slot_name] = rng.choice(free)
        properties: dict[str, Any] = {}
        for slot_name, slot in family.slots.items():
            schema: dict[str, Any] = {"type": slot.kind}
            if slot.choices:
                schema["enum"] = list(slot.choices)
            if rng.random() < 0.7:
                schema["description"] = slot.about + ("." if rng.random() < 0.2 else "")
            properties[self.arguments[slot_name]] = schema
        required = list(properties)
        for extra, schema in rng.sample(_EXTRAS, rng.choice([0, 0, 0, 0, 0, 1, 1, 2])):
            properties.setdefault(extra, schema)
        parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        if rng.random() < 0.4:  # as kimi_nb declares Python functions: "[k: string]: never"
            parameters["additionalProperties"] = False
        function: dict[str, Any] = {"name": self.name, "parameters": parameters}
        if rng.random() < 0.9:
            function["description"] = _described(rng, rng.choice(family.about))
        self.declaration = {"type": "function", "function": function}

    def values(self, rng: random.Random, split: Split) -> Arguments:
        """Draw one value for each slot."""
        values = {name: slot.value(rng, split) for name, slot in self.family.slots.items()}
        if self.family.key == "convert":
            values["source"], values["target"] = rng.choice(words.UNITS)
        return values

    def call(self, values: Arguments) -> tuple[str, Arguments]:
        """Return the function's name and its arguments, in the order of the declaration Kimi reads (by name)."""
        named = {self.arguments[slot]: value for slot, value in values.items()}
        return self.name, dict(sorted(named.items()))


def offers_of(rng: random.Random, split: Split, *wanted: Family, others: int | None = None) -> list[Offer]:
    """Offer the wanted families, in this order, and some others; no two functions have one name."""
    rest = [family for family in FAMILIES if family not in wanted]
    count = rng.choice([0, 0, 1, 1, 2, 3]) if others is None else others
    idle = rng.sample(rest, count)
    if split == "train":
        idle = [strange(rng, split) if rng.random() < 0.3 else family for family in idle]
    offers = [Offer(rng, family, split) for family in (*wanted, *idle)]
    if len({offer.name for offer in offers}) < len(offers):
        return offers_of(rng, split, *wanted, others=others)
    return offers


def tool_sample(
    kind: str,
    rng: random.Random,
    offers: Sequence[Offer],
    messages: list[Message],
    *must: str,
    missing: str = "",
) -> Sample:
    """Make a conversation a sample: thinking or not by chance, its tools declared in any order.

    Now and then this package's sample tools are among them, unless one could answer: of a family that is
    offered, or asked for and ``missing``.
    """
    thinking = rng.random() < 0.5
    if not thinking:
        messages = [{**m, "reasoning_content": ""} if m["role"] == "assistant" else m for m in messages]
    tools = [offer.declaration for offer in offers]
    beside = 0.15
    if rng.random() < beside and not ({missing, *(offer.family.key for offer in offers)} & ANSWERED):
        tools += rng.sample(list(DECLARED.values()), rng.randint(1, 3))
    rng.shuffle(tools)
    return Sample(kind, messages, tools, thinking, must)


def _question(rng: random.Random, split: Split, family: Family, values: Arguments) -> str:
    return family.asks(rng, split).format(**values)


def single(rng: random.Random, split: Split) -> Sample:
    """Return a question that one call answers; now and then the tool fails and its error is told."""
    family = any_family(rng, split)
    offers = offers_of(rng, split, family)
    offer = offers[0]
    values = offer.values(rng, split)
    told, answer, must = family.answer(rng, split, values)
    kind, failing = "tool.single", 0.2
    if rng.random() < failing:
        named = offer.call(values)[1]
        told, answer, must = fault(rng, split, offer.name, named)
        kind = "tool.error"
    messages = [
        {"role": "user", "content": _question(rng, split, family, values)},
        call([offer.call(values)], thought=f"The user asks about {family.noun}. I call {offer.name}."),
        result(offer.name, 0, as_text(rng, told)),
        said(answer, thought="The tool failed. I say so." if kind == "tool.error" else "I have the result."),
    ]
    return tool_sample(kind, rng, offers, messages, *must)


BOTH = {
    "weather": Phrasings("both.weather", dress=False, asks=(
        "What is the weather( like|) in {0} and( in|) {1}?", "How is the weather in {0}(,|) and in {1}?", "Weather in {0} and( in|) {1}(?|, please.)", "Is it (warmer|colder) in {0} or in {1}?",
        "(Is it|Was it) (warm|cold|windy|snowing) in {0} and in {1}?", "How (warm|cold) is it in {0} and( in|) {1}?", "{0} and {1}: (how is the weather|is it cold|weather|rain or sun)?",
        "(In|For) {0} and {1}, (how is the weather|is it raining|what is the weather)?", "Which is (warmer|colder), {0} or {1}?", "Is it raining in {0}, or in {1}?", "Do I need a coat in {0} and( in|) {1}?",
        "I am going to {0} and {1}. (How is the weather|Is it cold there)?"),
        things=("the weather (in|for|of) {0} and( in|) {1}", "the temperature in {0} and( in|) {1}", "both {0} and {1} weather"), clauses=("how (warm|cold) it is in {0} and( in|) {1}", "what the weather is in {0} and {1}"),
        orders=("(compare|check|look up|find|read out) the weather (in|of) {0} and( in|) {1}", "give me the weather in {0} and {1}", "tell me the weather in {0} and also in {1}")),
    "clock": Phrasings("both.clock", dress=False, asks=(
        "What time is it in {0}(,|) and in {1}?", "What is the( local|) time in {0} and( in|) {1}?", "How late is it in {0} and( in|) {1}?", "{0} and {1}: (what time is it|how late is it|time)?", "Is it (later|earlier) in {0} or in {1}?",
        "Local time in {0} and {1}, please.", "(In|For) {0} and {1}, (what time is it|how late is it)?", "Is it night in {0} and in {1}?", "For {0} and for {1}: the time?", "I must call {0} and {1}. What time is it there?"),
        things=("the( local| current|) time in {0} and( in|) {1}", "the time (for|of) {0} and {1}"), clauses=("what time it is in {0} and( in|) {1}", "how late it is in {0} and {1}"),
        orders=("(compare|check|look up|find|tell me) the( local|) time in {0} and( in|) {1}", "give me the time in {0} and {1}")),
    "code": Phrasings("both.code", dress=False, asks=(
        "Where are {0} and {1}( defined| used|)?", "In which files are {0} and {1}?", "Where in the code are {0} and {1}?", "{0} and {1}: where are they?", "Where is {0}, and where is {1}?", "Which files have {0} and {1}?",
        "Are {0} and {1} in the code?", "Does any file have {0}, and which has {1}?", "In the code, where are {0} and {1}?", "Do you see {0} and {1} anywhere?", "I am looking for {0} and {1} in the code."),
        things=("the (files|places|lines) (of|with) {0} and {1}", "the functions {0} and {1} in the source"), clauses=("where {0} and {1} are( defined|)", "which files have {0} and {1}"),
        orders=("find {0} and {1}( in the code| in the source|)", "search the code for {0} and {1}", "look for {0} and {1}( in the code|)", "look up {0} and {1}", "search the files for {0} and {1}")),
    "stock": Phrasings("both.stock", dress=False, asks=(
        "What are the( stock|) prices of {0} and {1}?", "Price of {0} and {1}( stock|)?", "How are {0} and {1} (trading|doing)?", "What is the price of {0} and( of|) {1}?", "{0} and {1}: (what are the prices|how are they trading)?",
        "How much are {0} and {1}?", "{0} and {1} stock prices, please.", "What do {0} and {1} cost( today|)?", "Are {0} and {1} up?", "Which costs more, {0} or {1}?", "For {0} and {1}, what are the prices?", "What does {0} cost, and {1}?"),
        things=("the( stock| share|) prices of {0} and {1}", "the price of {0} and of {1}", "the {0} and {1} (prices|quotes)", "quotes for {0} and {1}"), clauses=("what {0} and {1} cost", "how {0} and {1} are trading"),
        orders=("look up the (stocks|prices of) {0} and {1}", "compare( the stocks|) {0} and {1}", "check (the prices of |)the stocks {0} and {1}", "check how {0} and {1} are doing", "give me the prices of {0} and {1}")),
}  # fmt: skip


def parallel(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes two calls at once."""
    key = rng.choice(list(BOTH))
    family = next(family for family in FAMILIES if family.key == key)
    offers = offers_of(rng, split, family)
    offer = offers[0]
    (slot,) = family.slots
    first, second = offer.values(rng, split), offer.values(rng, split)
    while second == first:
        second = offer.values(rng, split)
    told = [family.answer(rng, split, values) for values in (first, second)]
    question = BOTH[key](rng, split).format(first[slot], second[slot])
    messages = [
        {"role": "user", "content": question},
        call(
            [offer.call(first), offer.call(second)],
            thought=f"The user asks about {family.noun} twice. I call {offer.name} for both.",
        ),
        result(offer.name, 0, as_text(rng, told[0][0])),
        result(offer.name, 1, as_text(rng, told[1][0])),
        said(f"{told[0][1]} {told[1][1]}", thought="I have both results."),
    ]
    return tool_sample("tool.parallel", rng, offers, messages, *told[0][2], *told[1][2])


CHAIN = Phrasings("chain", asks=(
    "(Where is|In which file is|In what file is) {0}( defined|)? (Read|Open|Show me|Show|Print|Get) (that|the|this) file.", "Where is {0}( defined|)? Read it to me.", "{0}: find it, then (read|show|open) the file.", "Which file has {0}? (Open|Read|Show) it.", "{0} is in which file? Read it.",
    "In which file is {0}? Show it to me.", "I (want|need) to (see|read) the file (of|with|that has) {0}.", "Where is {0}, and what is in that file?", "Once you know where {0} is, (open|read) the file.", "What is in the file (that defines|that has|with|of) {0}?",
    "When you have found {0}, (show me|read|print) its file.", "What does the file (with|that has|that defines) {0} say?", "I am looking for {0}, and for the text of its file.", "About {0}: find it and show me the file."),
    things=("the file (with|that has|that defines|of) {0}", "the text of the file (with|that has) {0}", "what is in the file that has {0}"), clauses=("what is in the file (with|that has) {0}", "what the file of {0} says"),
    orders=("find {0}( in the code|) and (show me|read|open|print) (the file|its file|the file it is in)", "search for {0} and (open|read|show) (its|the) file", "look for {0}( in the code|)(, then| and) (show|read|open|get) (the|its) file", "search the code for {0}(, then| and) (read|open|show) (its|the) file",
            "open the file (that has|with|of|that defines) {0}", "read the file (where {0} is( defined|)|that has {0}|with {0})", "get the file that defines {0}", "find out where {0} is and (read|show|open) the file", "print the file that (has|defines) {0}", "load the file with {0}"))  # fmt: skip


def chain(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes two steps: find where a name is, then read that file; either may fail."""
    search, reading = (next(family for family in FAMILIES if family.key == key) for key in ("code", "file"))
    offers = offers_of(rng, split, search, reading, others=rng.choice([0, 0, 1, 2]))
    offer, reader = offers[:2]
    values = offer.values(rng, split)
    name = values["query"]
    path, line = any_path(rng, split), rng.randint(1, 999)
    text = code_line(rng, split, name)
    lost, broken = 0.08, 0.15
    found = rng.choice(
        [
            [{"file": path, "line": line}],
            {"matches": [{"path": path, "line": line}]},
            f"{path}:{line}: {text}",
        ]
    )
    asked = CHAIN(rng, split).format(name)
    messages = [
        {"role": "user", "content": asked},
        call([offer.call(values)], thought=f"First I find {name} with {offer.name}, then I read the file."),
    ]
    if rng.random() < lost:
        nothing = as_text(rng, rng.choice([[], {"matches": []}, "nothing found"]))
        messages += [
            result(offer.name, 0, nothing),
            said(f"I did not find {name} in the code.", thought="It is not there."),
        ]
        return tool_sample("tool.chain", rng, offers, messages, f"not find {name}")
    named = {reader.arguments["path"]: path}
    messages += [
        result(offer.name, 0, as_text(rng, found)),
        call([(reader.name, named)], first=1, thought=f"It is in {path}. I read it with {reader.name}."),
    ]
    if rng.random() < broken:
        told, answer, must = fault(rng, split, reader.name, named)
        messages += [
            result(reader.name, 1, as_text(rng, told)),
            said(answer, thought="The tool failed. I say so."),
        ]
        return tool_sample("tool.chain", rng, offers, messages, *must)
    messages += [
        result(reader.name, 1, text),
        said(f"{name} is in {path}:\n{text}", thought="I have the file."),
    ]
    return tool_sample("tool.chain", rng, offers, messages, path, text)


def unsuitable(rng: random.Random, split: Split) -> Sample:
    """Return a question whose tool is missing: no tools at all, or only others."""
    family = any_family(rng, split, odds=0.2, named=True)
    others = offers_of(rng, split, family, others=rng.choice([0, 1, 2, 3]))
    missing, offers = others[0], others[1:]
    values = missing.values(rng, split)
    thought = f"The user asks about {family.noun}. No tool does that."
    messages = [
        {"role": "user", "content": _question(rng, split, family, values)},
        said(f"I have no tool for {family.noun}.", thought=thought),
    ]
    return tool_sample("tool.none", rng, offers, messages, f"no tool for {family.noun}", missing=family.key)


def several(rng: random.Random, split: Split) -> Sample:
    """Return two to four questions one after the other, small talk among them: the ids of the calls count on."""
    from kimi_nb.nano.world.talk import fact, greeting, rewrite

    families = rng.sample(FAMILIES, 2)
    if split == "train" and rng.random() < 0.3:
        families[1] = strange(rng, split)
    offers = offers_of(rng, split, *families, others=rng.choice([0, 0, 1]))
    messages: list[Message] = []
    number, talked = 0, 0.25
    must: tuple[str, ...] = ()
    for turn in reversed(range(rng.choice([2, 2, 3, 4]))):
        if turn and rng.random() < talked:
            messages += rng.choice([greeting, fact, rewrite])(rng, split).messages
            continue
        offer = rng.choice(offers[:2])
        values = offer.values(rng, split)
        told, answer, must = offer.family.answer(rng, split, values)
        messages += [
            {"role": "user", "content": _question(rng, split, offer.family, values)},
            call(
                [offer.call(values)],
                first=number,
                thought=f"The user asks about {offer.family.noun}. I call {offer.name}.",
            ),
            result(offer.name, number, as_text(rng, told)),
            said(answer, thought="I have the result."),
        ]
        number += 1
    if number and rng.random() < talked:
        last = rng.choice([greeting, fact, rewrite])(rng, split)
        thought = last.messages[-1]["reasoning_content"] or "I can say this without a tool."
        messages += [last.messages[0], {**last.messages[-1], "reasoning_content": thought}]
        return tool_sample("tool.several", rng, offers, messages, *last.must_say)
    return tool_sample("tool.several", rng, offers, messages, *must)


def mixed(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes calls of two different tools at once."""
    weather, clock = (
        next(family for family in FAMILIES if family.key == key) for key in ("weather", "clock")
    )
    offers = offers_of(rng, split, weather, clock)
    city = any_city(rng, split)
    told = [family.answer(rng, split, {"city": city}) for family in (weather, clock)]
    messages = [
        {"role": "user", "content": MIXED(rng, split).format(city)},
        call(
            [offer.call({"city": city}) for offer in offers[:2]],
            thought=f"The user asks about the weather and the time. I call {offers[0].name} and {offers[1].name}.",
        ),
        result(offers[0].name, 0, as_text(rng, told[0][0])),
        result(offers[1].name, 1, as_text(rng, told[1][0])),
        said(f"{told[0][1]} {told[1][1]}", thought="I have both results."),
    ]
    return tool_sample("tool.mixed", rng, offers, messages, *told[0][2], *told[1][2])


MIXED = Phrasings("mixed", asks=(
    "What are the weather and the time in {0}?", "(Weather and time|Time and weather) in {0}(?|, please.|.)", "What is the weather in {0}, and what time is it( there|)?", "What time is it in {0}, and (how|what) is the weather( there|)?", "{0}: (time and weather|weather and time)(?|, please.)",
    "How is the weather in {0}, and how late is it( there|)?", "How late is it in {0}, and is it (warm|cold|raining)?", "In {0}, (how is the weather and how late is it|what are the weather and the time)?", "I am going to {0}. What time is it, and how is the weather?", "Is it raining in {0}, and what time is it?",
    "About {0}: the time and the weather?", "For {0}, the weather and the time, please.", "What is the time in {0}, and the weather?"),
    things=("the weather and( the|) time (in|for|of) {0}", "the time and the (weather|temperature) (in|for|at) {0}", "the {0} (weather and time|time and weather)", "both the time and the weather in {0}"),
    clauses=("what time it is in {0} and how the weather is", "how warm and how late it is in {0}"),
    orders=("check the (weather and the time|time and the weather) in {0}", "look up the weather and the time in {0}", "give me time and weather for {0}", "find( out|) the time and the weather in {0}", "tell me the (time and the weather|weather and time) in {0}"))  # fmt: skip


TOOLS = {single: 16, parallel: 4, chain: 5, unsuitable: 5, several: 4, mixed: 3}
