"""What tools can do: fifteen families, each with its names, arguments, phrasings and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.asks import ASKS
from kimi_nb.nano.world.words import Split, draw, made_up, ordinary, pick

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = [
    "FAMILIES",
    "Arguments",
    "Family",
    "Slot",
    "any_city",
    "any_identifier",
    "any_path",
    "code_line",
]

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """One argument: the names a declaration may give it, its JSON type, its description, how to draw a value."""

    names: tuple[str, ...]
    kind: str
    about: str
    value: Callable[[random.Random, Split], Any]
    optional: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One thing a tool can do.

    Attributes:
        names: Function names a declaration may use, without style (words joined by spaces).
        about: Descriptions a declaration may use.
        slots: Arguments, by the name the phrasings use.
        asks: Draws a phrasing of the question; ``{slot}`` is to be filled with the argument's value.
        answer: Draws a result and says the final answer: ``(rng, split, values) -> (result, answer, must_say)``.
        noun: What the tool looks up, for "I have no tool for ...".
    """

    key: str
    names: tuple[str, ...]
    about: tuple[str, ...]
    slots: dict[str, Slot]
    asks: Callable[[random.Random, Split], str]
    answer: Callable[[random.Random, Split, Arguments], tuple[Any, str, tuple[str, ...]]]
    noun: str


def any_city(rng: random.Random, split: Split) -> str:
    """Return a city, half of the time one that does not exist; names of two words and with accents among them.

    There are few such names, so in training some are made up as well.
    """
    if split == "train" and rng.random() < 0.12:
        return words.long_name(rng, split)
    chance, known, long = rng.random(), 0.4, 0.5
    if chance < known:
        return pick(rng, words.CITIES, split)
    if chance < long:
        return pick(rng, words.CITIES_LONG, split)
    return made_up(rng, split).capitalize()


def _person(rng: random.Random, split: Split) -> str:
    return pick(rng, words.PEOPLE, split) if rng.random() < 0.6 else made_up(rng, split).capitalize()


def _topic(rng: random.Random, split: Split) -> str:
    chance, common, plain = rng.random(), 0.3, 0.7
    if chance < common:
        return pick(rng, words.TOPICS, split)
    return ordinary(rng, split) if chance < plain else made_up(rng, split)


def _number(low: int, high: int) -> Callable[[random.Random, Split], int]:
    return lambda rng, split: int(draw(lambda: str(rng.randint(low, high)), split))


def any_identifier(rng: random.Random, split: Split) -> str:
    """Return the name of a function."""

    def name() -> str:
        noun = rng.choice(words.CODE_NOUNS) if rng.random() < 0.7 else made_up(rng, split, syllables=(1, 2))
        return f"{rng.choice(words.CODE_VERBS)}_{noun}"

    return draw(name, split)


def any_path(rng: random.Random, split: Split) -> str:
    """Return the path of a source file."""

    def name() -> str:
        stem = rng.choice(words.CODE_NOUNS) if rng.random() < 0.6 else made_up(rng, split, syllables=(1, 2))
        return f"{rng.choice(words.FOLDERS)}/{stem}.{rng.choice(['py', 'py', 'cpp', 'md', 'rs', 'js'])}"

    return draw(name, split)


_TYPES = (
    "str",
    "int",
    "Path",
    "float",
    "bool",
    "list[str]",
    "dict[str, int]",
    "None",
    "Any",
    "Token",
    "Plan",
    "Build | None",
)


def code_line(rng: random.Random, split: Split, name: str = "") -> str:
    """Return a line of Python: the definition of ``name``, or any other line."""
    if name:
        given = ", ".join(
            f"{rng.choice(words.CODE_NOUNS)}: {rng.choice(_TYPES)}" for _ in range(rng.randint(0, 2))
        )
        return rng.choice([f"def {name}({given}) -> {rng.choice(_TYPES)}:", f"def {name}({given}):", f"def {name}(",
                           f"def {name}(): return {rng.choice(words.CODE_NOUNS)}", f"class {name}:"])  # fmt: skip
    noun, other = rng.choice(words.CODE_NOUNS), any_identifier(rng, split)
    return rng.choice([f"import {noun}", f"from {noun} import {other}", f"{noun} = {other}({rng.randint(0, 999)})",
                       f"return {other}({noun})", f"if {noun} is None:", f"# {noun}: {ordinary(rng, split)}",
                       f"{other}({noun}, {rng.choice(words.CODE_NOUNS)})", f"for {noun} in {other}():"])  # fmt: skip


