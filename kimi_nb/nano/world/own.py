"""Questions for the four sample tools that this package brings, declared as :mod:`kimi_nb.chat.sample_tools` does.

The declarations are written out here, as training needs nothing but numpy and PyTorch;
``tests/test_nano_training.py`` holds them to the real ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.asks import ASKS
from kimi_nb.nano.world.families import FAMILIES, any_identifier, any_path, code_line
from kimi_nb.nano.world.faults import fault
from kimi_nb.nano.world.phrasing import Phrasings
from kimi_nb.nano.world.sample import Message, Sample, as_text, call, result, said
from kimi_nb.nano.world.strange import any_family
from kimi_nb.nano.world.words import draw, made_up

if TYPE_CHECKING:
    import random

    from kimi_nb.nano.world.families import Arguments
    from kimi_nb.nano.world.words import Split

__all__ = ["ANSWERED", "ASKED", "DECLARED", "own"]

_Told = tuple[Any, str, tuple[str, ...]]


def _declare(name: str, about: str, required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"additionalProperties": False, "properties": properties, "type": "object"}
    if required:
        parameters["required"] = required
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


DECLARED = {
    "calculator": _declare(
        "calculator",
        "Compute an arithmetic expression exactly.",
        ["expression"],
        expression={
            "description": "Numbers, + - * / // % **, brackets, pi, e, and sqrt, exp, log, log2, log10, sin, cos, tan, "
            "floor, ceil, abs, min, max, round. Example: (3 + 4) * sqrt(2)",
            "type": "string",
        },
    ),
    "clock": _declare(
        "clock",
        "Tell the date and time now.",
        [],
        zone={
            "default": "UTC",
            "description": "A time zone by its IANA name, such as Europe/Rome.",
            "type": "string",
        },
    ),
    "code_search": _declare(
        "code_search",
        "Find the lines of the project's files that contain a text, upper and lower case alike.",
        ["text"],
        text={"description": "What to look for, literally.", "type": "string"},
        files={
            "default": "*",
            "description": "Only in files whose path matches, such as *.py or src/*.",
            "type": "string",
        },
        max_results={"default": 20, "description": "The most lines to return, up to 100.", "type": "integer"},
    ),
    "read_file": _declare(
        "read_file",
        "Read some lines of one of the project's files.",
        ["path"],
        path={
            "description": "The file, relative to the project's folder, as code_search names it.",
            "type": "string",
        },
        first_line={
            "default": 1,
            "description": "The first line to read, counted from 1.",
            "type": "integer",
        },
        last_line={"default": 200, "description": "The last line to read.", "type": "integer"},
    ),
}
ASKED = {
    "calculator": replace(ASKS["calculate"], key="own.calculator"),
    "clock": replace(ASKS["clock"], key="own.clock", asks=(*ASKS["clock"].asks, *ASKS["clock"].asks,
        "What is the time in the( time|) zone {city}?", "(Time|Date) in( the zone|) {city}?", "What (day|date) is it in {city}?", "Which (day|date) is it( now|) in {city}?")),
    "now": Phrasings("own.now", asks=(
        "What time is it?", "What is the( exact|) time( now|)?", "How late is it( now|)?", "(What|Which) day is it( today|)?", "What is the date( today|)?", "The time(, please.|?)", "Date and time(, please.|?)", "What's the (time|date)( now|)?", "Is it (late|early)( now|)?",
        "Do you know (the|what) time( it is|)?", "What does the clock say( now|)?", "Do you have a clock? What does it say?", "Is it evening( now|)?", "Has the day begun?", "What year is it?"),
        things=("the (time|date|day)", "the current (time|date)", "the time and the date", "today's date"), clauses=("what time it is( now|)", "how late it is", "what day it is( today|)"),
        orders=("look at the clock", "check the (time|clock|date)", "say what time it is", "tell me the time and the date", "read the clock")),
    "code_search": replace(ASKS["code"], key="own.code_search", asks=(*ASKS["code"].asks,
        "Where in the project is {query}?", "Is {query} (used|defined) in the project?", "Which files of the project have {query}?", "Is there a {query} in the (code|source)?", "Do you see any {query} in the code?")),
    "files": Phrasings("own.files", asks=(
        "Where is {0}( defined|) in {1}?", "In {1}, where is {0}?", "{0} in {1}: where?", "{0}: where is it in {1}?", "Is {0} (used |defined |)in {1}?", "Which {1} files have {0}?", "Is there {0} in (any |){1}( files|)?", "In {1} files, (which line has|where do I find) {0}?",
        "Do you see {0} in {1}?", "Does anything in {1} (use|define) {0}?", "In {1} (only|files): (find|search for|look for) {0}.", "Only {1}: search for {0}."),
        things=("{0} in {1}( files|)", "the lines (with|of) {0} in {1}", "{0}, only in {1}", "the {1} files that have {0}"), clauses=("where {0} is in {1}", "which {1} files have {0}"),
        orders=("search {1} for {0}", "find {0} in {1}( files| only|)", "look for {0} in {1}( only| files|)", "find {0}, only in {1}", "look through {1} for {0}", "search (only |){1} files for {0}", "search the files {1} for {0}", "grep {1} for {0}")),
    "read_file": replace(ASKS["file"], key="own.read_file"),
    "lines": Phrasings("own.lines", asks=(
        "Lines {1} to {2} of {0}(?|, please.|.)", "What is in( the file|) {0} from line {1} to( line|) {2}?", "{0}, lines {1} to {2}(?|, please.|.)", "{0}: (read lines|lines|show me lines|what is in lines) {1} to {2}(.|?)", "What do lines {1} to {2} of {0} say?", "In {0}, what is (in|on) lines {1} to {2}?",
        "From line {1} to line {2}: read {0}.", "Of {0}, only lines {1} to {2}, please.", "What does {0} say (in|on) lines {1} to {2}?", "Lines {1} to {2}: read them in {0}."),
        things=("lines {1} (to|through) {2} of( the file|) {0}", "the lines {1} to {2} in {0}", "{0} from line {1} to( line|) {2}", "{0}, lines {1} to {2} only"), clauses=("what is in {0} from line {1} to {2}", "what lines {1} to {2} of {0} say"),
        orders=("(read|open|print|show me|get|load) lines {1} to {2} (of|in)( the file|) {0}", "(read|load|print) {0} from line {1} to( line|) {2}", "(read|open|print|show me) {0}, lines {1} to {2}( only|)", "read {0}, from line {1} to {2}")),
}  # fmt: skip
ANSWERED = frozenset({"calculate", "clock", "code", "file", "convert", "money"})
"""Families of tools for whose questions one of the four may do as well."""

_NOUNS = {
    own: next(family.noun for family in FAMILIES if family.key == key)
    for own, key in (
        ("calculator", "calculate"),
        ("clock", "clock"),
        ("code_search", "code"),
        ("read_file", "file"),
    )
}
_ZONES = ("Europe/Rome Europe/Oslo Europe/Paris Europe/Berlin Europe/London Africa/Cairo Africa/Lagos Asia/Tokyo Asia/Seoul Asia/Dubai "
          "Asia/Shanghai Asia/Kolkata America/Lima America/New_York America/Chicago Australia/Sydney UTC").split()  # fmt: skip
_REGIONS = ("Europe", "Asia", "Africa", "America", "Australia", "Pacific")


def own(rng: random.Random, split: Split) -> Sample:
    """Return a question that one of the four sample tools answers, or none does; their errors are Python's."""
    foreign = 0.25
    if rng.random() < foreign:
        return _of_another(rng, split)
    key = rng.choice(["calculator", "clock", "code_search", "read_file"])
    asked, arguments, answered = _QUESTIONS[key](rng, split)
    told, answer, must = answered
    failing = 0.12
    if arguments and rng.random() < failing:
        told, answer, must = fault(rng, split, key, arguments)
    offered = {key, *rng.sample(list(DECLARED), rng.choice([0, 1, 3, 3]))}
    thinking = rng.random() < 0.5
    messages: list[Message] = [
        {"role": "user", "content": asked},
        call(
            [(key, arguments)],
            thought=f"The user asks about {_NOUNS[key]}. I call {key}." if thinking else "",
        ),
        result(key, 0, as_text(rng, told)),
        said(answer, thought="I have the result." if thinking else ""),
    ]
    tools = [DECLARED[name] for name in rng.sample(list(DECLARED), len(DECLARED)) if name in offered]
    return Sample("tool.own", messages, tools, thinking, must)


