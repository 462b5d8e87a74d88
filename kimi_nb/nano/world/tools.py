"""Questions that need a tool: one call, parallel calls, two steps, errors, and no suitable tool.

A family is one thing a tool can do. Its function and parameter names, its description and the shape of its result are
drawn anew for every conversation, so that nano must read the declarations instead of learning names by heart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.sample import Message, Sample, call, result, said
from kimi_nb.nano.world.words import Split, draw, made_up, made_up_ar, made_up_zh, pick, templates, wrapped

__all__ = ["FAMILIES", "Family", "Offer", "TOOLS"]

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
        asks: Phrasings of the question; ``{slot}`` is filled with the argument's value.
        answer: Draws a result and says the final answer: ``(rng, split, values) -> (result, answer, must_say)``.
        noun: What the tool looks up, for "I have no tool for ...".
    """

    key: str
    names: tuple[str, ...]
    about: tuple[str, ...]
    slots: dict[str, Slot]
    asks: tuple[str, ...]
    answer: Callable[[random.Random, Split, Arguments], tuple[Any, str, tuple[str, ...]]]
    noun: str


def _city(rng: random.Random, split: Split) -> str:
    return pick(rng, words.CITIES, split) if rng.random() < 0.5 else made_up(rng, split).capitalize()


def _person(rng: random.Random, split: Split) -> str:
    return pick(rng, words.PEOPLE, split) if rng.random() < 0.6 else made_up(rng, split).capitalize()


def _topic(rng: random.Random, split: Split) -> str:
    return pick(rng, words.TOPICS, split) if rng.random() < 0.6 else made_up(rng, split)


def _number(low: int, high: int) -> Callable[[random.Random, Split], int]:
    return lambda rng, split: int(draw(lambda: str(rng.randint(low, high)), split))


def _identifier(rng: random.Random, split: Split) -> str:
    def name() -> str:
        noun = rng.choice(words.CODE_NOUNS) if rng.random() < 0.7 else made_up(rng, split, syllables=(1, 2))
        return f"{rng.choice(words.CODE_VERBS)}_{noun}"

    return draw(name, split)


def _path(rng: random.Random, split: Split) -> str:
    def name() -> str:
        stem = rng.choice(words.CODE_NOUNS) if rng.random() < 0.6 else made_up(rng, split, syllables=(1, 2))
        return f"{rng.choice(words.FOLDERS)}/{stem}.{rng.choice(['py', 'py', 'cpp', 'md', 'rs', 'js'])}"

    return draw(name, split)