def _code(rng: random.Random, split: Split) -> str:
    return draw(
        lambda: "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(rng.randint(3, 4))), split
    )


def _order(rng: random.Random, split: Split) -> str:
    return draw(lambda: f"{rng.choice('ABCDKNRX')}{rng.randint(100, 9999)}", split)


def _language(rng: random.Random, split: Split) -> str:
    if rng.random() < 0.4:
        return pick(rng, words.LANGUAGES, split)
    return made_up(rng, split).capitalize() + rng.choice(["ish", "ian", "ese", ""])


def _phrase(rng: random.Random, split: Split) -> str:
    return " ".join(_topic(rng, split) for _ in range(rng.choice([1, 1, 2, 2, 2, 3])))


def _sum(rng: random.Random, split: Split) -> str:
    def text() -> str:
        parts = [str(rng.randint(2, 9999)) for _ in range(rng.choice([2, 2, 3]))]
        return f" {rng.choice('+-*')} ".join(parts) if len(parts) == 2 else " + ".join(parts)

    return draw(text, split)


def _answer_weather(rng: random.Random, _split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
    degrees, sky = rng.randint(-20, 42), rng.choice(words.SKIES)
    told: Any = rng.choice(
        [
            {"temp_c": degrees, "sky": sky},
            {"city": values["city"], "temperature": degrees, "conditions": sky},
            {"weather": sky, "celsius": degrees},
            {"temp_c": degrees, "sky": sky, "wind_kmh": rng.randint(0, 90), "humidity": rng.randint(5, 99)},
            f"{sky}, {degrees} C",
        ]
    )
    return told, f"In {values['city']} it is {degrees} °C with {sky}.", (str(degrees), sky)


def _answer_code(rng: random.Random, split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
    name, nothing = values["query"], 0.08
    if rng.random() < nothing:
        told: Any = rng.choice(
            [[], {"matches": []}, "nothing found", "no matches", {"results": [], "count": 0}]
        )
        return told, f"I did not find {name} in the code.", (f"not find {name}",)
    path, line = any_path(rng, split), rng.randint(1, 999)
    shown = code_line(rng, split, name)
    told = rng.choice(
        [
            [{"file": path, "line": line}],
            {"matches": [{"path": path, "line": line}]},
            {"matches": [{"path": path, "line": line, "text": shown}], "count": 1},
            f"{path}:{line}: def {name}",
            f"{path}:{line}: {shown}",
        ]
    )
    return told, f"{name} is in {path}, line {line}.", (path, str(line))


def _answer_file(rng: random.Random, split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
    path, cut = values["path"], 0.2
    lines = [
        code_line(rng, split, any_identifier(rng, split) if rng.random() < 0.5 else "")
        for _ in range(rng.randint(1, 3))
    ]
    text = "\n".join(lines)
    told: Any
    if rng.random() < cut:
        length = rng.randint(9000, 99999)
        missing = rng.randint(1000, length - 200)
        marker = f"[... {missing} of {length} characters left out ...]"
        told = f"{text}\n{marker}\n{code_line(rng, split)}"
        return (
            told,
            f"{path} is long: {missing} of {length} characters were left out. It begins:\n{text}",
            (path, str(missing), text),
        )
    told = {"path": path, "text": text} if len(lines) == 1 and rng.random() < 0.3 else text
    return told, f"{path}:\n{text}", (path, text)


def _value(key: str, low: int, high: int, say: str) -> Callable[[random.Random, Split, Arguments], Any]:
    def answer(rng: random.Random, _split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
        number = rng.randint(low, high)
        told: Any = rng.choice(
            [{key: number}, {"result": number}, {"value": number}, str(number), {"ok": True, key: number}]
        )
        return told, say.format(number, **values), (str(number),)

    return answer


def _done(say: str, field: str = "id") -> Callable[[random.Random, Split, Arguments], Any]:
    def answer(rng: random.Random, split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
        mark = _order(rng, split)
        told: Any = [{field: mark, "ok": True}, {"status": "done", field: mark}, {field: mark}][
            rng.randrange(3)
        ]
        return told, say.format(mark, **values), (mark,)

    return answer


def _text(key: str, say: str, what: Callable[[random.Random, Split], str]) -> Callable[..., Any]:
    def answer(rng: random.Random, split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
        word = what(rng, split)
        told: Any = [{key: word}, {"result": word}, word, {"data": {key: word}}][rng.randrange(4)]
        return told, say.format(word, **values), (word,)

    return answer


def _clock(rng: random.Random, _split: Split) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


FAMILIES = (
    Family("weather", ("get weather", "weather", "current weather", "weather lookup", "fetch weather", "weather now",
                       "city weather", "weather report"),
           ("Get the weather of a city", "Current weather for a place", "Look up the weather", "Weather in a city now"),
           {"city": Slot(("city", "location", "place", "town", "where"), "string", "name of the city", any_city)},
           ASKS["weather"], _answer_weather, "the weather"),
    Family("code", ("search code", "code search", "find code", "grep code", "search repo", "find symbol", "code lookup"),
           ("Search the code base for files and functions", "Search the source code", "Find a name in the code",
            "Look for text in the repository"),
           {"query": Slot(("query", "q", "text", "name", "pattern", "symbol"), "string", "what to look for", any_identifier)},
           ASKS["code"], _answer_code, "the code"),
    Family("calculate", ("calculate", "calculator", "calc", "compute", "evaluate", "do math"),
           ("Calculate an expression", "Evaluate arithmetic", "A calculator", "Compute a sum exactly"),
           {"expression": Slot(("expression", "expr", "formula", "input", "sum"), "string", "arithmetic to evaluate", _sum)},
           ASKS["calculate"], _value("answer", 5, 99999, "The result is {0}."), "sums"),
    Family("convert", ("convert units", "unit converter", "convert", "to unit", "change units"),
           ("Convert a value from one unit to another", "Convert units", "Change a value to another unit"),
           {"value": Slot(("value", "amount", "number", "quantity"), "number", "the value", _number(2, 5000)),
            "source": Slot(("from_unit", "from", "source", "unit_in"), "string", "unit of the value",
                           lambda rng, _s: rng.choice(words.UNITS)[0]),
            "target": Slot(("to_unit", "to", "target", "unit_out"), "string", "unit to convert to",
                           lambda rng, _s: rng.choice(words.UNITS)[1])},
           ASKS["convert"], _value("converted", 1, 99999, "{value} {source} is {0} {target}."), "unit conversion"),
    Family("money", ("convert currency", "exchange", "currency", "exchange money", "fx convert"),
           ("Convert money from one currency to another", "Exchange money", "Currency conversion"),
           {"amount": Slot(("amount", "value", "sum", "money"), "number", "how much money", _number(2, 9000)),
            "source": Slot(("from_currency", "from", "base", "source"), "string", "currency code to convert from",
                           lambda rng, _s: rng.choice(words.CURRENCIES[:6])),
            "target": Slot(("to_currency", "to", "quote", "target"), "string", "currency code to convert to",
                           lambda rng, _s: rng.choice(words.CURRENCIES[6:]))},
           ASKS["money"], _value("converted", 1, 99999, "{amount} {source} is {0} {target}."), "currencies"),
    Family("clock", ("get time", "time", "current time", "local time", "clock", "time in city"),
           ("Get the local time of a city", "What time it is somewhere", "Current time in a place"),
           {"city": Slot(("city", "place", "zone", "location", "where"), "string", "name of the city", any_city)},
           ASKS["clock"], _text("time", "It is {0} in {city}.", _clock), "the time"),
    Family("mail", ("send email", "email", "send mail", "mail", "write email"),
           ("Send an email", "Send a message by email", "Mail a person"),
           {"to": Slot(("to", "recipient", "person", "name"), "string", "who gets it", _person),
            "subject": Slot(("subject", "title", "topic", "about"), "string", "what it is about", _phrase)},
           ASKS["mail"], _done("I sent the email to {to} about {subject}. Its id is {0}."), "email"),
    Family("ticket", ("create ticket", "open ticket", "new ticket", "add issue", "create issue", "file bug"),
           ("Create a ticket", "Open an issue in the tracker", "File a new ticket"),
           {"title": Slot(("title", "summary", "subject", "name"), "string", "short title", _phrase),
            "priority": Slot(("priority", "level", "urgency"), "string", "how urgent",
                             lambda rng, _s: rng.choice(["low", "medium", "high"]), choices=("low", "medium", "high"))},
           ASKS["ticket"], _done("I created the ticket {0}: {title}, {priority} priority."), "tickets"),
    Family("timer", ("set timer", "timer", "start timer", "set alarm", "countdown"),
           ("Set a timer", "Start a timer for some minutes", "Count down minutes"),
           {"minutes": Slot(("minutes", "duration", "length", "mins"), "integer", "how many minutes", _number(1, 240))},
           ASKS["timer"], _done("The timer for {minutes} minutes is set. Its id is {0}."), "timers"),
    Family("stock", ("get stock price", "stock price", "stock", "share price", "quote", "get quote"),
           ("Get the price of a stock", "Price of a share", "Look up a stock symbol"),
           {"symbol": Slot(("symbol", "ticker", "stock", "code"), "string", "the stock symbol", _code)},
           ASKS["stock"], _value("price", 1, 2000, "{symbol} is at {0}."), "stocks"),
    Family("order", ("order status", "track order", "get order", "where is order", "check order"),
           ("Get the status of an order", "Track an order", "Look up an order by its number"),
           {"order": Slot(("order_id", "order", "number", "id"), "string", "the order number", _order)},
           ASKS["order"], _text("status", "Order {order}: {0}.",
                 lambda rng, _s: rng.choice(["packed", "sent", "delivered", "on its way", "cancelled", "waiting"])),
           "orders"),
    Family("translate", ("translate", "translate text", "translator", "to language"),
           ("Translate text into a language", "Translate a word", "Turn text into another language"),
           {"text": Slot(("text", "phrase", "input", "words"), "string", "what to translate", _phrase),
            "language": Slot(("language", "target", "to", "lang"), "string", "language to translate to",
                             _language)},
           ASKS["translate"], _text("translation", "In {language}: {0}.", made_up), "translation"),
    Family("person", ("find person", "phone book", "get contact", "find contact", "lookup person", "contact"),
           ("Find a person's phone number", "Look up a contact", "Phone number of a person"),
           {"name": Slot(("name", "person", "who", "contact"), "string", "the person's name", _person)},
           ASKS["person"], _value("phone", 10000, 999999, "The number of {name} is {0}."), "phone numbers"),
    Family("file", ("read file", "open file", "cat file", "show file", "get file", "file read", "load file"),
           ("Read a file", "Show a file's text", "Return the text of a file", "Read one of the project's files"),
           {"path": Slot(("path", "file", "filename", "name"), "string", "the file's path", any_path)},
           ASKS["file"], _answer_file, "files"),
    Family("news", ("get news", "news", "headlines", "search news", "latest news"),
           ("Get news about a topic", "Latest headlines on a topic", "Search the news"),
           {"topic": Slot(("topic", "query", "subject", "about"), "string", "the topic", _topic)},
           ASKS["news"], _text("headline", "The latest about {topic}: {0}.", _phrase), "news"),
)  # fmt: skip
