"""The openai package as it comes, against our server: both modes, and a tool call that holds to its schema."""

import json

import jsonschema
import openai
import pytest

pytestmark = pytest.mark.engine

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS},
}
QUESTION = [{"role": "user", "content": "How is the weather in Rome?"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0) as made:
        yield made


def token(server, client, text):
    """The id of a special token."""
    address = server.base_url.removesuffix("/v1") + "/tokenize"
    found = client.post(address, cast_to=object, body={"content": text, "parse_special": True})
    assert len(found["tokens"]) == 1, f"{text} is one token"
    return str(found["tokens"][0])


def streamed(client, **options):
    """Content, reasoning, tool calls and finish reason of a stream, put together."""
    content, reasoning, calls, finish, chunks = "", "", {}, None, 0
    with client.chat.completions.create(model="nano", messages=QUESTION, stream=True, **options) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                chunks += 1
                finish = choice.finish_reason or finish
                content += choice.delta.content or ""
                reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
                for piece in choice.delta.tool_calls or ():
                    call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                    call["id"] += piece.id or ""
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
    return content, reasoning, list(calls.values()), finish, chunks


@pytest.fixture
def talk(server, client):
    """A bias that keeps any weights talking: neither the thinking nor the answer ends."""
    return {"logit_bias": {token(server, client, "</think>"): -100}, "ignore_eos": True, "seed": 1}


def test_thinking_streams_reasoning_apart_from_the_answer(server, client, talk):
    content, reasoning, calls, finish, chunks = streamed(client, max_tokens=24, extra_body=talk)
    assert reasoning
    assert (content, calls, finish) == ("", [], "length")
    assert chunks > 5, "it arrives piece by piece"
    # forced shut after a few tokens, the thinking ends and the answer follows
    shut = talk | {"thinking_budget_tokens": 5}
    content, reasoning, *_ = streamed(client, max_tokens=24, extra_body=shut)
    assert content
    assert reasoning
    assert "think>" not in content + reasoning


def test_instant_mode_brings_no_reasoning(client, talk):
    switch = talk | {"chat_template_kwargs": {"thinking": False}}
    content, reasoning, calls, finish, chunks = streamed(client, max_tokens=24, extra_body=switch)
    assert content
    assert (reasoning, calls, finish) == ("", [], "length")
    assert chunks > 5


@pytest.fixture
def start_a_call(server, client):
    """Random weights talk before they call, and count in long numbers: these biases start a call and end its id.

    The grammar does the rest. It is not active inside the thinking, so in thinking mode that has to be over at once.
    """
    begin, arguments, zero = (
        token(server, client, text) for text in ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "0")
    )
    return {"logit_bias": {begin: 100, arguments: 60, zero: 50}, "seed": 3}


@pytest.mark.parametrize("mode", ["thinking", "instant"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_tool_call_fits_its_schema_and_carries_kimis_id(client, start_a_call, mode, choice):
    body = start_a_call | {
        "chat_template_kwargs": {"thinking": mode == "thinking"},
        "thinking_budget_tokens": 0,
    }
    options = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 400}
    _, _, calls, finish, _ = streamed(client, extra_body=body, **options)
    assert finish == "tool_calls"
    assert [(call["id"], call["name"]) for call in calls] == [("functions.get_weather:0", "get_weather")]
    jsonschema.validate(json.loads(calls[0]["arguments"]), PARAMETERS)


def test_a_required_tool_comes_back_from_a_plain_request_too(client, start_a_call):
    reply = client.chat.completions.create(
        model="nano",
        messages=QUESTION,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=400,
        extra_body=start_a_call | {"chat_template_kwargs": {"thinking": False}},
    )
    (call,) = reply.choices[0].message.tool_calls
    assert call.id == "functions.get_weather:0"
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
