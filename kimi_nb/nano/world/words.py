"""The things nano's small world is made of, and which of them are kept out of training.

A thing (a city, a name, a number) belongs to exactly one split, decided by a hash of its text, so that a held-out
question is always about things that training never named. Made-up words keep the model from learning names by heart:
what it has not seen it must copy from the conversation.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = [
    "SPLITS",
    "Split",
    "draw",
    "glued",
    "made_up",
    "made_up_ar",
    "made_up_zh",
    "pick",
    "scrap",
    "split_of",
    "templates",
    "wrapped",
]

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_BEFORE = (
    "Hi, ",
    "Hello! ",
    "Please: ",
    "OK, ",
    "Now, ",
    "Quick question: ",
    "Hey, ",
    "So, ",
    "Next: ",
    "Well, ",
)
_AFTER = (
    " Thanks.",
    " Thank you!",
    " Thanks!",
    " I am curious.",
    " It is urgent.",
    " Be quick.",
    " Just asking.",
)


def wrapped(rng: random.Random, phrasing: str) -> str:
    """Put a word before or after a phrasing, or write it a little differently, as people do.

    Args:
        rng: Where chance comes from.
        phrasing: A question whose ``{places}`` are not filled yet, so that no name loses its capital letter.
    """
    before, after, lower = 0.15, 0.15, 0.1
    lowered = phrasing if phrasing.startswith("I ") else phrasing[0].lower() + phrasing[1:]
    if rng.random() < before:
        opening = rng.choice(_BEFORE)
        phrasing = opening + (phrasing if opening.endswith(("! ", ": ")) else lowered)
    elif rng.random() < lower:
        phrasing = lowered
    return phrasing + (rng.choice(_AFTER) if rng.random() < after else "")


_ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z".split()
_VOWELS = "a e i o u ai ea ee ia io oa ou".split()
_CODAS = "b ck d l ll m n nd ng nt r rd rk rn s ss st t th x".split()


def split_of(thing: str) -> Split:
    """Return the one split that may name ``thing``: eight parts in ten train, one valid, one test."""
    part = hashlib.sha256(thing.encode()).digest()[0] % 10
    return "test" if part == 0 else "valid" if part == 1 else "train"


def draw(make: Callable[[], str], split: Split) -> str:
    """Call ``make`` until it gives a thing that ``split`` may name."""
    while True:
        thing = make()
        if split_of(thing) == split:
            return thing


def pick(rng: random.Random, things: Sequence[str], split: Split) -> str:
    """Draw one of ``things`` that belongs to ``split``."""
    allowed = [thing for thing in things if split_of(thing) == split]
    return rng.choice(allowed or list(things))


def templates(things: Sequence[str], split: Split) -> Sequence[str]:
    """Return the phrasings of a list that ``split`` may use.

    The first third, the commonest ways to say it, is always trained on. Of the others a hash gives one to valid and
    one to test. Lists shorter than four are too short to keep anything from training and are shared by all.
    """
    least = 4
    if len(things) < least:
        return things
    common = max(2, len(things) // 3)
    rest = sorted(things[common:], key=lambda thing: hashlib.sha256(f"phrasing/{thing}".encode()).digest())
    return {"train": [*things[:common], *rest[:-2]], "valid": rest[-2:-1], "test": rest[-1:]}[split]


@cache
def _tokens() -> tuple[str, ...]:
    """Return every token of nano's vocabulary that is written in Latin letters."""
    from kimi_nb.nano.vocab import vocabulary

    ordinary = vocabulary().tokens[: vocabulary().first_special]
    return tuple(token for token in ordinary if token.isascii() and token.isalpha())


def glued(rng: random.Random, pieces: tuple[int, int] = (2, 4)) -> str:
    """Return tokens of the vocabulary glued together, so that every token is met, and learnt to be copied."""
    return "".join(rng.choice(_tokens()) for _ in range(rng.randint(*pieces)))


def made_up(rng: random.Random, split: Split, *, syllables: tuple[int, int] = (2, 3)) -> str:
    """Return a word that means nothing, in lower case: pronounceable, such as ``brenlith``, or glued tokens."""
    share_glued = 0.4

    def word() -> str:
        if rng.random() < share_glued:
            return glued(rng, (2, 1 + syllables[1])).lower()
        parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(*syllables))]
        return "".join(parts) + rng.choice(_CODAS)

    return draw(word, split)


def scrap(rng: random.Random, split: Split) -> str:
    """Return a piece of text as programs hold it: capitals, digits, underscores, such as ``Pro_27-ablex``."""

    def text() -> str:
        parts = [
            rng.choice((glued(rng, (1, 2)), glued(rng, (1, 3)).upper(), glued(rng, (1, 2)).capitalize(), str(rng.randint(0, 9999))))
            for _ in range(rng.randint(1, 3))
        ]  # fmt: skip
        return rng.choice(("_", "-", ".", "", "/")).join(parts)

    return draw(text, split)


