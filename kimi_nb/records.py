"""Strict records: frozen dataclasses to plain JSON values and back, naming the key that is wrong.

What a person may edit by hand (a machine file, a catalog entry) is read through here: a missing key, an
unknown one, a wrong type, a negative or infinite number are each said with the place they stand in, such as
``gpus[0].total_mib``.
"""

from __future__ import annotations

import json
import math
import stat
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RecordError", "from_plain", "read_json", "to_plain", "without_format"]

T = TypeVar("T")

_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    NoneType: "null",
}

_TOO_LARGE = 2**63
"""No size, count or rate comes near; numbers from here on are mistakes, and awkward for other programs."""

_LARGEST_FILE = 4 * 1024 * 1024
"""A record's file is a few KiB; what is larger than this is something else, such as a model."""


class RecordError(ValueError):
    """A value does not fit its record.

    Args:
        key: Where the value stands, as in ``gpus[0].total_mib``; empty for the whole.
        problem: What is wrong with it, as the end of a sentence that starts with the key.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key or 'the whole'} {problem}")
        self.key = key
        self.problem = problem


def read_json(path: Path, kind: str, *, error_id: str, fix: str) -> Any:
    """Return what the file of a record holds, as plain values.

    Args:
        path: The file.
        kind: What it should be, such as ``plan``.
        error_id: Of the error, if it cannot be read.
        fix: What to do then.

    Raises:
        UsageError: It cannot be read, or is not JSON.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            why = "it is not an ordinary file"
        elif status.st_size > _LARGEST_FILE:
            why = f"it is far too large to be a {kind}"
        else:
            return json.loads(path.read_bytes())
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, RecursionError):
        why = "it does not hold JSON"
    raise UsageError(error_id, f"the {kind} {path} could not be read", why=why, fix=fix)


def to_plain(value: Any) -> Any:
    """Turn a record into what :func:`json.dumps` takes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def without_format(value: Any, version: int) -> Any:
    """Check the version of a layout, which stands under ``format``, and take it off.

    Raises:
        RecordError: It is missing, or another one than ``version``.
    """
    if not isinstance(value, dict):
        return value
    given = value.get("format")
    if type(given) is not int or given != version:
        raise RecordError("format", f"must be {version}, but is {str(given)[:40]}")
    return {key: item for key, item in value.items() if key != "format"}


def from_plain(cls: type[T], value: Any, *, key: str = "") -> T:
    """Make a ``cls`` of a plain value.

    A field without a default must be there; every number must be finite and not negative, for records hold
    sizes, counts and rates.

    Raises:
        RecordError: The value does not fit, with the key that is wrong.
    """
    if not isinstance(value, dict):
        raise RecordError(key, f"must be an object, but is {_describe(value)}")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type] # callers pass dataclasses
    for name in value:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise RecordError(_join(key, str(name)), f"is not a key this version knows{hint}")
    hints = get_type_hints(cls)
    found = {}
    for name, field in known.items():
        if name in value:
            found[name] = _decode(hints[name], value[name], _join(key, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RecordError(_join(key, name), "is missing")
    return cls(**found)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _describe(value: Any) -> str:
    return next((text for kind, text in _KINDS.items() if isinstance(value, kind)), type(value).__name__)


def _decode(hint: Any, value: Any, key: str) -> Any:
    """Make of ``value`` what the annotation ``hint`` says."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        inner = next(arg for arg in args if arg is not NoneType)
        return None if value is None and NoneType in args else _decode(inner, value, key)
    if origin is Literal:
        return _choice(args, value, key)
    if origin is tuple:
        items = _container(list, value, key)
        return tuple(_decode(args[0], item, f"{key}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        items = _container(dict, value, key)
        return {str(name): _decode(args[1], item, _join(key, str(name))) for name, item in items.items()}
    if is_dataclass(hint):
        return from_plain(cast("type[Any]", hint), value, key=key)
    return value if hint is Any else _scalar(hint, value, key)


def _choice(allowed: tuple[Any, ...], value: Any, key: str) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise RecordError(key, f"must be one of {', '.join(allowed)}, but is {str(value)[:40]!r}")
    return value


def _container(kind: type, value: Any, key: str) -> Any:
    if not isinstance(value, kind):
        raise RecordError(key, f"must be {_KINDS[kind]}, but is {_describe(value)}")
    return value


def _scalar(hint: type[Any], value: Any, key: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < _TOO_LARGE else math.inf
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecordError(key, f"must be {_KINDS[hint]}, but is {_describe(value)}")
    if hint in {int, float} and not 0 <= value < _TOO_LARGE:
        raise RecordError(key, f"must be a number from 0 to less than 2^63, but is {value:.6g}")
    return value
