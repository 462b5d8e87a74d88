"""The kinds of option that llama.cpp's programs take: what each accepts, and how it is written."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Choice", "Flag", "JsonObject", "Knob", "Number", "Numbers", "Switch", "Text", "Texts"]

#: llama.cpp reads numbers into a C int, and would wrap or refuse what does not fit.
INT_MAX = 2**31 - 1


@dataclass(frozen=True)
class Knob:
    """One option of llama.cpp; the kinds below say what it takes.

    Args:
        flag: Its long name on the command line.
        about: One line for ``--help``.
    """

    flag: str
    about: str

    #: What stands for the value in a help text.
    placeholder = "TEXT"

    def check(self, value: Any) -> Any:
        """Return ``value`` in its normal form.

        Raises:
            ValueError: It is not something this option takes; the message says what it takes.
        """
        return self._check(value)

    def from_text(self, text: str) -> Any:
        """Read a value as it was typed on a command line.

        Raises:
            ValueError: As from :meth:`check`.
        """
        return self._check(self._read(text))

    def argv(self, value: Any) -> list[str]:
        """Return the words that set this option to a checked value."""
        return [self.flag, self._write(value)]

    def _check(self, value: Any) -> Any:
        raise NotImplementedError

    def _read(self, text: str) -> Any:
        return text

    def _write(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Number(Knob):
    """A whole number within bounds, or one of a few words."""

    low: int = 0
    high: int = INT_MAX
    words: tuple[str, ...] = ()

    placeholder = "N"

    def _check(self, value: Any) -> int | str:
        if isinstance(value, str) and value in self.words:
            return value
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or not self.low <= number <= self.high:
            top = "up" if self.high == INT_MAX and (number or 0) < self.high else f"to {self.high}"
            raise ValueError(", or ".join([f"it takes a whole number from {self.low} {top}", *self.words]))
        return number

    def _read(self, text: str) -> Any:
        try:
            return int(text)
        except ValueError:
            return text  # refused later, where llama.cpp would read "8k" as 8 and say nothing


@dataclass(frozen=True)
class Choice(Knob):
    """One of a few words."""

    words: tuple[str, ...] = ()

    placeholder = "WORD"

    def _check(self, value: Any) -> str:
        if isinstance(value, bool):
            value = "on" if value else "off"  # YAML turns an unquoted on into true
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"it takes one of {', '.join(self.words)}")
        return value


@dataclass(frozen=True)
class Switch(Knob):
    """Something that is on or off; llama.cpp has a flag for each."""

    placeholder = ""

    def argv(self, value: Any) -> list[str]:
        """Return the flag that turns it on, or the one that turns it off."""
        return [self.flag if value else "--no-" + self.flag.removeprefix("--")]

    def _check(self, value: Any) -> bool:
        if value is not True and value is not False:
            raise ValueError("it takes true or false")
        return value


@dataclass(frozen=True)
class Flag(Switch):
    """Something that llama.cpp can only be told to turn on."""

    def argv(self, value: Any) -> list[str]:
        """Return the flag that turns it on, or nothing."""
        return [self.flag] if value else []


@dataclass(frozen=True)
class Numbers(Knob):
    """Several numbers that are not negative, one for each device."""

    whole: bool = False

    placeholder = "A,B,..."

    def _check(self, value: Any) -> tuple[float, ...]:
        items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
        numbers = [item for item in items if isinstance(item, int if self.whole else (int, float))]
        good = all(not isinstance(item, bool) and 0 <= item < INT_MAX for item in numbers)
        if not numbers or not good or len(numbers) != len(items) or not (self.whole or any(numbers)):
            kind = "whole numbers" if self.whole else "numbers, not all of them zero"
            raise ValueError(f"it takes a list of {kind}, one for each device")
        return tuple(numbers)

    def _read(self, text: str) -> Any:
        try:
            return [int(word) if self.whole else float(word) for word in text.split(",")]
        except ValueError:
            return text

    def _write(self, value: Any) -> str:
        return ",".join(repr(number) for number in value)


@dataclass(frozen=True)
class Text(Knob):
    """A text, such as a path or a device's name."""

    def _check(self, value: Any) -> str:
        text = value if isinstance(value, str) else str(value) if hasattr(value, "__fspath__") else ""
        if not text or "\0" in text:
            raise ValueError("it takes a text that is not empty")
        return text


@dataclass(frozen=True)
class Texts(Knob):
    """Several texts of the form ``left=right``, which llama.cpp splits at commas."""

    placeholder = "RE=BUF,..."

    def _check(self, value: Any) -> tuple[str, ...]:
        texts = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
        if not texts:
            raise ValueError("it takes a list of texts such as 'exps=CPU'")
        for text in texts:
            left, equals, right = text.partition("=") if isinstance(text, str) else ("", "", "")
            if not (left and equals and right):
                raise ValueError(f"{text!r} is not of the form 'exps=CPU': a regular expression and a buffer")
            if "," in text:
                raise ValueError(f"{text!r} has a comma, at which llama.cpp would split it in two")
        return texts

    def _read(self, text: str) -> Any:
        return text.split(",")

    def _write(self, value: Any) -> str:
        return ",".join(value)  # given twice, llama.cpp warns that only the last would count


@dataclass(frozen=True)
class JsonObject(Knob):
    """A JSON object."""

    placeholder = "JSON"

    def _check(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError('it takes an object such as {"thinking": false}')
        try:
            return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"it cannot be written as JSON: {error}") from None

    def _read(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _write(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)
