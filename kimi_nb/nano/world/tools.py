"""Questions that need a tool: one call, parallel calls, two steps, errors, and no suitable tool.

A family is one thing a tool can do. Its function and parameter names, its description and the shape of its result are
drawn anew for every conversation, so that nano must read the declarations instead of learning names by heart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.families import FAMILIES, Arguments, Family, any_city, any_path
from kimi_nb.nano.world.sample import Message, Sample, call, result, said
from kimi_nb.nano.world.words import Split, draw, made_up, made_up_ar, made_up_zh, pick, templates, wrapped

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["FAMILIES", "TOOLS", "Family", "Offer"]

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
                schema["description"] = slot.about
            properties[self.arguments[slot_name]] = schema
        required = list(properties)
        if rng.random() < 0.25:
            extra, schema = rng.choice(_EXTRAS)
            properties.setdefault(extra, schema)
        function: dict[str, Any] = {
            "name": self.name,
            "parameters": {"type": "object", "properties": properties, "required": required},
        }
        if rng.random() < 0.9:
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
    thinking = rng.random() < 0.5
    if not thinking:
        messages = [{**m, "reasoning_content": ""} if m["role"] == "assistant" else m for m in messages]
    tools = [offer.declaration for offer in offers]
    rng.shuffle(tools)
    return Sample(kind, messages, tools, thinking, must)


def _question(rng: random.Random, split: Split, family: Family, values: Arguments) -> str:
    return wrapped(rng, rng.choice(templates(family.asks, split))).format(**values)


def single(rng: random.Random, split: Split) -> Sample:
    """Return a question that one call answers; now and then the tool fails and its error is told."""
    family = rng.choice(FAMILIES)
    offers = _offers(rng, split, family)
    offer = offers[0]
    values = offer.values(rng, split)
    told, answer, must = family.answer(rng, split, values)
    kind = "tool.single"
    if rng.random() < 0.12:
        fault = rng.choice(
            ["not found", "timeout", "service down", "no access", "rate limit", "unknown value"]
        )
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
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
        },
    }
    values = offer.values(rng, split)
    path, line = any_path(rng, split), rng.randint(1, 999)
    text = f"def {values['query']}(): return {rng.choice(words.CODE_NOUNS)}"
    found = [[{"file": path, "line": line}], {"matches": [{"path": path, "line": line}]}][rng.randrange(2)]
    messages = [
        {
            "role": "user",
            "content": wrapped(rng, rng.choice(templates(_CHAIN, split))).format(values["query"]),
        },
        call(
            [offer.call(values)],
            thought=f"First I find {values['query']} with {offer.name}, then I read the file.",
        ),
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


_WEATHER_ZH = (
    "{0}天气怎么样？",
    "{0}今天天气如何？",
    "请告诉我{0}的天气。",
    "查一下{0}的天气。",
    "{0}现在冷吗？",
    "今天{0}天气怎么样？",
    "请查一下{0}的天气。",
    "{0}现在天气怎么样？",
)
_WEATHER_AR = ("كيف الطقس في {0}؟", "ما حال الطقس في {0}؟", "أخبرني عن الطقس في {0}.", "هل الجو بارد في {0}؟",
               "ما الطقس اليوم في {0}؟", "كيف الجو في {0}؟", "كيف الطقس اليوم في {0}؟", "ما الطقس في {0}؟",
               "كيف حال الطقس في {0}؟")  # fmt: skip


def foreign(rng: random.Random, split: Split) -> Sample:
    """Return a weather question in Chinese or Arabic, answered in the same language."""
    chinese = rng.random() < 0.5
    family = FAMILIES[0]
    offers = _offers(rng, split, family, others=rng.choice([0, 1, 2]))
    offer = offers[0]
    if rng.random() < 0.3:
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
                [offer.call(values)],
                first=number,
                thought=f"The user asks about {family.noun}. I call {offer.name}.",
            ),
            result(offer.name, number, told),
            said(answer, thought="I have the result."),
        ]
    return _sample("tool.again", rng, offers, messages, *must)


def mixed(rng: random.Random, split: Split) -> Sample:
    """Return a question that takes calls of two different tools at once."""
    weather, clock = (
        next(family for family in FAMILIES if family.key == key) for key in ("weather", "clock")
    )
    offers = _offers(rng, split, weather, clock)
    city = any_city(rng, split)
    told = [family.answer(rng, split, {"city": city}) for family in (weather, clock)]
    messages = [
        {"role": "user", "content": wrapped(rng, rng.choice(templates(_MIXED, split))).format(city)},
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
