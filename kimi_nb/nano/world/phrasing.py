"""Ways to ask: patterns that stand for many phrasings, frames that all tools share, and what is kept from training.

Training may say a thing in thousands of ways: a tool's own sentences, and its noun phrases, clauses and orders put into
frames that every tool shares, so that each verb is met with many tools and each tool with many verbs. What validation
and test ask is written out in :mod:`kimi_nb.nano.world.held`, and training never says it, nor anything that differs
from it only in politeness, articles, punctuation or capital letters (:func:`skeleton`), whatever the tool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING

from kimi_nb.nano.world.held import HELD
from kimi_nb.nano.world.words import wrapped

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from kimi_nb.nano.world.words import Split

__all__ = ["Phrasings", "dressed", "expand", "framed", "kept_out", "skeleton"]

_CHOICE = re.compile(r"\(([^()]*)\)")


@cache
def expand(pattern: str) -> tuple[str, ...]:
    """Return every text of a pattern: ``Is it (warm|cold) in {city}( today|)?`` stands for four."""
    found = _CHOICE.search(pattern)
    if found is None:
        return (pattern,)
    before, after = pattern[: found.start()], pattern[found.end() :]
    texts = (text for choice in found[1].split("|") for text in expand(f"{before}{choice}{after}"))
    return tuple(dict.fromkeys(texts))


_THING_FRAMES = (
    "(Tell|Show|Give|Get|Send|Read|Bring|Find|Fetch|Write|Hand) me {}.",
    "(Print|Fetch|Get|Find|Check|Look up|Find out|Say|Write|Display|Report|Read|Pull up|Search for|Look for|Name|Return|Show|Send|See) {}.",
    "(I need|I want|I would like|I am looking for|I am after|I need to know|I want to know|I would like to know|I want to see|I need to see) {}.",
    "(I am interested in|I am asking for|I ask for|I could use|I have to know|We need|We want|Let me see|Let me have|Let me know|Help me find|Help me with) {}.",
    "(What is|What's|How about|What about|Do you know|Do you have|Do you see|Have you got|Can I have|Could I have|May I have|Can I see|Can we see) {}?",
    "(Where can I find|Where do I find|Where do I see|How do I get|Is there a way to see|Any idea of|Could I get|Can I get|Who knows) {}?",
    "{}, please.", "{}?", "{}.", "{}!", "Please, {}.", "Just {}.", "Only {}, please.", "Next, {}.", "And {}?", "Now {}.",
    "{}: what is it?", "{}: can you say it?", "{}, do you know it?", "{}: show it to me.", "{} is what I need.", "{} is what I want to know.",
    "My question is about {}.", "It is about {}.", "(Send|Show|Give|Read|Say) {} to me.", "Say what {} is.", "Print out {} for me.",
    "When will I (get|see|have) {}?", "When can I (get|see|have) {}?", "Will you (send|show|give) me {}?",
)  # fmt: skip
_CLAUSE_FRAMES = (
    "(Tell me|Say|Find out|Let me know|Check|Show me|See|Look up|Explain|Print|Write|Report|Send me|Read out|Look) {}.",
    "(Do you know|Can you say|Can you see|Any idea|Have you any idea|May I ask|Can I ask|Who can tell me|Do you see|Can we see) {}?",
    "(I want to know|I need to know|I wonder|I would like to know|I have to know|I am asking|My question is|It would help to know|We need to know|I do not know) {}.",
)  # fmt: skip
_ORDER_FRAMES = (
    "{}.", "{}.", "{}.", "{}.", "{}, please.", "Please {}.", "(Could|Can|Would|Will) you( please|) {}?",
    "I (want|need|would like) to {}.", "I (want|need|would like) you to {}.", "(I must|I have to|I should|I'd like to) {}.",
    "(Help me|Help me to|Let us|Let's|Now|Go and|Try to|Just|Next,) {}.", "Can we {}?", "(It is time|Time) to {}.", "(Do this|Your task|My wish): {}.",
    "You (should|must) {}.", "Would you be so kind as to {}?", "{} for me.", "{} at once.", "{}, will you?", "{} if you can.",
    "Is it possible to {}?", "Are you able to {}?",
)  # fmt: skip
_ASIDES = (
    "just asking|i am curious|it is urgent|please|kindly|thanks|thank you|just|only|and|for me|at once|if you can|right away|quick question|one question|"
    "be quick|good morning|good evening|excuse me|sorry|right|hi|hello|hey|ok|so|well|next|now then|"
    "do this|your task|my wish|nano|kimi|as soon as you can|i am waiting"
)
_POLITELY = (
    "(?:could|can|would|will) you(?: be (?:so )?kind as to)?|is it possible to|are you able to|you (?:should|must)|"
    "i (?:want|need|would like) (?:you )?to|i (?:must|have to|should)|i'd like to|help me(?: to)?|let us|let's|can we|"
    "(?:it is )?time to|go(?: and)?|try to|now"
)
_HAN_ASIDES = "请问一下|请问|麻烦你|麻烦|帮我|帮忙|请|谢谢你|谢谢|你好|nano|kimi|一下|好吗"
_ARABIC_ASIDES = "من فضلك|لو سمحت|رجاء|شكرا جزيلا|شكرا|مرحبا|يا nano|يا kimi|هل يمكنك أن"
_PUNCTUATION = re.compile(r"[^\w{}' ]+")
_ASIDE = re.compile(rf"\b(?:{_ASIDES}|{_ARABIC_ASIDES})\b|{_HAN_ASIDES}")
_OPENING = re.compile(rf"^(?:(?:{_POLITELY})\s+)+")
_CLOSING = re.compile(r"\s(?:will you|would you)$")
_LETTERS = re.compile(r"[a-z]+")
_ARTICLE = re.compile(r"\b(?:the|a|an)\b")


@lru_cache(maxsize=50_000)
def skeleton(text: str) -> str:
    """Return what is left of a phrasing without politeness, articles, punctuation and capitals; slots are ``{}``."""
    bare = re.sub(r"\{\w*\}", "{}", text).lower().replace("what's", "what is").replace("{}'s", "{}")
    bare = _PUNCTUATION.sub(" ", bare)
    for _ in range(3):
        bare = " ".join(_ARTICLE.sub(" ", _ASIDE.sub(" ", bare)).split())
        bare = _CLOSING.sub("", _OPENING.sub("", bare))
    return bare


@cache
def _held() -> frozenset[str]:
    return frozenset(skeleton(text) for held in HELD.values() for text in (*held.valid, *held.test))


@cache
def _held_words() -> frozenset[str]:
    """Return the words of all held-out phrasings and of all that a skeleton leaves out."""
    texts = [text for held in HELD.values() for text in (*held.valid, *held.test)]
    texts += [
        _ASIDES.replace("|", " "),
        re.sub(r"\W", " ", _POLITELY),
        "the a an would will you what is s v w",
    ]
    return frozenset(word for text in texts for word in _LETTERS.findall(text.lower()))


def kept_out(text: str) -> bool:
    """Return whether a phrasing is one that training may not say."""
    # Most have a word that none of the held-out ones has, which is quickly seen.
    if text.isascii() and not _held_words().issuperset(_LETTERS.findall(text.lower())):
        return False
    return skeleton(text) in _held()


_BEFORE = (
    "Hi, |Hello! |Please: |OK, |Now, |Quick question: |Hey, |So, |Next: |Well, |Good morning. |Good evening. |Excuse me, |Sorry, |"
    "One question: |nano, |Kimi, |Hey nano, |Hello, |Hi! |Please, |OK. |And now: |Hey! |Thanks. Now, |Right, |Next, "
).split("|")
_AFTER = (
    " Thanks.| Thank you!| Thanks!| I am curious.| It is urgent.| Be quick.| Just asking.| Thank you.| Please.| As soon as you can.| I am waiting.| OK?"
).split("|")


def dressed(rng: random.Random, phrasing: str) -> str:
    """Open, close and write a phrasing of training as people do; its ``{places}`` are not filled yet.

    Like :func:`kimi_nb.nano.world.words.wrapped`, which the exam uses, but with more ways to do it.
    """
    chance = rng.random()
    lowered = phrasing if phrasing.startswith(("I ", "{", "I'")) else phrasing[0].lower() + phrasing[1:]
    if chance < 0.2:
        opening = rng.choice(_BEFORE)
        phrasing = opening + (phrasing if opening.endswith(("! ", ": ", ". ")) else lowered)
    elif chance < 0.3:
        phrasing = lowered
    chance = rng.random()
    if chance < 0.15:
        return phrasing + rng.choice(_AFTER)
    mark = phrasing[-1]
    if chance < 0.21 and mark in ".?":
        polite = "" if phrasing.lower().startswith("please") or "please" in phrasing[-9:] else ", please"
        return f"{phrasing[:-1]}{polite}{mark}"
    if chance < 0.3 and mark in ".?!":
        return phrasing[:-1] + rng.choice(("", "", "", "!", "...", f" {mark}"))
    return phrasing


def _capital(text: str) -> str:
    return text if text.startswith("{") else text[0].upper() + text[1:]


def _put(frame: str, part: str) -> str:
    """Put a part into a frame; what begins the sentence is written with a capital letter."""
    return _capital(frame.replace("{}", part, 1))


def framed(rng: random.Random, part: str, kind: str) -> str:
    """Put a noun phrase (``things``), clause (``clauses``) or order (``orders``) into one of the shared frames."""
    return _put(rng.choice(expand(rng.choice(_FRAMES[kind]))), part)


_FRAMES = {"things": _THING_FRAMES, "clauses": _CLAUSE_FRAMES, "orders": _ORDER_FRAMES}
_ODDS = {"asks": 9, "things": 6, "orders": 6, "clauses": 3}


@dataclass(frozen=True)
class Phrasings:
    """The ways to ask one thing; each tuple holds patterns (:func:`expand`).

    Attributes:
        key: What it is in :data:`kimi_nb.nano.world.held.HELD`.
        asks: Whole sentences of its own.
        things: Noun phrases: "the weather in {city}".
        clauses: What is asked, as part of a sentence: "how warm it is in {city}".
        orders: What is to be done: "find out the weather in {city}".
        dress: Whether validation and test put words before and after a phrasing.
    """

    key: str
    asks: tuple[str, ...]
    things: tuple[str, ...] = ()
    clauses: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()
    dress: bool = True

    def __call__(self, rng: random.Random, split: Split) -> str:
        """Draw a phrasing, its slots not filled yet.

        The phrasings that the second edition of the world held out are asked twice as often as the others.
        """
        if split != "train":
            held = HELD[self.key]
            chosen = rng.choice(held.valid if split == "valid" else (held.test[0], *held.test))
            return wrapped(rng, chosen) if self.dress else chosen
        kinds = [kind for kind in _ODDS if getattr(self, kind)]
        while True:
            (kind,) = rng.choices(kinds, [_ODDS[kind] for kind in kinds])
            chosen = rng.choice(expand(rng.choice(getattr(self, kind))))
            if kind != "asks":
                chosen = framed(rng, chosen, kind)
            if not kept_out(chosen):
                return dressed(rng, chosen)

    def all(self) -> Iterator[str]:
        """Yield each phrasing of training once, with nothing before or after it."""
        seen: set[str] = set()
        for kind in _ODDS:
            frames = [each for frame in _FRAMES.get(kind, ("{}",)) for each in expand(frame)]
            parts = [part for pattern in getattr(self, kind) for part in expand(pattern)]
            for frame, part in product(frames, parts):
                text = _put(frame, part)
                if text not in seen and not kept_out(text):
                    seen.add(text)
                    yield text
