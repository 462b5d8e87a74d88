"""Refuse JSON schemas that nothing can fit, before they reach an engine.

An array whose ``minItems`` is above its ``maxItems`` makes llama-server take all of the machine's memory
while it builds the grammar, in answer formats and in tool declarations alike; tried with llama.cpp of October
2026.
"""

from __future__ import annotations

from typing import Any

from kimi_nb.errors import UsageError

__all__ = ["check_schema", "for_llama_cpp", "no_schema"]

_BOUNDS = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minProperties", "maxProperties"),
    ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
)
_DEEPEST = 60


def check_schema(schema: Any, where: str = "the schema") -> None:
    """Look through a schema for bounds that contradict each other.

    Args:
        schema: A JSON schema, or what should be one.
        where: What to call it in the error.

    Raises:
        UsageError: ``KNB630``, it is no object, too deep, or a lower bound lies above its upper one.
    """
    if not isinstance(schema, dict):
        raise no_schema(where, f"it must be an object, and is {type(schema).__name__}")
    _look(schema, where, 0)


def _look(node: Any, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise no_schema(where, f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(node, list):
        for each in node:
            _look(each, where, depth + 1)
    if not isinstance(node, dict):
        return
    for low, high in _BOUNDS:
        least, most = node.get(low), node.get(high)
        if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
            raise no_schema(where, f"{low} is {least} and {high} is {most}, so nothing fits")
    for key, value in node.items():
        # What these hold are values, and no schemas.
        if key not in {"const", "default", "enum", "examples"}:
            _look(value, where, depth + 1)


def for_llama_cpp(schema: Any) -> Any:
    """Return a schema in the words that llama.cpp's converter takes; it means the same.

    The converter wants every schema to be an object, and ends an array after its ``prefixItems`` anyway.
    """
    if isinstance(schema, list):
        return [for_llama_cpp(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"const", "default", "enum", "examples"}:
            made[key] = value
        elif key == "items" and isinstance(value, bool):
            if value:
                made[key] = {}
        elif key in {"properties", "$defs", "definitions"} and isinstance(value, dict):
            made[key] = {name: {} if each is True else for_llama_cpp(each) for name, each in value.items()}
        else:
            made[key] = for_llama_cpp(value)
    return made


def no_schema(where: str, why: str) -> UsageError:
    """Return the error for a schema that cannot be used."""
    return UsageError(
        "KNB630", f"{where} cannot be held to", why=why, fix="Correct or simplify that part of it."
    )
