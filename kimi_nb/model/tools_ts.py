"""Tool declarations in the language Kimi was trained on: a TypeScript namespace.

Moonshot's tokenizer turns ``tools`` into this text before the chat template sees them; llama.cpp's template
engine does not, and falls back to JSON. Sent as ``chat_template_kwargs={"tools_ts_str": ...}`` beside
``tools``, the text reaches the prompt while llama-server still parses calls by ``tools``.

The rules were worked out from Moonshot's own output for many schemas, of which
``tests/data/tools_ts_vectors.json`` holds 36. Legal JSON Schema that those do not show (``oneOf``, ``const``,
a field without type) becomes the nearest TypeScript.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from kimi_nb.errors import UsageError

__all__ = ["encode_tools", "in_kimis_order"]

_INDENT = "  "
_MAX_DEPTH = 60
_SCALARS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}
_CONSTRAINTS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
_DEFINITIONS = ("$defs", "definitions")


def encode_tools(tools: list[dict[str, Any]]) -> str:
    """Return the declarations of ``tools`` as Kimi's tokenizer writes them.

    Args:
        tools: As for an OpenAI-style chat request: ``{"type": "function", "function": {"name": ...}}``. Tools
            of another type are skipped.

    Returns:
        The text, ending in a newline; empty where there is no function. The order of keys does not matter.

    Raises:
        UsageError: KNB360, a tool or its schema is not what it should be; the message says where.
    """
    blocks = [_Function(function).render() for function in _checked(tools)]
    if not blocks:
        return ""
    return "# Tools\n\n## functions\nnamespace functions {\n" + "\n".join(blocks) + "\n}\n"


def in_kimis_order(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same tools with sorted keys, to be sent to llama-server beside :func:`encode_tools`'s text.

    llama-server holds a call's arguments to a grammar that it makes of ``tools``, and the grammar takes them
    in the order of the JSON, the required ones first. Kimi reads them sorted by name in each group. Where the
    two differ, the grammar makes it begin with an argument that it did not mean to write, and it may then
    fill in the wrong value. Checks nothing: :func:`encode_tools` does.
    """
    ordered: list[dict[str, Any]] = json.loads(json.dumps(tools, sort_keys=True))
    return ordered


def _refuse(where: str, why: str) -> UsageError:
    fix = "Correct the tool's declaration; its parameters are a JSON Schema of type object."
    return UsageError("KNB360", f"The tool declaration {where} cannot be used", why=why, fix=fix)


