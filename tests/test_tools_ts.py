"""Tool declarations: Moonshot's own output byte for byte, and no schema that breaks us."""

import json
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_nb.errors import UsageError, troubles
from kimi_nb.model import encode_tools, in_kimis_order

VECTORS = json.loads(
    Path(__file__).with_name("data").joinpath("tools_ts_vectors.json").read_text(encoding="utf-8")
)


def tool(parameters, **more):
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **more}}


def field(schema, **more) -> str:
    """What becomes of one optional field ``x``."""
    text = encode_tools([tool({"type": "object", "properties": {"x": schema}, **more})])
    start, end = "namespace functions {\ntype f = (_: {\n", "\n}) => any;\n}\n"
    assert start in text
    assert text.endswith(end)
    return text[text.index(start) + len(start) : -len(end)]


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_moonshots_own_output(number):
    assert len(VECTORS) == 36
    vector = VECTORS[number]
    assert encode_tools(vector["tools"]) == vector["tools_ts_str"]


def test_the_grammar_takes_arguments_in_the_order_that_kimi_reads():
    properties = {name: {"type": "string"} for name in ("to", "subject", "cc", "body", "at")}
    declared = tool({"type": "object", "properties": properties, "required": ["to", "subject", "body"]})
    read = re.findall(r"^  (\w+)\??: ", encode_tools([declared]), re.MULTILINE)
    assert read == ["body", "subject", "to", "at", "cc"]
    (sent,) = in_kimis_order([declared])
    assert sent == declared
    schema = sent["function"]["parameters"]
    # llama.cpp's grammar: the required ones first, each group in the order of the JSON.
    optional = [name for name in schema["properties"] if name not in schema["required"]]
    assert [name for name in schema["properties"] if name in schema["required"]] + optional == read


def shuffled(value, chance):
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffled(one, chance) for key, one in items}
    return [shuffled(one, chance) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_key_order_makes_no_difference(number):
    chance = random.Random(number)
    for _ in range(3):
        assert encode_tools(shuffled(VECTORS[number]["tools"], chance)) == VECTORS[number]["tools_ts_str"]


def test_input_is_left_alone():
    for vector in VECTORS:
        before = json.dumps(vector["tools"])
        encode_tools(vector["tools"])
        assert json.dumps(vector["tools"]) == before


def test_only_functions_count():
    assert encode_tools([]) == ""
    assert (
        encode_tools([{"type": "builtin_function", "function": {"name": "$web_search"}}, {"type": "plugin"}])
        == ""
    )


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"title": "X"}, "  x?: any"),
        ({"title": "X", "description": "said"}, "  // said\n  x?: any"),
        (True, "  x?: any"),
        (False, "  x?: null"),
        ({"const": "a"}, '  x?: "a"'),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "  x?: string | null"),
        ({"allOf": [{"$ref": "#/$defs/P"}], "default": None}, "  x?: P"),
        ({"properties": {"y": {"type": "string"}}}, "  x?: {\n    y?: string\n  }"),
        (
            {"type": "array", "items": {"type": "object", "properties": {"y": {}}}},
            "  x?: Array<{\n    y?: any\n  }>",
        ),
        ({"type": "string", "description": "a\n\nb"}, "  // a\n\n  // b\n  x?: string"),
        ({"type": "object", "default": {"b": 1, "a": "é"}}, '  // Default: {"a": "é", "b": 1}\n  x?: {}'),
        ({"type": "number", "default": 1e22}, "  // Default: 1e+22\n  x?: number"),
        ({"enum": [{"b": 1, "a": 2}]}, "  x?: {'a': 2, 'b': 1}"),
    ],
)
def test_schemas_beyond_the_vectors(schema, text):
    definitions = {"P": {"type": "object"}}
    assert (
        field(schema) == text
        if "P" not in text
        else text in encode_tools([tool({"$defs": definitions, "properties": {"x": schema}})])
    )


def test_references_both_ways():
    schema = {
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/Node"}, "root": {"$ref": "#"}},
            }
        },
        "properties": {"a": {"$ref": "#/$defs/Node"}},
    }
    assert encode_tools([tool(schema, description="d")]) == (
        "# Tools\n\n## functions\nnamespace functions {\n"
        "interface parameters {\n  a?: Node\n}\n"
        "interface Node {\n  next?: Node,\n  root?: parameters\n}\n"
        "// d\ntype f = (_: parameters) => any;\n}\n"
    )