_HAN = "山河海天地日月星云风雨雪花草木石金水火土东西南北中大小长高新安平和明光春秋江湖林田州城门桥龙马鱼鸟红白青黄"
_ARABIC = "ا ب ت ج ح د ر ز س ش ص ط ع ف ق ك ل م ن ه و ي".split()


def made_up_zh(rng: random.Random, split: Split) -> str:
    """Return two or three Chinese characters that name no place."""
    return draw(lambda: "".join(rng.choice(_HAN) for _ in range(rng.choice([2, 2, 3]))), split)


def made_up_ar(rng: random.Random, split: Split) -> str:
    """Return three to six Arabic letters that name no place."""
    return draw(lambda: "".join(rng.choice(_ARABIC) for _ in range(rng.randint(3, 6))), split)


CITIES = (
    "Oslo Rome Paris Berlin Madrid Lisbon Vienna Prague Warsaw Athens Dublin Helsinki Stockholm Copenhagen Brussels "
    "Amsterdam Zurich Geneva Milan Naples Turin Lyon Nice Porto Seville Valencia Munich Hamburg Cologne Krakow "
    "Budapest Bucharest Sofia Belgrade Zagreb Riga Vilnius Tallinn Kyiv Istanbul Ankara Cairo Tunis Rabat Algiers "
    "Nairobi Lagos Accra Dakar Kampala Lusaka Harare Durban Pretoria Beirut Amman Baghdad Doha Dubai Muscat Riyadh "
    "Tehran Kabul Karachi Lahore Delhi Mumbai Chennai Kolkata Dhaka Colombo Bangkok Hanoi Manila Jakarta Singapore "
    "Taipei Seoul Busan Tokyo Osaka Kyoto Nagoya Sapporo Beijing Shanghai Shenzhen Chengdu Wuhan Nanjing Harbin "
    "Sydney Perth Brisbane Melbourne Auckland Toronto Montreal Vancouver Calgary Ottawa Boston Chicago Denver Dallas "
    "Houston Austin Seattle Portland Phoenix Miami Atlanta Lima Bogota Quito Santiago Caracas Havana Cusco Recife"
).split()
CITIES_ZH = "北京 上海 深圳 成都 武汉 南京 杭州 西安 重庆 天津 广州 青岛 厦门 东京 首尔 巴黎 伦敦 罗马 柏林 纽约".split()
CITIES_AR = "القاهرة الرياض دبي بيروت عمان بغداد الدوحة تونس الرباط دمشق مسقط الكويت باريس روما لندن".split()
PEOPLE = (
    "Ada Alan Alice Amir Ana Anton Ben Bruno Carla Chen Clara Daniel Diego Elena Emma Eric Farid Felix Fatima George "
    "Grace Hana Hugo Ines Ivan Jana Jonas Julia Karim Kenji Lara Leo Lina Luca Maya Mei Milo Nadia Nina Noah Olga "
    "Omar Paula Pavel Priya Ravi Rosa Sami Sara Sofia Tariq Theo Tomas Uma Vera Victor Wei Yara Yusuf Zoe"
).split()
SKIES = "sun|clouds|light rain|heavy rain|snow|fog|wind|a clear sky|thunder|drizzle|hail|light snow".split(
    "|"
)
CODE_VERBS = "parse load save read write build check make find merge split open close send fetch sort pack scan".split()
CODE_NOUNS = (
    "header config model token cache plan server log key file shard tensor layer batch prompt chat tool user route "
    "index graph image queue event state report table row page order"
).split()
FOLDERS = "src lib app core tools utils server model plan chat engine tests docs api web data".split()
TOPICS = (
    "chess music gardens robots trains volcanoes whales comets bridges bread tea clocks maps poetry wind bees coral "
    "rivers stars football coffee forests castles glaciers desert painting sailing"
).split()
UNITS = (
    ("km", "miles"), ("miles", "km"), ("kg", "pounds"), ("pounds", "kg"), ("litres", "gallons"), ("feet", "metres"),
    ("metres", "feet"), ("inches", "cm"), ("cm", "inches"), ("ounces", "grams"), ("grams", "ounces"),
)  # fmt: skip
CURRENCIES = "EUR USD GBP JPY CHF CNY INR SEK NOK PLN CAD AUD".split()
LANGUAGES = "French German Spanish Italian Chinese Arabic Japanese Korean Dutch Polish Turkish Greek".split()
