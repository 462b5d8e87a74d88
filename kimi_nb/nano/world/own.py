"""Questions for the four sample tools that this package brings, declared as :mod:`kimi_nb.chat.sample_tools` does.

The declarations are written out here, as training needs nothing but numpy and PyTorch;
``tests/test_nano_training.py`` holds them to the real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.families import any_identifier, any_path, code_line
from kimi_nb.nano.world.faults import fault
from kimi_nb.nano.world.sample import Message, Sample, as_text, call, result, said
from kimi_nb.nano.world.words import draw, made_up, templates, wrapped

if TYPE_CHECKING:
    import random

    from kimi_nb.nano.world.families import Arguments
    from kimi_nb.nano.world.words import Split

__all__ = ["DECLARED", "own"]

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
_ASKS = {
    "calculator": ("What is {}?", "Calculate {}.", "Compute {}.", "How much is {}?", "Work out {}.", "{} = ?", "Use the calculator: {}.",
                   "I need {}.", "Please calculate {}.", "What does {} make?", "Tell me {}.", "What is the value of {}?"),
    "clock": ("What time is it in {}?", "Time in {}?", "Tell me the time in {}.", "What is the time in the zone {}?", "How late is it in {}?",
              "The time in {}, please.", "Date and time in {}?", "What time is it now in {}?", "Please tell me the time in {}."),
    "now": ("What time is it?", "What is the time?", "Tell me the time.", "How late is it?", "What day is it?", "The time, please.",
            "What time is it now?", "Please tell me the time.", "What is the date?"),
    "code_search": ("Where is {} defined?", "Where is {}?", "Find {} in the code.", "Search the code for {}.", "In which file is {}?",
                    "Look for {} in the code.", "Search for {}.", "Which file defines {}?", "Tell me where {} is.", "Find where {} is defined.",
                    "In which file is {} defined?", "Please find {} in the code."),
    "files": ("Where is {0} in {1}?", "Search {1} for {0}.", "Find {0} in {1} files.", "Look for {0} in {1} only.", "Search for {0} in {1}.",
              "Only in {1}: where is {0}?", "Find {0}, only in {1}.", "Please search {1} for {0}."),
    "read_file": ("Read {}.", "Show me {}.", "What is in {}?", "Open {}.", "Read the file {}.", "Open the file {}.", "Let me see {}.",
                  "Show the file {}.", "Please read {}.", "I want to see {}."),
    "lines": ("Read lines {1} to {2} of {0}.", "Show me lines {1} to {2} of {0}.", "Lines {1} to {2} of {0}?", "What is in {0} from line {1} to {2}?",
              "Show {0}, lines {1} to {2}.", "Open {0} from line {1} to line {2}.", "I need lines {1} to {2} of {0}.",
              "Please read {0}, lines {1} to {2}.", "Get lines {1} to {2} of {0}."),
}  # fmt: skip
_ZONES = ("Europe/Rome Europe/Oslo Europe/Paris Europe/Berlin Europe/London Africa/Cairo Africa/Lagos Asia/Tokyo Asia/Seoul Asia/Dubai "
          "Asia/Shanghai Asia/Kolkata America/Lima America/New_York America/Chicago Australia/Sydney UTC").split()  # fmt: skip
_REGIONS = ("Europe", "Asia", "Africa", "America", "Australia", "Pacific")


def own(rng: random.Random, split: Split) -> Sample:
    """Return a question that one of the four sample tools answers; its errors are Python's."""
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
        call([(key, arguments)], thought=f"I call {key}." if thinking else ""),
        result(key, 0, as_text(rng, told)),
        said(answer, thought="I have the result." if thinking else ""),
    ]
    tools = [DECLARED[name] for name in rng.sample(list(DECLARED), len(DECLARED)) if name in offered]
    return Sample("tool.own", messages, tools, thinking, must)


def _ask(rng: random.Random, split: Split, key: str, *values: object) -> str:
    return wrapped(rng, rng.choice(templates(_ASKS[key], split))).format(*values)


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
        _ask(rng, split, "calculator", text),
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
        _ask(rng, split, "clock", zone),
        {"zone": zone},
        (told, f"It is {time} in {zone} on {date}.", (time, zone, date)),
    )


def _code_search(rng: random.Random, split: Split) -> tuple[str, Arguments, _Told]:
    name, nothing, narrowed = any_identifier(rng, split), 0.1, 0.25
    arguments: Arguments = {"text": name}
    asked = _ask(rng, split, "code_search", name)
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
    asked = _ask(rng, split, "read_file", path)
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
