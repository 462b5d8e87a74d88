"""The things nano's small world is made of, and which of them are kept out of training.

A thing (a city, a name, a number) belongs to exactly one split, decided by a hash of its text, so that a held-out
question is always about things that training never named. Made-up words keep the model from learning names by heart:
what it has not seen it must copy from the conversation.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = [
    "SPLITS",
    "Split",
    "draw",
    "glued",
    "long_name",
    "made_up",
    "made_up_ar",
    "made_up_zh",
    "ordinary",
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
_POLITE = (
    "Could you {}?",
    "Would you {}, please?",
    "I want you to {}.",
    "I would like you to {}.",
    "Will you {}?",
    "You should {}.",
)
_ORDERS = frozenset(
    "Add Calculate Change Check Compare Compute Convert Count Create Echo Email Exchange Explain File Find Get Give Join List "
    "Look Mail Make Name Open Put Quote Read Repeat Say Search Send Separate Set Show Start Tell Track Translate Turn Work "
    "Wrap Write".split()
)
"""Verbs that begin an order, which can be put politely as well."""


def wrapped(rng: random.Random, phrasing: str) -> str:
    """Put a word before or after a phrasing, or write it a little differently, as people do.

    Args:
        rng: Where chance comes from.
        phrasing: A question whose ``{places}`` are not filled yet, so that no name loses its capital letter.
    """
    before, after, lower, polite = 0.15, 0.15, 0.1, 0.15
    if phrasing.endswith(".") and phrasing.split(maxsplit=1)[0] in _ORDERS and rng.random() < polite:
        phrasing = rng.choice(_POLITE).format(phrasing[0].lower() + phrasing[1:-1])
    lowered = phrasing if phrasing.startswith(("I ", "{")) else phrasing[0].lower() + phrasing[1:]
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
    return rng.choice(_allowed(tuple(things), split))


@cache
def _allowed(things: tuple[str, ...], split: Split) -> tuple[str, ...]:
    return tuple(thing for thing in things if split_of(thing) == split) or things


def templates(things: Sequence[str], split: Split) -> Sequence[str]:
    """Return the phrasings of a list that ``split`` may use.

    The first third, the commonest ways to say it, is always trained on. Of the others a hash gives one to valid and
    one to test, and of long lists a second one to test, which is asked half as often as the first. Lists shorter than
    four are too short to keep anything from training and are shared by all.
    """
    least, long = 4, 9
    if len(things) < least:
        return things
    common = max(2, len(things) // 3)
    rest = sorted(things[common:], key=lambda thing: hashlib.sha256(f"phrasing/{thing}".encode()).digest())
    kept, second = (rest[:-3], rest[-3:-2]) if len(things) >= long else (rest[:-2], [])
    tested = [*rest[-1:] * 2, *second] if second else rest[-1:]
    return {"train": [*things[:common], *kept], "valid": rest[-2:-1], "test": tested}[split]


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


_ACCENTS = str.maketrans("aeioucnlsz", "ãéîøüçñłśž")
_PARTS = ("San ", "Santa ", "New ", "Port ", "El ", "La ", "Los ", "St. ", "Rio de ", "Al-", "Old ", "Cape ")


def long_name(rng: random.Random, split: Split) -> str:
    """Return a name of a place as some are: of two or three words, or with an accent or two."""

    def part() -> str:
        word = made_up(rng, split, syllables=(1, 2))
        if rng.random() < 0.4:
            place = rng.randrange(len(word))
            word = word[:place] + word[place:].translate(_ACCENTS)[:1] + word[place + 1 :]
        return word.capitalize()

    def name() -> str:
        before = rng.choice(_PARTS) if rng.random() < 0.3 else ""
        return before + " ".join(part() for _ in range(1 if before else rng.choice([1, 2, 2, 2, 3])))

    return draw(name, split)


def scrap(rng: random.Random, split: Split) -> str:
    """Return a piece of text as programs hold it: capitals, digits, underscores, such as ``Pro_27-ablex``."""

    def text() -> str:
        parts = [
            rng.choice((glued(rng, (1, 2)), glued(rng, (1, 3)).upper(), glued(rng, (1, 2)).capitalize(), str(rng.randint(0, 9999))))
            for _ in range(rng.randint(1, 3))
        ]  # fmt: skip
        return rng.choice(("_", "-", ".", "", "/")).join(parts)

    return draw(text, split)


@cache
def _ordinary() -> tuple[str, ...]:
    text = files("kimi_nb.nano").joinpath("data", "corpus.txt").read_text(encoding="utf-8")
    section = text.partition("== words\n")[2].partition("\n== ")[0].split()
    least = 5
    # A word that introduces something would make the question ambiguous: "email Ada about about".
    return tuple(sorted({word for word in section if len(word) >= least} - _INTRODUCING))


_INTRODUCING = frozenset("about above after again against along another around because before below between during "
                         "email emails exactly french german language languages phrase please priority since thank thanks "
                         "their there these those through toward translate under until where which while within".split())  # fmt: skip


def ordinary(rng: random.Random, split: Split) -> str:
    """Return a common English word."""
    return pick(rng, _ordinary(), split)


_HAN = "山河海天地日月星云风雨雪花草木石金水火土东西南北中大小长高新安平和明光春秋江湖林田州城门桥龙马鱼鸟红白青黄"
_ARABIC = "ا ب ت ث ج ح خ د ذ ر ز س ش ص ض ط ظ ع غ ف ق ك ل م ن ه و ي ة أ إ آ ى".split()


def _common_han(rng: random.Random) -> str:
    """Return one of the 3,755 characters that GB 2312 calls the common ones."""
    return bytes((rng.randint(0xB0, 0xD6), rng.randint(0xA1, 0xFE))).decode("gb2312")


def made_up_zh(rng: random.Random, split: Split) -> str:
    """Return two to four Chinese characters that name no place, rarer ones among them."""
    rare = 0.5

    def name() -> str:
        count = rng.choice([2, 2, 2, 3, 3, 4])
        return "".join(_common_han(rng) if rng.random() < rare else rng.choice(_HAN) for _ in range(count))

    return draw(name, split)


def made_up_ar(rng: random.Random, split: Split) -> str:
    """Return three to seven Arabic letters that name no place, now and then with the article, or two such words."""

    def word() -> str:
        article = "ال" if rng.random() < 0.3 else ""
        return article + "".join(rng.choice(_ARABIC) for _ in range(rng.randint(3, 6)))

    return draw(lambda: f"{word()} {word()}" if rng.random() < 0.15 else word(), split)


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
CITIES_LONG = (
    "New York|Los Angeles|San Francisco|Mexico City|Buenos Aires|Rio de Janeiro|Cape Town|New Delhi|Hong Kong|Tel Aviv|"
    "Kuala Lumpur|Abu Dhabi|Addis Ababa|Salt Lake City|Port Louis|San Diego|Las Vegas|La Paz|Santa Fe|Novi Sad|"
    "São Paulo|Zürich|Malmö|Málaga|Kraków|Göteborg|Łódź|Córdoba|Düsseldorf|Québec|Bogotá|Nîmes|Køge|Ålesund"
).split("|")
CITIES_ZH = (
    "北京 上海 深圳 成都 武汉 南京 杭州 西安 重庆 天津 广州 青岛 厦门 东京 首尔 巴黎 伦敦 罗马 柏林 纽约 苏州 宁波 沈阳 哈尔滨 郑州 "
    "福州 昆明 贵阳 合肥 济南 长沙 南昌 太原 兰州 拉萨 银川 无锡 烟台 珠海 桂林 洛阳 扬州 绍兴 海口 三亚 香港 澳门 台北 大阪 京都 "
    "曼谷 河内 新加坡 悉尼 墨尔本 莫斯科 马德里 维也纳 布拉格 雅典 开罗 多伦多 芝加哥 波士顿 旧金山"
).split()
CITIES_AR = (
    "القاهرة الرياض دبي بيروت عمان بغداد الدوحة تونس الرباط دمشق مسقط الكويت باريس روما لندن جدة مكة المدينة حلب البصرة "
    "الموصل صنعاء عدن الخرطوم طرابلس بنغازي الجزائر وهران فاس مراكش أغادير طنجة الإسكندرية الأقصر أسوان القدس غزة "
    "المنامة الشارقة إسطنبول أنقرة طهران برلين مدريد فيينا أثينا موسكو طوكيو بكين"
).split()
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