def test_what_pydantic_makes_of_a_model():
    from pydantic import BaseModel, Field

    class Place(BaseModel):
        """A place."""

        lat: float
        lon: float = 0.0

    class Ask(BaseModel):
        where: Place
        days: int | None = Field(default=None, description="how many", ge=1)
        words: list[str] = []
        extra: dict[str, int] = {}

    text = encode_tools([tool(Ask.model_json_schema())])
    assert "// A place.\ninterface Place {\n  lat: number,\n  // Default: 0.0\n  lon?: number\n}" in text
    assert "  where: Place,\n  // how many\n  days?: number | null,\n" in text
    assert "  // Default: []\n  words?: Array<string>\n" in text


def nested(depth: int, kind: str):
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {
            "array": {"type": "array", "items": schema},
            "object": {"type": "object", "properties": {"x": schema}},
            "anyOf": {"anyOf": [schema]},
        }[kind]
    return schema


@pytest.mark.parametrize("kind", ["array", "object", "anyOf"])
def test_deep_nesting_is_bounded(kind):
    assert "string" in field(nested(20, kind))
    start = time.perf_counter()
    for depth in (100, 1000, 100_000):
        with pytest.raises(UsageError, match=r"KNB360.*nested"):
            encode_tools([tool({"properties": {"x": nested(depth, kind)}})])
    assert time.perf_counter() - start < 5


CYCLE: dict = {}
CYCLE["properties"] = {"x": CYCLE}


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        (None, "is a NoneType, not a list"),
        ("x", "is a str, not a list"),
        ({"type": "function"}, "is a dict, not a list"),
        (["x"], "number 0 cannot be used: it is a str"),
        ([{"type": "function"}], "no object called 'function'"),
        ([{"type": "function", "function": {}}], "must be a word, and is 'None'"),
        ([{"type": "function", "function": {"name": "a b"}}], "must be a word"),
        ([{"type": "function", "function": {"name": "a\n}"}}], "must be a word"),
        ([{"type": "function", "function": {"name": "f", "parameters": {1, 2}}}], "it is not JSON"),
        ([tool({1: 2, "a": 3})], "it is not JSON"),
        ([tool(CYCLE)], "it is not JSON"),
        ([tool([])], "'f' cannot be used: parameters must be an object"),
        ([tool({"type": "string"})], "not of type object"),
        ([tool({"properties": []})], "parameters.properties must be an object"),
        ([tool({"properties": {"x": 5}})], "parameters.x must be a schema, and is a int"),
        ([tool({"properties": {"x": {"type": "float"}}})], "parameters.x has the type 'float'"),
        ([tool({"properties": {"x": {"type": ["string", 5]}}})], "has the type '5'"),
        ([tool({"properties": {"x": {"type": {}}}})], "has the type '{}'"),
        ([tool({"properties": {"x": {"anyOf": []}}})], "parameters.x.anyOf must be a list"),
        ([tool({"properties": {"x": {"enum": "a"}}})], "parameters.x.enum must be a list"),
        ([tool({"required": {"x": 1}})], "parameters.required must be a list"),
        ([tool({"$defs": 5})], "$defs must be an object"),
        ([tool({"properties": {"x": {"$ref": "#/$defs/None"}}})], "which it does not define"),
        ([tool({"properties": {"x": {"$ref": ["#"]}}})], "which it does not define"),
        ([tool({"properties": {"x": {"$ref": "https://example.org/s.json"}}})], "which it does not define"),
    ],
)
def test_bad_declarations_are_named(tools, words):
    with pytest.raises(UsageError) as caught:
        encode_tools(tools)
    assert caught.value.id == "KNB360"
    assert caught.value.id in troubles()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def encoded(tools) -> str | UsageError:
    try:
        return encode_tools(tools)
    except UsageError as error:
        return error


WORDS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "anyOf",
        "$ref",
        "$defs",
        "enum",
        "required",
        "default",
        "description",
        "string",
        "object",
        "array",
        "#",
        "#/$defs/x",
        "x",
        "additionalProperties",
        "pattern",
        "é",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=400)
@given(st.lists(st.dictionaries(WORDS, JSON, max_size=6), max_size=3), st.randoms(use_true_random=False))
def test_any_schema_is_written_or_refused(schemas, chance):
    tools = [tool(schema) for schema in schemas]
    outcome = encoded(tools)
    if isinstance(outcome, UsageError):
        assert outcome.id == "KNB360"
    else:
        assert encoded(shuffled(tools, chance)) == outcome
        assert outcome.count(") => any;") >= len(tools)


@given(JSON)
def test_anything_at_all_is_written_or_refused(thing):
    outcome = encoded(thing)
    assert isinstance(outcome, str) or outcome.id == "KNB360"
