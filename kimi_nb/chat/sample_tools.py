"""Four tools to try a tool loop with: a calculator, the time, and search and reading below one folder.

None of them can do harm: nothing is written, nothing is run, and nothing outside the given folder is seen.
"""

from __future__ import annotations

import ast
import fnmatch
import math
import operator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kimi_nb.chat.confined import Confined
from kimi_nb.chat.functions import Tool, tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["calculate", "calculator", "clock", "code_search", "file_reader", "sample_tools"]

_MOST_TEXT = 500
_MOST_BITS = 4096
_SEARCHED_BYTES = 1_000_000
_READ_BYTES = 200_000
_LINE_CHARS = 300

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_MATH = ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "floor", "ceil")
_FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(math, name) for name in _MATH} | {
    "abs": abs,
    "min": min,
    "max": max,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


def calculate(expression: str) -> int | float:
    """Return the value of an arithmetic expression; sizes are bounded, and nothing else is understood.

    Raises:
        ValueError: It is not such an expression, or its value is too large.
    """
    if len(expression) > _MOST_TEXT:
        raise ValueError(f"the expression has more than {_MOST_TEXT} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("this is not an arithmetic expression") from None
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"it has no value: {error}") from None
    return value


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _bounded(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            first, second = _value(left), _value(right)
            whole = isinstance(first, int) and isinstance(second, int)
            # Looked at before it is computed: the power alone could take all memory.
            if whole and isinstance(op, ast.Pow) and int(first).bit_length() * second > _MOST_BITS:
                raise ValueError("the power is too large")
            return _bounded(_BINARY[type(op)](first, second))
        case ast.Call(func=ast.Name(id="round"), args=[number], keywords=[]):
            # One argument only: round(5, -10**9) would compute 10**(10**9).
            return _bounded(round(_value(number)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, args)))
        case _:
            raise ValueError(f"{ast.unparse(node)[:60]!r} is not arithmetic")


def _bounded(value: Any) -> int | float:
    if isinstance(value, int) and value.bit_length() <= _MOST_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("a value is too large, or no real number")


@tool
def calculator(expression: str) -> str:
    """Compute an arithmetic expression exactly.

    Args:
        expression: Numbers, + - * / // % **, brackets, pi, e, and sqrt, exp, log, log2, log10, sin, cos, tan,
            floor, ceil, abs, min, max, round. Example: (3 + 4) * sqrt(2)
    """
    return str(calculate(expression))


@tool
def clock(zone: str = "UTC") -> str:
    """Tell the date and time now.

    Args:
        zone: A time zone by its IANA name, such as Europe/Rome.
    """
    try:
        return datetime.now(ZoneInfo(zone)).isoformat(timespec="seconds")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {zone!r}") from None


def code_search(root: str | Path) -> Tool:
    """Return a tool that searches the files below ``root`` for a text.

    It takes plain text and no regular expression: a hostile one can hold up Python for ever, past any time
    limit.
    """
    folder = Confined(root)

    @tool(name="code_search")
    def search(
        text: str,
        files: str = "*",
        max_results: int = 20,
    ) -> str:
        """Find the lines of the project's files that contain a text, upper and lower case alike.

        Args:
            text: What to look for, literally.
            files: Only in files whose path matches, such as *.py or src/*.
            max_results: The most lines to return, up to 100.
        """
        wanted = text.casefold()
        if not wanted.strip():
            raise ValueError("the text to look for is empty")
        most = min(max(max_results, 1), 100)
        found: list[str] = []
        for path, data in folder.files(_SEARCHED_BYTES):
            if not fnmatch.fnmatch(path, files) or b"\0" in data:
                continue
            for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
                if wanted in line.casefold():
                    if len(found) == most:
                        return "\n".join([*found, f"(more than {most} lines; ask for something narrower)"])
                    found.append(f"{path}:{number}: {line.strip()[:_LINE_CHARS]}")
        return "\n".join(found) or "nothing found"

    return search


def file_reader(root: str | Path) -> Tool:
    """Return a tool that reads one file below ``root``."""
    folder = Confined(root)

    @tool(name="read_file")
    def read(path: str, first_line: int = 1, last_line: int = 200) -> str:
        """Read some lines of one of the project's files.

        Args:
            path: The file, relative to the project's folder, as code_search names it.
            first_line: The first line to read, counted from 1.
            last_line: The last line to read.
        """
        if first_line < 1 or last_line < first_line:
            raise ValueError("first_line must be at least 1, and last_line not before it")
        data = folder.read(path, _READ_BYTES)
        if b"\0" in data:
            raise ValueError(f"{path!r} is not a text file")
        lines = data.decode(errors="replace").splitlines()
        chosen = lines[first_line - 1 : last_line]
        if not chosen:
            return f"{path} has {len(lines)} lines"
        return "\n".join(f"{number:5d}  {line}" for number, line in enumerate(chosen, start=first_line))

    return read


def sample_tools(root: str | Path) -> list[Tool]:
    """Return all four, the last two for the files below ``root``."""
    return [calculator, clock, code_search(root), file_reader(root)]