def _of_another(rng: random.Random, split: Split) -> Sample:
    """Return a question that none of the four answers."""
    family = any_family(rng, split, odds=0.2, named=True)
    while family.key in ANSWERED:
        family = any_family(rng, split, odds=0.2, named=True)
    values = {name: slot.value(rng, split) for name, slot in family.slots.items()}
    thinking = rng.random() < 0.5
    thought = f"The user asks about {family.noun}. No tool does that." if thinking else ""
    messages: list[Message] = [
        {"role": "user", "content": family.asks(rng, split).format(**values)},
        said(f"I have no tool for {family.noun}.", thought=thought),
    ]
    tools = rng.sample(list(DECLARED.values()), rng.randint(1, len(DECLARED)))
    return Sample("tool.none", messages, tools, thinking, (f"no tool for {family.noun}",))


def _ask(rng: random.Random, split: Split, key: str, *values: object, **named: object) -> str:
    return ASKED[key](rng, split).format(*values, **named)


def _calculator(rng: random.Random, split: Split) -> tuple[str, Arguments, _Told]:
    def expression() -> str:
        a, b, c = (rng.randint(2, 999) for _ in range(3))
        sign, other = rng.choices(["+", "-", "*", "/", "%", "//"], k=2)
        return rng.choice([f"{a} {sign} {b}", f"{a} {sign} {b} {other} {c}", f"({a} {sign} {b}) {other} {c}", f"sqrt({a})",
                           f"{a % 20} ** {b % 12} + {c}", f"{a} * ({b} {sign} {c})", f"{a / 10} * {b}", f"round({a} / {b})",
                           f"max({a}, {b}, {c})", f"{a}{sign}{b}"])  # fmt: skip

    text = draw(expression, split)
    # Not the true value: the result is to be taken from the tool.
    value = str(
        rng.choice(
            [rng.randint(0, 99999), rng.randint(0, 999), round(rng.random() * 1000, rng.randint(1, 4))]
        )
    )
    return (
        _ask(rng, split, "calculator", expression=text),
        {"expression": text},
        (value, f"The result is {value}.", (value,)),
    )


