"""From a typed function to a declaration, and what its arguments are held to."""

import datetime as dt
import json
from enum import Enum
from typing import Annotated, Literal

import jsonschema
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_nb.chat import Tool, tool
from kimi_nb.chat.functions import ArgumentsError, as_tool, declarations
from kimi_nb.errors import UsageError


class Unit(Enum):
    metre = "m"
    foot = "ft"


class Point(pydantic.BaseModel):
    """A place on a map."""

    x: int
    title: str = "here"


def travel(
    goal: str,
    when: dt.date,
    schema: Literal["fast", "cheap"] = "fast",
    via: Point | None = None,
    people: Annotated[int, pydantic.Field(ge=1, le=9)] = 1,
    unit: Unit = Unit.metre,
) -> str:
    """Plan a journey.

    It is only a plan.

    Args:
        goal: Where to,
            by name.
        when (date): The day.

    Returns:
        Nothing of use.
    """
    return f"{goal} {when.year} {schema} {via.x if via else '-'} {people} {unit.value}"


def test_hints_and_docstring_become_the_declaration():
    function = as_tool(travel).declaration["function"]
    assert function["name"] == "travel"
    assert function["description"] == "Plan a journey.\n\nIt is only a plan."
    parameters = function["parameters"]
    jsonschema.Draft202012Validator.check_schema(parameters)
    assert parameters["required"] == ["goal", "when"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["goal"] == {"type": "string", "description": "Where to, by name."}
    assert parameters["properties"]["when"] == {"type": "string", "format": "date", "description": "The day."}
    assert parameters["properties"]["schema"] == {
        "type": "string",
        "enum": ["fast", "cheap"],
        "default": "fast",
    }
    assert parameters["properties"]["people"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 1}
    # pydantic's titles are gone, a field that is called title is not
    assert parameters["$defs"]["Point"]["properties"]["title"] == {"type": "string", "default": "here"}
    assert "title" not in parameters["properties"]["goal"]


def test_checked_arguments_are_python_objects_and_defaults_hold():
    made = as_tool(travel)
    arguments = made.check('{"goal": "Rome", "when": "2026-05-01", "via": {"x": 3}, "unit": "ft"}')
    assert arguments == {
        "goal": "Rome",
        "when": dt.date(2026, 5, 1),
        "via": Point(x=3),
        "unit": Unit.foot,
    }
    assert made.run(**arguments) == "Rome 2026 fast 3 1 ft"
    assert made(goal="Oslo", when=dt.date(2026, 1, 1)) == "Oslo 2026 fast - 1 m"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ('{"goal": "Rome"', "not valid JSON"),
        ("[]", "object"),
        ("null", "object"),
        ('{"goal": "Rome"}', "when: Field required"),
        ('{"goal": 5, "when": "2026-05-01"}', "goal: Input should be a valid string"),
        ('{"goal": "Rome", "when": "2026-05-01", "people": "3"}', "people: Input should be a valid integer"),
        ('{"goal": "Rome", "when": "2026-05-01", "people": true}', "people: Input should be a valid integer"),
        (
            '{"goal": "Rome", "when": "2026-05-01", "people": 10}',
            "people: Input should be less than or equal to 9",
        ),
        ('{"goal": "Rome", "when": "2026-05-01", "people": NaN}', "not valid JSON"),
        ('{"goal": "Rome", "when": "2026-05-01", "more": 1}', "more: Extra inputs are not permitted"),
        ("[" * 100_000, "nested too deeply"),
        ('{"goal": "\ud800", "when": "2026-05-01"}', "unicode"),
    ],
)
def test_anything_else_is_refused_in_words_a_model_can_use(text, said):
    with pytest.raises(ArgumentsError, match=said):
        as_tool(travel).check(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "title", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "goal": st.text(max_size=5) | JSON,
        "when": st.dates().map(str) | JSON,
        "schema": st.sampled_from(["fast", "cheap"]) | JSON,
        "via": st.fixed_dictionaries({"x": st.integers()}) | JSON,
        "people": st.integers(-2, 12) | JSON,
        "unit": st.sampled_from(["m", "ft"]) | JSON,
        "more": JSON,
    },
)


@settings(max_examples=400)
@given(ARGUMENTS)
def test_what_passes_the_check_fits_the_declared_schema(arguments):
    made = as_tool(travel)
    try:
        made.check(json.dumps(arguments))
    except ArgumentsError:
        return
    jsonschema.validate(arguments, made.parameters)


def test_a_parameter_may_have_any_name():
    """As fields of a pydantic model, these would shadow its own attributes."""

    def odd(json: int, copy: str = "", model_config: int = 0, self_: str = "") -> None: ...

    assert as_tool(odd).check('{"json": 1, "copy": "x", "model_config": 2}') == {
        "json": 1,
        "copy": "x",
        "model_config": 2,
    }


def test_a_pydantic_model_is_a_tool_too():
    made = as_tool(Point)
    assert (made.name, made.description) == ("Point", "A place on a map.")
    assert made.parameters == {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "title": {"type": "string", "default": "here"}},
        "required": ["x"],
    }
    assert made(**made.check('{"x": 4}')) == {"x": 4, "title": "here"}
    with pytest.raises(ArgumentsError, match="x: Input should be a valid integer"):
        made.check('{"x": "4"}')


def test_the_decorator_takes_a_name_a_description_and_marks():
    @tool(name="wipe-disk", description="Wipe it.", dangerous=True, timeout_s=2)
    def wipe(path: str) -> None:
        """Something else."""

    assert isinstance(wipe, Tool)
    assert (wipe.name, wipe.description, wipe.dangerous, wipe.timeout_s) == ("wipe-disk", "Wipe it.", True, 2)
    assert (
        declarations([wipe, {"type": "function", "function": {"name": "raw"}}])[1]["function"]["name"]
        == "raw"
    )


def no_hint(a, b: int): ...
def starred(*a: int): ...
def by_place(a: int, /): ...
def unknown(a: "Nowhere"): ...  # noqa: F821 - that is the point
def no_schema(a: type[int] | memoryview): ...


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (no_hint, "parameter a has no type hint"),
        (starred, "parameter a cannot be given by name"),
        (by_place, "parameter a cannot be given by name"),
        (unknown, "type hints cannot be read"),
        (no_schema, "."),
        (lambda: 1, "letters, digits"),
        (int, "pydantic model"),
        (5, "no function"),
        ("rm -rf", "no function"),
    ],
)
def test_what_cannot_be_a_tool_says_why(thing, why):
    with pytest.raises(UsageError, match=f"KNB620: .*{why}"):
        as_tool(thing)
