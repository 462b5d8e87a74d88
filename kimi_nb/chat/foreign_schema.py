"""Hold arguments to a JSON schema that a stranger wrote.

A schema is a small program. A regular expression in it can hold up Python for ever, past any limit, since
nothing else runs meanwhile. References can point into each other until one check takes years. An address in
it could be fetched. So only schemas of bounded size and without any of that are taken.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from kimi_nb.chat.functions import ArgumentsError
from kimi_nb.chat.schemas import check_schema, no_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["foreign_check"]

_MOST_CHARS = 50_000
_MOST_PARTS = 5_000
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_VALUES = {"const", "default", "enum", "examples"}
_NAMED = {"properties", "$defs", "definitions", "dependentSchemas"}


def foreign_check(schema: Any, where: str) -> Callable[[str], dict[str, Any]]:
    """Return a function that turns a call's arguments, JSON text, into keyword arguments, or refuses them.

    Args:
        schema: A JSON schema of an object.
        where: What to call it in the error.

    Raises:
        UsageError: ``KNB630``, the schema cannot be used.
    """
    import jsonschema  # type: ignore[import-untyped]  # it ships no types of its own
    import referencing

    check_schema(schema, where)
    size = len(json.dumps(schema, ensure_ascii=False))
    if size > _MOST_CHARS:
        raise no_schema(where, f"it has {size} characters, and {_MOST_CHARS} are the most")
    if schema.get("type", "object") != "object":
        raise no_schema(where, "arguments are always an object")
    _check_parts(schema, where)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise no_schema(where, f"{error.json_path}: {error.message[:200]}") from None
    # With a registry of its own it fetches nothing.
    validator = _validator()(schema, registry=referencing.Registry())

    def check(text: str) -> dict[str, Any]:
        value = _object(text)
        try:
            errors = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]
        except (RecursionError, referencing.exceptions.Unresolvable) as error:
            raise ArgumentsError(f"the schema cannot be followed: {type(error).__name__}") from None
        if errors:
            raise ArgumentsError("; ".join(errors[:10]))
        return value

    return check


def _check_parts(schema: dict[str, Any], where: str) -> None:
    """Refuse what makes checking unbounded, wherever a check could get to."""
    sizes: dict[int, int] = {}
    under_way: set[int] = set()

    def size(node: dict[str, Any]) -> int:
        """How many parts a check of one value may look at, references followed; a circle counts once."""
        key = id(node)
        if key in under_way:
            return 1
        if key not in sizes:
            under_way.add(key)
            _check_words(node, where, at_root=node is schema)
            targets = [_target(schema, node[name], where) for name in _REFERENCES if name in node]
            sizes[key] = 1 + sum(size(each) for each in [*_below(node), *targets])
            under_way.discard(key)
        return sizes[key]

    try:
        total = size(schema)
    except RecursionError:
        total = _MOST_PARTS + 1
    if total > _MOST_PARTS:
        raise no_schema(where, f"with its references it has more than {_MOST_PARTS} parts")


def _check_words(node: dict[str, Any], where: str, *, at_root: bool) -> None:
    if "patternProperties" in node:
        raise no_schema(where, "patternProperties cannot be checked within a bounded time")
    if "$id" in node and not at_root:
        raise no_schema(where, "an $id inside it would change where its references point")
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        try:
            _matcher(pattern)
        except Exception:  # noqa: BLE001 - whatever the compiler of regular expressions has against it
            raise no_schema(where, f"the pattern {pattern[:60]!r} does not run in linear time") from None


def _below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas right inside of a schema."""
    for key, value in node.items():
        if key in _VALUES:
            continue
        inside = value.values() if key in _NAMED and isinstance(value, dict) else [value]
        for each in inside:
            yield from (one for one in (each if isinstance(each, list) else [each]) if isinstance(one, dict))


def _target(schema: dict[str, Any], reference: Any, where: str) -> dict[str, Any]:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise no_schema(where, f"the reference {str(reference)[:60]!r} does not point into the schema itself")
    node: Any = schema
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise no_schema(where, f"the reference {reference[:60]!r} leads nowhere")
    return node


def _object(text: str) -> dict[str, Any]:
    """Return the object that a JSON text holds, if every engine and server would read it the same."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ArgumentsError("the arguments are nested too deeply") from None
    except ValueError as error:
        raise ArgumentsError(f"the arguments are not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentsError("the arguments must be an object")
    return value


@cache
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return a search for a pattern with Rust's regular expressions, which take linear time."""
    import pydantic_core

    check = pydantic_core.SchemaValidator(pydantic_core.core_schema.str_schema(pattern=pattern))
    return check.isinstance_python


@cache
def _validator() -> Any:
    import jsonschema

    def pattern(_validator: Any, wanted: str, value: Any, _schema: Any) -> Iterator[Any]:
        if isinstance(value, str) and not _matcher(wanted)(value):
            yield jsonschema.ValidationError(f"{value[:60]!r} does not match {wanted[:60]!r}")

    return jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": pattern})
