"""A typed Python function, or a pydantic model, becomes a tool: declared to the model, guarded against it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_type_hints, overload

from kimi_nb.chat.schemas import check_schema
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["ArgumentsError", "Tool", "as_tool", "declarations", "tool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ArgumentsError(Exception):
    """The arguments of a call do not fit the tool; the text is for the model, which may correct itself."""


@dataclass(frozen=True)
class Tool:
    """Something the model may call.

    Attributes:
        name: How the model calls it: letters, digits, ``_`` and ``-``, at most 64.
        description: What it does, for the model.
        parameters: JSON schema of the arguments, always of an object.
        check: Turns the call's arguments, JSON text, into keyword arguments, or raises
            :class:`ArgumentsError`.
        run: What is called with them.
        dangerous: A person must approve each call.
        timeout_s: Instead of the loop's own limit.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    check: Callable[[str], dict[str, Any]]
    run: Callable[..., Any]
    dangerous: bool = False
    timeout_s: float | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the function it was made from."""
        return self.run(*args, **kwargs)

    @property
    def declaration(self) -> dict[str, Any]:
        """The tool as OpenAI-style JSON."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@overload
def tool(function: Callable[..., Any]) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    dangerous: bool = False,
    timeout_s: float | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    dangerous: bool = False,
    timeout_s: float | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function, as a decorator with or without arguments.

    Args:
        function: Every parameter needs a type hint. Its docstring describes it to the model; a Google-style
            ``Args:`` section describes the parameters, as ``Annotated[..., pydantic.Field(description=...)]``
            does.
        name: Instead of the function's own.
        description: Instead of the docstring's.
        dangerous: A person must approve each call.
        timeout_s: Instead of the loop's limit.

    Raises:
        UsageError: ``KNB620``, the function cannot be declared.
    """

    def make(made_from: Callable[..., Any]) -> Tool:
        made = _from_function(made_from)
        return replace(
            made,
            name=_checked_name(name or made.name),
            description=made.description if description is None else description,
            dangerous=dangerous,
            timeout_s=timeout_s,
        )

    return make if function is None else make(function)


def as_tool(thing: Any) -> Tool:
    """Return ``thing`` as a tool: a :class:`Tool`, a function, or a pydantic model.

    The call of a pydantic model returns its fields.

    Raises:
        UsageError: ``KNB620``, it cannot be one.
    """
    if isinstance(thing, Tool):
        return thing
    if isinstance(thing, type):
        return _from_model(thing)
    if callable(thing):
        return tool(thing)
    raise _no_tool(repr(thing)[:60], "it is no function")


def declarations(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Return tools as OpenAI-style JSON; mappings are taken to be that already.

    Raises:
        UsageError: One of them cannot be a tool (``KNB620``), or no arguments can fit it (``KNB630``).
    """
    declared = [dict(each) if isinstance(each, Mapping) else as_tool(each).declaration for each in tools]
    for each in declared:
        function = each.get("function")
        if isinstance(function, Mapping) and "parameters" in function:
            check_schema(function["parameters"], f"the tool {function.get('name')}")
    return declared


def _from_function(function: Callable[..., Any]) -> Tool:
    import pydantic

    name = getattr(function, "__name__", type(function).__name__)
    try:
        hints = get_type_hints(
            function if inspect.isroutine(function) else type(function).__call__, include_extras=True
        )
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise _no_tool(name, f"its type hints cannot be read ({error})") from None
    summary, described = _docstring(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise _no_tool(name, f"parameter {parameter.name} cannot be given by name")
        if parameter.name not in hints:
            raise _no_tool(name, f"parameter {parameter.name} has no type hint")
        about: dict[str, Any] = {}
        if parameter.name in described:
            about["description"] = described[parameter.name]
        hint = hints[parameter.name]
        if parameter.default is not parameter.empty:
            about["json_schema_extra"] = _default(parameter.default)
        described_hint: Any = Annotated[hint, pydantic.Field(**about)] if about else hint
        fields[parameter.name] = (
            described_hint if parameter.default is parameter.empty else NotRequired[described_hint]
        )
    # A TypedDict and not a model: a parameter may be called schema, copy or json.
    from typing_extensions import TypedDict

    arguments = TypedDict(name, fields)  # type: ignore[misc]  # made from data, as the functional form allows
    arguments.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]  # pydantic's own protocol
    try:
        adapter: TypeAdapter[Any] = pydantic.TypeAdapter(arguments)
        schema = adapter.json_schema()
    except (pydantic.PydanticUserError, pydantic.errors.PydanticInvalidForJsonSchema) as error:
        raise _no_tool(name, f"a type hint has no JSON schema ({str(error).splitlines()[0]})") from None
    return Tool(
        name=_checked_name(name),
        description=summary,
        parameters=_without_titles(schema),
        check=lambda text: dict(_validated(adapter, text)),
        run=function,
    )


def _from_model(model: type) -> Tool:
    import pydantic

    if not issubclass(model, pydantic.BaseModel):
        raise _no_tool(model.__name__, "a class must be a pydantic model")
    adapter = pydantic.TypeAdapter(model)
    parameters = _without_titles(model.model_json_schema())
    description = str(parameters.pop("description", ""))

    def fields(**values: Any) -> dict[str, Any]:
        return values

    return Tool(
        name=_checked_name(model.__name__),
        description=description,
        parameters=parameters,
        check=lambda text: _validated(adapter, text).model_dump(mode="json"),
        run=fields,
    )


def _validated(adapter: TypeAdapter[Any], text: str) -> Any:
    import pydantic

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        json.loads(text, parse_constant=refuse)
        return adapter.validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        lines = (
            f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}" for each in error.errors()[:10]
        )
        raise ArgumentsError("; ".join(lines)) from None
    except RecursionError:
        raise ArgumentsError("the arguments are nested too deeply") from None
    except ValueError as error:
        raise ArgumentsError(f"the arguments are not valid JSON: {error}") from None


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return what comes before the sections of a Google-style docstring, and its ``Args:`` by name."""
    head, _, rest = f"\n{text}".partition("\nArgs:\n")
    summary = re.split(r"\n(?:Returns|Raises|Yields|Example|Examples|Note|Notes):\n", head)[0].strip()
    found: dict[str, str] = {}
    current = indent = None
    for line in rest.splitlines():
        if line and not line[0].isspace():
            break
        start = re.match(r"(\s+)(\w+)(?:\s*\([^)]*\))?:\s*(.*)", line)
        if start and (indent is None or len(start[1]) <= indent):
            indent, current = len(start[1]), start[2]
            found[current] = start[3].strip()
        elif current and line.strip():
            found[current] = f"{found[current]} {line.strip()}".strip()
    return summary, found


def _default(value: Any) -> dict[str, Any]:
    import pydantic_core

    try:
        return {"default": pydantic_core.to_jsonable_python(value)}
    except (pydantic_core.PydanticSerializationError, ValueError):
        return {}


def _without_titles(schema: Any, *, named: bool = False) -> Any:
    """Return a schema without pydantic's titles, which only cost tokens; ``named``: its keys are names."""
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value
        if key in {"default", "const", "enum", "examples"} and not named
        else _without_titles(value, named=not named and key in {"properties", "$defs", "patternProperties"})
        for key, value in schema.items()
        if named or key != "title"
    }


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise _no_tool(name, "a tool's name has letters, digits, _ and - only, at most 64 of them")
    return name


def _no_tool(name: str, why: str) -> UsageError:
    return UsageError(
        "KNB620",
        f"{name} cannot become a tool",
        why=why,
        fix="Give a function whose parameters all have type hints, or use kimi_nb.chat.tool(name=...).",
    )