def _checked(tools: Any) -> list[dict[str, Any]]:
    """Return the functions among ``tools`` in plain JSON types with sorted keys, or say what is wrong."""
    if not isinstance(tools, (list, tuple)):
        raise _refuse("list", f"it is a {type(tools).__name__}, not a list")
    try:
        plain = json.loads(json.dumps(list(tools), sort_keys=True))
    except RecursionError as error:
        raise _refuse("list", "it is nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise _refuse("list", f"it is not JSON ({error})") from error
    checked: list[dict[str, Any]] = []
    for index, tool in enumerate(plain):
        where = f"number {index}"
        if not isinstance(tool, dict):
            raise _refuse(where, f"it is a {type(tool).__name__}, not an object")
        if tool.get("type") != "function":
            continue
        function = tool.get("function")
        if not isinstance(function, dict):
            raise _refuse(where, "it has no object called 'function'")
        name = function.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", name):
            raise _refuse(where, f"its name must be a word, and is {str(name)[:60]!r}")
        checked.append(function)
    return checked


@dataclass
class _Kind:
    """A type as TypeScript, with what stands above the field that has it."""

    text: str
    doc: str = ""


@dataclass
class _Function:
    """One function being written."""

    function: dict[str, Any]
    refers_to_itself: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.where = repr(self.function["name"])
        parameters = self.function.get("parameters")
        self.parameters = self._object_or_empty(parameters, "parameters")
        if self.parameters.get("type", "object") != "object":
            raise _refuse(self.where, "its parameters are not of type object")
        self.definitions: dict[str, Any] = {}
        for group in _DEFINITIONS:
            self.definitions.update(self._object_or_empty(self.parameters.get(group), group))

    def render(self) -> str:
        """Return interfaces, description and declaration."""
        interfaces = []
        for name in sorted(self.definitions):
            schema = self.definitions[name]
            kind = self._kind(schema, "", f"$defs.{name}", 1)
            description = _description(schema, "") if isinstance(schema, dict) else ""
            interfaces.append(f"{description}interface {name} {kind.text}")
        root = self._kind({"type": "object", **self.parameters}, "", "parameters", 0).text
        if self.refers_to_itself:
            interfaces.insert(0, f"interface parameters {root}")
            root = "parameters"
        description = _description(self.function, "")
        return "\n".join([*interfaces, f"{description}type {self.function['name']} = (_: {root}) => any;"])

    def _object_or_empty(self, value: Any, what: str) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _refuse(self.where, f"{what} must be an object, and is a {type(value).__name__}")
        return value

    def _kind(self, schema: Any, indent: str, path: str, depth: int) -> _Kind:
        """Return the type of ``schema``; ``indent`` is that of the line on which it starts."""
        if depth > _MAX_DEPTH:
            raise _refuse(self.where, f"it is nested more than {_MAX_DEPTH} levels deep at {path[:80]}...")
        if isinstance(schema, bool):
            return _Kind("any" if schema else "null")
        if not isinstance(schema, dict):
            raise _refuse(self.where, f"{path} must be a schema, and is a {type(schema).__name__}")
        return _Kind(self._text(schema, indent, path, depth + 1), _doc(schema, indent))

    def _text(self, schema: dict[str, Any], indent: str, path: str, depth: int) -> str:
        if "$ref" in schema:
            return self._reference(schema["$ref"], path)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                where = f"{path}.{key}"
                kinds = [self._kind(one, indent, where, depth) for one in self._list(schema[key], where)]
                return (" & " if key == "allOf" else " | ").join(kind.text for kind in kinds)
        if "enum" in schema or "const" in schema:
            values = self._list(schema["enum"], f"{path}.enum") if "enum" in schema else [schema["const"]]
            return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)
        kind = schema.get("type", "object" if "properties" in schema else None)
        if kind is None:
            return "any"
        if isinstance(kind, list):
            return " | ".join(
                self._named(one, {}, indent, path, depth) for one in self._list(kind, f"{path}.type")
            )
        return self._named(kind, schema, indent, path, depth)

    def _named(self, kind: Any, schema: dict[str, Any], indent: str, path: str, depth: int) -> str:
        if kind == "object":
            return self._object(schema, indent, path, depth)
        if kind == "array":
            return self._array(schema, indent, path, depth)
        if isinstance(kind, str) and kind in _SCALARS:
            return _SCALARS[kind]
        raise _refuse(self.where, f"{path} has the type {str(kind)[:40]!r}, which JSON Schema does not know")

    def _list(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _refuse(self.where, f"{path} must be a list with something in it")
        return value

    def _reference(self, target: Any, path: str) -> str:
        if target == "#":
            self.refers_to_itself = True
            return "parameters"
        found = re.fullmatch(r"#/(?:\$defs|definitions)/([^/]+)", target) if isinstance(target, str) else None
        if found is None or found[1] not in self.definitions:
            raise _refuse(self.where, f"{path} refers to {str(target)[:80]!r}, which it does not define")
        return found[1]

    def _array(self, schema: dict[str, Any], indent: str, path: str, depth: int) -> str:
        items = schema.get("items")
        if items is None:
            return "Array<any>"
        inner = indent + _INDENT
        if isinstance(items, dict) and _doc(items, inner):
            kind = self._kind(items, inner, f"{path}.items", depth)
            return f"Array<\n{kind.doc}{inner}{kind.text}\n{indent}>"
        return f"Array<{self._kind(items, indent, f'{path}.items', depth).text}>"

    def _object(self, schema: dict[str, Any], indent: str, path: str, depth: int) -> str:
        properties = self._object_or_empty(schema.get("properties"), f"{path}.properties")
        required = schema.get("required") or []
        if not isinstance(required, list):
            raise _refuse(self.where, f"{path}.required must be a list")
        inner = indent + _INDENT
        fields = []
        for name in sorted(properties, key=lambda name: (name not in required, name)):
            mark = "" if name in required else "?"
            fields.append(self._field(f"{name}{mark}", properties[name], inner, f"{path}.{name}", depth))
        rest = schema.get("additionalProperties")
        if rest is not None:
            kind = (
                "never"
                if rest is False
                else self._kind(rest, inner, f"{path}.additionalProperties", depth).text
            )
            fields.append(f"{inner}[k: string]: {kind}")
        return "{\n" + ",\n".join(fields) + f"\n{indent}}}" if fields else "{}"

    def _field(self, name: str, schema: Any, indent: str, path: str, depth: int) -> str:
        kind = self._kind(schema, indent, path, depth)
        default = schema.get("default") if isinstance(schema, dict) else None
        doc = kind.doc
        if default is not None:
            plain = isinstance(default, (bool, int, float))
            text = repr(default) if plain else json.dumps(default, ensure_ascii=False, sort_keys=True)
            doc += f"{indent}// Default: {text}\n"
        return f"{doc}{indent}{name}: {kind.text}"


def _description(schema: dict[str, Any], indent: str) -> str:
    description = schema.get("description")
    if not isinstance(description, str) or not description:
        return ""
    return "".join(f"{indent}// {line}\n" if line else "\n" for line in description.split("\n"))


def _doc(schema: dict[str, Any], indent: str) -> str:
    """Return what stands above a field of this type: its description and its constraints."""
    kind = schema.get("type")
    if not isinstance(kind, str) or any(key in schema for key in ("$ref", "anyOf", "enum")):
        return _description(schema, indent)
    found = [f"{key}: {schema[key]}" for key in _CONSTRAINTS.get(kind, ()) if key in schema]
    return _description(schema, indent) + (f"{indent}// {', '.join(found)}\n" if found else "")