def _code(rng: random.Random, split: Split) -> str:
    return draw(lambda: "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(rng.randint(3, 4))), split)


def _order(rng: random.Random, split: Split) -> str:
    return draw(lambda: f"{rng.choice('ABCDKNRX')}{rng.randint(100, 9999)}", split)


def _language(rng: random.Random, split: Split) -> str:
    if rng.random() < 0.4:
        return pick(rng, words.LANGUAGES, split)
    return made_up(rng, split).capitalize() + rng.choice(["ish", "ian", "ese", ""])


def _phrase(rng: random.Random, split: Split) -> str:
    return " ".join(_topic(rng, split) for _ in range(rng.randint(1, 2)))


def _sum(rng: random.Random, split: Split) -> str:
    def text() -> str:
        parts = [str(rng.randint(2, 9999)) for _ in range(rng.choice([2, 2, 3]))]
        return f" {rng.choice('+-*')} ".join(parts) if len(parts) == 2 else " + ".join(parts)  # noqa: PLR2004

    return draw(text, split)


def _answer_weather(rng: random.Random, _split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
    degrees, sky = rng.randint(-20, 42), rng.choice(words.SKIES)
    shape = rng.randrange(4)
    told: Any = [
        {"temp_c": degrees, "sky": sky},
        {"city": values["city"], "temperature": degrees, "conditions": sky},
        {"weather": sky, "celsius": degrees},
        f"{sky}, {degrees} C",
    ][shape]
    return told, f"In {values['city']} it is {degrees} °C with {sky}.", (str(degrees), sky)


def _answer_code(rng: random.Random, split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
    path, line = _path(rng, split), rng.randint(1, 999)
    told: Any = [
        [{"file": path, "line": line}],
        {"matches": [{"path": path, "line": line}]},
        f"{path}:{line}: def {values['query']}",
    ][rng.randrange(3)]
    return told, f"{values['query']} is in {path}, line {line}.", (path, str(line))


def _value(key: str, low: int, high: int, say: str) -> Callable[[random.Random, Split, Arguments], Any]:
    def answer(rng: random.Random, _split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
        number = rng.randint(low, high)
        told: Any = [{key: number}, {"result": number}, {"value": number}, str(number)][rng.randrange(4)]
        return told, say.format(number, **values), (str(number),)

    return answer


def _done(say: str, field: str = "id") -> Callable[[random.Random, Split, Arguments], Any]:
    def answer(rng: random.Random, split: Split, values: Arguments) -> tuple[Any, str, tuple[str, ...]]:
        mark = _order(rng, split)
        told: Any = [{field: mark, "ok": True}, {"status": "done", field: mark}, {field: mark}][rng.randrange(3)]
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
           {"city": Slot(("city", "location", "place", "town", "where"), "string", "name of the city", _city)},
           ("What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}?", "Is it warm in {city}?",
            "How warm is it in {city}?", "Tell me the weather in {city}.", "Weather for {city}, please.",
            "What is it like outside in {city}?", "Do I need a coat in {city}?", "Check the weather in {city}.",
            "What's the weather in {city} now?", "Please look up the weather in {city}.",
            "Can you tell me the weather in {city}?", "I am in {city}. How is the weather?",
            "Give me the weather in {city}.", "I need the weather in {city}.", "Show me the weather for {city}.", "What is the weather like in {city}?", "Please tell me how warm it is in {city}.", "Can you check the weather in {city}?"),
           _answer_weather, "the weather"),
    Family("code", ("search code", "code search", "find code", "grep code", "search repo", "find symbol", "code lookup"),
           ("Search the code base for files and functions", "Search the source code", "Find a name in the code",
            "Look for text in the repository"),
           {"query": Slot(("query", "q", "text", "name", "pattern", "symbol"), "string", "what to look for", _identifier)},
           ("Where is {query} defined?", "Find {query} in the code.", "Search the code for {query}.", "Where is {query}?",
            "In which file is {query}?", "Which file has {query}?", "Look for {query} in the code.",
            "Find the function {query}.", "Where in the code is {query}?", "Please find {query} in the source.",
            "Can you find {query} in the code?", "Show me where {query} is.",
            "Give me the file with {query}.", "I need to know where {query} is.", "Which file defines {query}?", "Search for {query}.", "Please look for {query} in the code.", "Can you search the code for {query}?"),
           _answer_code, "the code"),
    Family("calculate", ("calculate", "calculator", "calc", "compute", "evaluate", "do math"),
           ("Calculate an expression", "Evaluate arithmetic", "A calculator", "Compute a sum exactly"),
           {"expression": Slot(("expression", "expr", "formula", "input", "sum"), "string", "arithmetic to evaluate", _sum)},
           ("What is {expression}?", "Calculate {expression}.", "Compute {expression}.", "How much is {expression}?",
            "Please work out {expression}.", "Work out {expression} exactly.", "{expression} = ?", "I need {expression}.",
            "Can you calculate {expression}?", "Tell me what {expression} is.",
            "Give me {expression}.", "What does {expression} make?", "Use the calculator: {expression}.", "Please calculate {expression}.", "Can you work out {expression}?"),
           _value("answer", 5, 99999, "The result is {0}."), "sums"),
    Family("convert", ("convert units", "unit converter", "convert", "to unit", "change units"),
           ("Convert a value from one unit to another", "Convert units", "Change a value to another unit"),
           {"value": Slot(("value", "amount", "number", "quantity"), "number", "the value", _number(2, 5000)),
            "source": Slot(("from_unit", "from", "source", "unit_in"), "string", "unit of the value",
                           lambda rng, _s: rng.choice(words.UNITS)[0]),
            "target": Slot(("to_unit", "to", "target", "unit_out"), "string", "unit to convert to",
                           lambda rng, _s: rng.choice(words.UNITS)[1])},
           ("Convert {value} {source} to {target}.", "How many {target} are {value} {source}?",
            "What is {value} {source} in {target}?", "{value} {source} in {target}?", "Change {value} {source} to {target}.",
            "I have {value} {source}. How many {target} is that?", "Give me {value} {source} in {target}.",
            "Please convert {value} {source} to {target}.",
            "How much is {value} {source} in {target}?", "Turn {value} {source} into {target}.", "I need {value} {source} in {target}.", "Please give me {value} {source} in {target}.", "Can you convert {value} {source} to {target}?"),
           _value("converted", 1, 99999, "{value} {source} is {0} {target}."), "unit conversion"),
    Family("money", ("convert currency", "exchange", "currency", "exchange money", "fx convert"),
           ("Convert money from one currency to another", "Exchange money", "Currency conversion"),
           {"amount": Slot(("amount", "value", "sum", "money"), "number", "how much money", _number(2, 9000)),
            "source": Slot(("from_currency", "from", "base", "source"), "string", "currency code to convert from",
                           lambda rng, _s: rng.choice(words.CURRENCIES[:6])),
            "target": Slot(("to_currency", "to", "quote", "target"), "string", "currency code to convert to",
                           lambda rng, _s: rng.choice(words.CURRENCIES[6:]))},
           ("How much is {amount} {source} in {target}?", "Convert {amount} {source} to {target}.",
            "Exchange {amount} {source} for {target}.", "What are {amount} {source} worth in {target}?",
            "Change {amount} {source} into {target}.", "I have {amount} {source}. How much is it in {target}?",
            "Turn {amount} {source} into {target}.", "Give me {amount} {source} in {target}.",
            "What is {amount} {source} in {target}?", "I need {amount} {source} in {target}.", "{amount} {source} to {target}?", "Please convert {amount} {source} to {target}.", "Can you exchange {amount} {source} for {target}?"),
           _value("converted", 1, 99999, "{amount} {source} is {0} {target}."), "currencies"),
    Family("clock", ("get time", "time", "current time", "local time", "clock", "time in city"),
           ("Get the local time of a city", "What time it is somewhere", "Current time in a place"),
           {"city": Slot(("city", "place", "zone", "location", "where"), "string", "name of the city", _city)},
           ("What time is it in {city}?", "Time in {city}?", "Tell me the time in {city}.", "What is the time in {city}?",
            "How late is it in {city}?", "Local time in {city}, please.", "What time is it now in {city}?",
            "Please tell me the local time in {city}.", "Can you give me the time in {city}?",
            "Give me the time in {city}.", "I need the time in {city}.", "Which time is it in {city}?", "Please tell me the time in {city}.", "Can you tell me what time it is in {city}?"),
           _text("time", "It is {0} in {city}.", _clock), "the time"),
    Family("mail", ("send email", "email", "send mail", "mail", "write email"),
           ("Send an email", "Send a message by email", "Mail a person"),
           {"to": Slot(("to", "recipient", "person", "name"), "string", "who gets it", _person),
            "subject": Slot(("subject", "title", "topic", "about"), "string", "what it is about", _phrase)},
           ("Send {to} an email about {subject}.", "Email {to} about {subject}.", "Write to {to} about {subject}.",
            "Mail {to} about {subject}.", "Please send an email to {to} about {subject}.",
            "Send a mail to {to} about {subject}.", "I want to email {to} about {subject}.",
            "Can you email {to} about {subject}?",
            "{to} needs an email about {subject}.", "Let {to} know about {subject} by email.", "Please mail {to} about {subject}.", "Can you send {to} an email about {subject}?"),
           _done("I sent the email to {to} about {subject}. Its id is {0}."), "email"),
    Family("ticket", ("create ticket", "open ticket", "new ticket", "add issue", "create issue", "file bug"),
           ("Create a ticket", "Open an issue in the tracker", "File a new ticket"),
           {"title": Slot(("title", "summary", "subject", "name"), "string", "short title", _phrase),
            "priority": Slot(("priority", "level", "urgency"), "string", "how urgent",
                             lambda rng, _s: rng.choice(["low", "medium", "high"]), choices=("low", "medium", "high"))},
           ("Create a {priority} priority ticket: {title}.", "Open a ticket with {priority} priority: {title}.",
            "New ticket, {priority} priority: {title}.", "File a {priority} priority ticket about {title}.",
            "I need a ticket about {title} with {priority} priority.", "Make a {priority} priority ticket for {title}.",
            "Please open a {priority} priority ticket about {title}.",
            "Give me a {priority} priority ticket about {title}.", "Can you open a {priority} priority ticket: {title}?", "Please create a {priority} priority ticket: {title}.", "I need a {priority} priority ticket: {title}."),
           _done("I created the ticket {0}: {title}, {priority} priority."), "tickets"),
    Family("timer", ("set timer", "timer", "start timer", "set alarm", "countdown"),
           ("Set a timer", "Start a timer for some minutes", "Count down minutes"),
           {"minutes": Slot(("minutes", "duration", "length", "mins"), "integer", "how many minutes", _number(1, 240))},
           ("Set a timer for {minutes} minutes.", "Timer: {minutes} minutes.", "Start a {minutes} minute timer.",
            "Remind me in {minutes} minutes.", "Wake me in {minutes} minutes.", "Count down {minutes} minutes.",
            "Please set a timer of {minutes} minutes.", "I need a timer for {minutes} minutes.",
            "Give me a timer of {minutes} minutes.", "Timer for {minutes} minutes, please.", "Please start a {minutes} minute timer.", "Can you set a timer for {minutes} minutes?"),
           _done("The timer for {minutes} minutes is set. Its id is {0}."), "timers"),
    Family("stock", ("get stock price", "stock price", "stock", "share price", "quote", "get quote"),
           ("Get the price of a stock", "Price of a share", "Look up a stock symbol"),
           {"symbol": Slot(("symbol", "ticker", "stock", "code"), "string", "the stock symbol", _code)},
           ("What is the stock price of {symbol}?", "Price of {symbol} stock?", "How is {symbol} trading?",
            "Look up the stock {symbol}.", "What does a share of {symbol} cost?", "Stock price of {symbol}, please.",
            "How much is one share of {symbol}?", "Check the {symbol} stock.",
            "Give me the price of {symbol}.", "I need the stock price of {symbol}.", "Please look up the stock {symbol}.", "Can you tell me the stock price of {symbol}?"),
           _value("price", 1, 2000, "{symbol} is at {0}."), "stocks"),
    Family("order", ("order status", "track order", "get order", "where is order", "check order"),
           ("Get the status of an order", "Track an order", "Look up an order by its number"),
           {"order": Slot(("order_id", "order", "number", "id"), "string", "the order number", _order)},
           ("Where is my order {order}?", "What is the status of order {order}?", "Track order {order}.",
            "Check order {order}.", "Has order {order} been sent?", "Status of order {order}, please.",
            "Look up order {order}.", "When will order {order} arrive?",
            "Give me the status of order {order}.", "I need the status of {order}.", "Please track order {order}.", "Can you check my order {order}?"),
           _text("status", "Order {order}: {0}.",
                 lambda rng, _s: rng.choice(["packed", "sent", "delivered", "on its way", "cancelled", "waiting"])),
           "orders"),
    Family("translate", ("translate", "translate text", "translator", "to language"),
           ("Translate text into a language", "Translate a word", "Turn text into another language"),
           {"text": Slot(("text", "phrase", "input", "words"), "string", "what to translate", _phrase),
            "language": Slot(("language", "target", "to", "lang"), "string", "language to translate to",
                             _language)},
           ("Translate {text} into {language}.", "How do you say {text} in {language}?", "What is {text} in {language}?",
            "{text} in {language}?", "Say {text} in {language}.", "Put {text} into {language}.",
            "Please translate {text} to {language}.", "Give me {text} in {language}.",
            "I need {text} in {language}.", "Translate {text} to {language}.", "Please say {text} in {language}.", "Can you translate {text} into {language}?"),
           _text("translation", "In {language}: {0}.", made_up), "translation"),
    Family("person", ("find person", "phone book", "get contact", "find contact", "lookup person", "contact"),
           ("Find a person's phone number", "Look up a contact", "Phone number of a person"),
           {"name": Slot(("name", "person", "who", "contact"), "string", "the person's name", _person)},
           ("What is the phone number of {name}?", "Find the number of {name}.", "How do I reach {name}?",
            "Give me the phone number of {name}.", "Look up {name} in the phone book.", "I want to call {name}.",
            "Phone number of {name}, please.", "Can you find the phone number of {name}?",
            "Tell me how to reach {name}.", "I need the phone number of {name}.", "Please find the number of {name}.", "Can you give me the number of {name}?"),
           _value("phone", 10000, 999999, "The number of {name} is {0}."), "phone numbers"),
    Family("news", ("get news", "news", "headlines", "search news", "latest news"),
           ("Get news about a topic", "Latest headlines on a topic", "Search the news"),
           {"topic": Slot(("topic", "query", "subject", "about"), "string", "the topic", _topic)},
           ("Any news about {topic}?", "What is new about {topic}?", "Show me news on {topic}.", "News about {topic}?",
            "Find news about {topic}.", "What are the headlines about {topic}?", "Tell me the latest about {topic}.",
            "Please get the news about {topic}.",
            "Give me the news about {topic}.", "I need news about {topic}.", "Please find the headlines about {topic}.", "Can you show me news about {topic}?"),
           _text("headline", "The latest about {topic}: {0}.", _phrase), "news"),
)  # fmt: skip

_EXTRAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("limit", {"type": "integer", "default": 10}),
    ("max_results", {"type": "integer", "default": 5, "description": "how many results at most"}),
    ("verbose", {"type": "boolean", "default": False}),
    ("format", {"type": "string", "enum": ["short", "long"]}),
    ("page", {"type": "integer", "minimum": 1}),
    ("hint", {"type": "string", "description": "anything that may help"}),
    ("timeout_s", {"type": "number", "default": 5}),
)
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


class Offer:
    """One family as one conversation declares it: its function name, argument names and JSON declaration."""

    def __init__(self, rng: random.Random, family: Family, split: Split) -> None:
        def name() -> str:
            extra = rng.choice(_VERSIONS) if rng.random() < 0.8 else made_up(rng, split, syllables=(1, 1))  # noqa: PLR2004
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
            if rng.random() < 0.7:  # noqa: PLR2004
                schema["description"] = slot.about
            properties[self.arguments[slot_name]] = schema
        required = list(properties)
        if rng.random() < 0.25:  # noqa: PLR2004 - an optional argument that nobody asked to set
            extra, schema = rng.choice(_EXTRAS)
            properties.setdefault(extra, schema)
        function: dict[str, Any] = {
            "name": self.name,
            "parameters": {"type": "object", "properties": properties, "required": required},
        }
        if rng.random() < 0.9:  # noqa: PLR2004
            function["description"] = rng.choice(family.about)
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


def _offers(rng: random.Random, split: Split, *wanted: Family, others: int | None = None) -> list[Offer]:
    rest = [family for family in FAMILIES if family not in wanted]
    count = rng.choice([0, 0, 1, 1, 2, 3]) if others is None else others
    offers = [Offer(rng, family, split) for family in (*wanted, *rng.sample(rest, count))]
    if len({offer.name for offer in offers}) < len(offers):
        return _offers(rng, split, *wanted, others=others)
    return offers


def _sample(
    kind: str, rng: random.Random, offers: Sequence[Offer], messages: list[Message], *must: str
) -> Sample:
    thinking = rng.random() < 0.5  # noqa: PLR2004
    if not thinking:
        messages = [{**m, "reasoning_content": ""} if m["role"] == "assistant" else m for m in messages]
    tools = [offer.declaration for offer in offers]
    rng.shuffle(tools)
    return Sample(kind, messages, tools, thinking, must)


def _question(rng: random.Random, split: Split, family: Family, values: Arguments) -> str:
    return wrapped(rng, rng.choice(templates(family.asks, split)).format(**values))


def single(rng: random.Random, split: Split) -> Sample:
    """Return a question that one call answers; now and then the tool fails and its error is told."""
    family = rng.choice(FAMILIES)
    offers = _offers(rng, split, family)
    offer = offers[0]
    values = offer.values(rng, split)
    told, answer, must = family.answer(rng, split, values)
    kind = "tool.single"
    if rng.random() < 0.12:  # noqa: PLR2004
        fault = rng.choice(["not found", "timeout", "service down", "no access", "rate limit", "unknown value"])
        told = [{"error": fault}, f"error: {fault}", {"ok": False, "error": fault}][rng.randrange(3)]
        answer, must, kind = f"The tool {offer.name} failed: {fault}.", (offer.name, fault), "tool.error"
    messages = [
        {"role": "user", "content": _question(rng, split, family, values)},
        call([offer.call(values)], thought=f"The user asks about {family.noun}. I call {offer.name}."),
        result(offer.name, 0, told),
        said(answer, thought="The tool failed. I say so." if kind == "tool.error" else "I have the result."),
    ]
    return _sample(kind, rng, offers, messages, *must)


_BOTH = {
    "weather": ("What is the weather in {0} and {1}?", "Compare the weather in {0} and {1}.", "Weather in {0} and in {1}?",
                "How is the weather in {0} and {1}?", "Is it warmer in {0} or in {1}?", "Check the weather in {0} and {1}.",
                "Give me the weather in {0} and {1}.", "Tell me the weather in {0} and {1}.",
                "Please check the weather in {0} and in {1}."),
    "clock": ("What time is it in {0} and {1}?", "Time in {0} and in {1}?", "Tell me the time in {0} and {1}.",
              "What is the time in {0} and in {1}?", "Local time in {0} and {1}, please.", "Give me the time in {0} and {1}.",
              "What is the time in {0} and {1}?", "Please tell me the time in {0} and in {1}."),
    "code": ("Where are {0} and {1} defined?", "Find {0} and {1} in the code.", "Search the code for {0} and {1}.",
             "In which files are {0} and {1}?", "Where in the code are {0} and {1}?", "Find the functions {0} and {1}.",
             "Search for {0} and {1} in the code.", "Please find {0} and {1} in the code."),
    "stock": ("What are the stock prices of {0} and {1}?", "Price of {0} and {1} stock?", "Look up the stocks {0} and {1}.",
              "How are {0} and {1} trading?", "Compare the stocks {0} and {1}.", "Check the {0} and {1} stocks.",
              "Give me the prices of {0} and {1}.", "What is the price of {0} and {1}?",
              "Please look up the stocks {0} and {1}."),
}  # fmt: skip


def parallel(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes two calls at once."""
    key = rng.choice(list(_BOTH))
    family = next(family for family in FAMILIES if family.key == key)
    offers = _offers(rng, split, family)
    offer = offers[0]
    (slot,) = family.slots
    first, second = offer.values(rng, split), offer.values(rng, split)
    while second == first:
        second = offer.values(rng, split)
    told = [family.answer(rng, split, values) for values in (first, second)]
    question = rng.choice(templates(_BOTH[key], split)).format(first[slot], second[slot])
    messages = [
        {"role": "user", "content": question},
        call(
            [offer.call(first), offer.call(second)],
            thought=f"The user asks about {family.noun} twice. I call {offer.name} for both.",
        ),
        result(offer.name, 0, told[0][0]),
        result(offer.name, 1, told[1][0]),
        said(f"{told[0][1]} {told[1][1]}", thought="I have both results."),
    ]
    return _sample("tool.parallel", rng, offers, messages, *told[0][2], *told[1][2])


_READ = ("read file", "open file", "cat file", "show file", "get file", "file read")
_CHAIN = ("Find {0} in the code and show me the file.", "Where is {0}? Read that file.", "Search for {0} and open its file.",
          "Find {0} and read the file it is in.", "Look for {0} in the code, then show the file.",
          "Open the file that has {0}.", "Show me the file with {0}.", "Search the code for {0} and read its file.",
          "Find {0} and show me its file.", "Please find {0} in the code and read the file.",
          "Look for {0} and open its file.")  # fmt: skip


def chain(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes two steps: find where a name is, then read that file."""
    search = next(family for family in FAMILIES if family.key == "code")
    offers = _offers(rng, split, search, others=rng.choice([0, 0, 1, 2]))
    offer = offers[0]
    reader = draw(lambda: _style(rng, f"{rng.choice(_READ)} {rng.choice(_VERSIONS)}".strip()), split)
    argument = rng.choice(["path", "file", "filename", "name"])
    declared = {
        "type": "function",
        "function": {
            "name": reader,
            "description": rng.choice(["Read a file", "Show a file's text", "Return the text of a file"]),
            "parameters": {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
        },
    }
    values = offer.values(rng, split)
    path, line = _path(rng, split), rng.randint(1, 999)
    text = f"def {values['query']}(): return {rng.choice(words.CODE_NOUNS)}"
    found = [[{"file": path, "line": line}], {"matches": [{"path": path, "line": line}]}][rng.randrange(2)]
    messages = [
        {"role": "user", "content": wrapped(rng, rng.choice(templates(_CHAIN, split)).format(values["query"]))},
        call([offer.call(values)], thought=f"First I find {values['query']} with {offer.name}, then I read the file."),
        result(offer.name, 0, found),
        call([(reader, {argument: path})], first=1, thought=f"It is in {path}. I read it with {reader}."),
        result(reader, 1, text),
        said(f"{values['query']} is in {path}:\n{text}", thought="I have the file."),
    ]
    sample = _sample("tool.chain", rng, offers, messages, path, text)
    tools = [*sample.tools, declared]
    rng.shuffle(tools)
    return Sample(sample.kind, sample.messages, tools, sample.thinking, sample.must_say)


def unsuitable(rng: random.Random, split: Split) -> Sample:
    """Return a question whose tool is missing: no tools at all, or only others."""
    family = rng.choice(FAMILIES)
    others = _offers(rng, split, family, others=rng.choice([0, 1, 2, 3]))
    missing, offers = others[0], others[1:]
    values = missing.values(rng, split)
    thought = f"The user asks about {family.noun}. No tool does that."
    messages = [
        {"role": "user", "content": _question(rng, split, family, values)},
        said(f"I have no tool for {family.noun}.", thought=thought),
    ]
    return _sample("tool.none", rng, offers, messages, f"no tool for {family.noun}")


_WEATHER_ZH = ("{0}天气怎么样？", "{0}今天天气如何？", "请告诉我{0}的天气。", "查一下{0}的天气。", "{0}现在冷吗？", "{0}的天气好吗？",
               "今天{0}天气怎么样？", "请查一下{0}的天气。", "{0}现在天气怎么样？")
_WEATHER_AR = ("كيف الطقس في {0}؟", "ما حال الطقس في {0}؟", "أخبرني عن الطقس في {0}.", "هل الجو بارد في {0}؟",
               "ما الطقس اليوم في {0}؟", "كيف الجو في {0}؟", "كيف الطقس اليوم في {0}؟", "ما الطقس في {0}؟",
               "كيف حال الطقس في {0}؟")  # fmt: skip


def foreign(rng: random.Random, split: Split) -> Sample:
    """Return a weather question in Chinese or Arabic, answered in the same language."""
    chinese = rng.random() < 0.5  # noqa: PLR2004
    family = FAMILIES[0]
    offers = _offers(rng, split, family, others=rng.choice([0, 1, 2]))
    offer = offers[0]
    if rng.random() < 0.3:  # noqa: PLR2004
        city = pick(rng, words.CITIES_ZH if chinese else words.CITIES_AR, split)
    else:
        city = made_up_zh(rng, split) if chinese else made_up_ar(rng, split)
    degrees = rng.randint(-20, 42)
    answer = f"{city}现在 {degrees} °C。" if chinese else f"الحرارة في {city} الآن {degrees} °C."
    question = rng.choice(templates(_WEATHER_ZH if chinese else _WEATHER_AR, split)).format(city)
    messages = [
        {"role": "user", "content": question},
        call([offer.call({"city": city})], thought=f"The user asks about the weather. I call {offer.name}."),
        result(offer.name, 0, {"temp_c": degrees}),
        said(answer, thought="I have the result."),
    ]
    return _sample("tool.foreign", rng, offers, messages, str(degrees), city)


def again(rng: random.Random, split: Split) -> Sample:
    """Return two questions to one tool, one after the other: the ids of the calls count on."""
    family = rng.choice(FAMILIES)
    offers = _offers(rng, split, family)
    offer = offers[0]
    messages: list[Message] = []
    for number in range(2):
        values = offer.values(rng, split)
        told, answer, must = family.answer(rng, split, values)
        messages += [
            {"role": "user", "content": _question(rng, split, family, values)},
            call(
                [offer.call(values)], first=number, thought=f"The user asks about {family.noun}. I call {offer.name}."
            ),
            result(offer.name, number, told),
            said(answer, thought="I have the result."),
        ]
    return _sample("tool.again", rng, offers, messages, *must)


def mixed(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes calls of two different tools at once."""
    weather, clock = (next(family for family in FAMILIES if family.key == key) for key in ("weather", "clock"))
    offers = _offers(rng, split, weather, clock)
    city = _city(rng, split)
    told = [family.answer(rng, split, {"city": city}) for family in (weather, clock)]
    messages = [
        {"role": "user", "content": wrapped(rng, rng.choice(templates(_MIXED, split)).format(city))},
        call(
            [offer.call({"city": city}) for offer in offers[:2]],
            thought=f"The user asks about the weather and the time. I call {offers[0].name} and {offers[1].name}.",
        ),
        result(offers[0].name, 0, told[0][0]),
        result(offers[1].name, 1, told[1][0]),
        said(f"{told[0][1]} {told[1][1]}", thought="I have both results."),
    ]
    return _sample("tool.mixed", rng, offers, messages, *told[0][2], *told[1][2])


_MIXED = ("What are the weather and the time in {0}?", "Weather and time in {0}?", "Tell me the weather and time in {0}.",
          "What is the weather in {0}, and what time is it there?", "Time and weather in {0}, please.",
          "Give me the weather and the time in {0}.", "Please tell me the weather and the time in {0}.")  # fmt: skip

TOOLS = {single: 14, parallel: 4, chain: 4, unsuitable: 5, foreign: 3, again: 2, mixed: 2}