def _clock(rng: random.Random, split: Split) -> tuple[str, Arguments, _Told]:
    time = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    date = f"{rng.randint(2024, 2035)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    unnamed = 0.25
    if rng.random() < unnamed:
        told = f"{date}T{time}:{rng.randint(0, 59):02d}+00:00"
        return _ask(rng, split, "now"), {}, (told, f"It is {time} UTC on {date}.", (time, date))
    zone = draw(
        lambda: (
            rng.choice(_ZONES)
            if rng.random() < 0.4
            else f"{rng.choice(_REGIONS)}/{made_up(rng, 'train').capitalize()}"
        ),
        split,
    )
    told = f"{date}T{time}:{rng.randint(0, 59):02d}{rng.choice('+-')}{rng.randint(0, 12):02d}:00"
    return (
        _ask(rng, split, "clock", city=zone),
        {"zone": zone},
        (told, f"It is {time} in {zone} on {date}.", (time, zone, date)),
    )


def _code_search(rng: random.Random, split: Split) -> tuple[str, Arguments, _Told]:
    name, nothing, narrowed = any_identifier(rng, split), 0.1, 0.25
    arguments: Arguments = {"text": name}
    asked = _ask(rng, split, "code_search", query=name)
    if rng.random() < narrowed:
        arguments["files"] = rng.choice(["*.py", "*.md", "*.js", "*.cpp", f"{rng.choice(words.FOLDERS)}/*"])
        asked = _ask(rng, split, "files", name, arguments["files"])
    arguments = dict(sorted(arguments.items(), key=lambda item: item[0] != "text"))
    if rng.random() < nothing:
        return asked, arguments, ("nothing found", f"I did not find {name}.", (f"not find {name}",))
    path, line = any_path(rng, split), rng.randint(1, 999)
    lines = [f"{path}:{line}: {code_line(rng, split, name)}"]
    for _ in range(rng.choice([0, 0, 1, 2])):
        use = rng.choice(
            [
                f"from {rng.choice(words.CODE_NOUNS)} import {name}",
                f"{rng.choice(words.CODE_NOUNS)} = {name}()",
            ]
        )
        lines.insert(rng.randint(0, len(lines)), f"{any_path(rng, split)}:{rng.randint(1, 999)}: {use}")
    return asked, arguments, ("\n".join(lines), f"{name} is in {path}, line {line}.", (path, str(line)))


def _read_file(rng: random.Random, split: Split) -> tuple[str, Arguments, _Told]:
    path, part = any_path(rng, split), 0.4
    arguments: Arguments = {"path": path}
    asked = _ask(rng, split, "read_file", path=path)
    first, count = 1, rng.randint(1, 3)
    if rng.random() < part:
        first = rng.randint(1, 400)
        arguments |= {"first_line": first, "last_line": first + count - 1}
        asked = _ask(rng, split, "lines", path, first, first + count - 1)
    lines = [
        code_line(rng, split, any_identifier(rng, split) if rng.random() < 0.4 else "") for _ in range(count)
    ]
    told = "\n".join(f"{number:5d}  {line}" for number, line in enumerate(lines, start=first))
    return asked, arguments, (told, f"{path}:\n" + "\n".join(lines), (path, *lines))


_QUESTIONS = {
    "calculator": _calculator,
    "clock": _clock,
    "code_search": _code_search,
    "read_file": _read_file,
}
