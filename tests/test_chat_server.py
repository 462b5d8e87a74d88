"""Chat, the tool loop and structured output on a real llama-server with nano.

Nothing here depends on what nano says, only on how it is asked and answered: biases keep it talking, or calling.
"""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import jsonschema
import pydantic
import pytest
from scripted_engine import ScriptedEngine, say

from kimi_nb.chat import Chat, EngineError, Limits, ask_structured, tool_loop
from kimi_nb.chat.structured import compile_grammar
from kimi_nb.errors import UsageError

pytestmark = pytest.mark.engine


@pytest.fixture
def chat(server):
    with Chat(server.engine) as made:
        yield made


def root(server, path):
    return server.base_url.removesuffix("/v1") + path


def get(server, path):
    return httpx2.get(root(server, path), headers={"Authorization": f"Bearer {server.api_key}"}).json()


def post(server, path, body):
    return httpx2.post(
        root(server, path), headers={"Authorization": f"Bearer {server.api_key}"}, json=body
    ).json()


def token(server, text):
    (found,) = post(server, "/tokenize", {"content": text, "parse_special": True})["tokens"]
    return str(found)


def keep_talking(server):
    """Neither end the thinking nor the answer, whatever the weights would like."""
    return {"logit_bias": {token(server, "</think>"): -100}, "ignore_eos": True, "seed": 1}


def start_a_call(server):
    """Make any weights call a tool at once, with the index 0."""
    texts = {"<|tool_call_begin|>": 100, "<|tool_call_argument_begin|>": 60, "0": 50}
    return {"logit_bias": {token(server, text): bias for text, bias in texts.items()}, "seed": 3}


def test_both_modes_stream_and_are_measured(server, chat):
    talk = keep_talking(server)
    thinking = chat.ask("What is 2 + 2?", mode="thinking", max_tokens=20, extra_body=talk)
    assert thinking.reasoning
    assert (thinking.content, thinking.finish_reason) == ("", "length")
    assert thinking.hints[0].startswith("KNB610")
    instant = chat.ask("What is 2 + 2?", mode="instant", max_tokens=20, extra_body=talk)
    assert instant.content
    assert instant.reasoning == ""
    for reply in (thinking, instant):
        assert reply.usage.completion_tokens == reply.meter.server["predicted_n"] == 20
        assert reply.usage.prompt_tokens > 10
        assert reply.meter.tok_s > 0
        assert 0 < reply.meter.ttft_s <= reply.meter.total_s
    assert thinking.meter.ttfa_s is None
    assert instant.meter.ttfa_s == instant.meter.ttft_s


@pytest.mark.parametrize(
    ("switch", "thinks"),
    [
        ({"chat_template_kwargs": {"thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
        ({"reasoning_effort": "none"}, True),
        ({"thinking": {"type": "disabled"}}, True),
    ],
)
def test_the_one_switch_that_works_and_those_that_are_ignored_without_a_word(server, switch, thinks):
    """Guides name the last three; the model would go on thinking with each."""
    body = {"model": "nano", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8} | keep_talking(
        server
    )
    message = post(server, "/v1/chat/completions", body | switch)["choices"][0]["message"]
    assert bool(message.get("reasoning_content")) is thinks
    assert bool(message.get("content")) is not thinks


def test_cancelling_frees_the_slot(server, chat):
    events = chat.stream("Tell me a long story.", max_tokens=4000, extra_body={"ignore_eos": True})
    for _ in range(3):
        next(events)
    assert any(slot["is_processing"] for slot in get(server, "/slots"))
    events.close()
    give_up = time.monotonic() + 20
    while any(slot["is_processing"] for slot in get(server, "/slots")):
        assert time.monotonic() < give_up, "the slot is still busy"
        time.sleep(0.02)


def test_context_overflow_is_told_with_the_numbers(chat):
    with pytest.raises(
        EngineError, match=r"KNB604: the prompt has \d{5} tokens, and the engine holds 4096 for each slot"
    ):
        chat.ask("many words " * 20_000)


def test_a_wrong_key_and_a_wrong_address(server):
    with (
        Chat(replace(server.engine, api_key="wrong-key-0123")) as chat,
        pytest.raises(EngineError, match="KNB602") as caught,
    ):
        chat.ask("hi")
    assert "wrong-key" not in str(caught.value)
    elsewhere = replace(server.engine, base_url=root(server, "/nowhere"))
    with Chat(elsewhere) as chat, pytest.raises(EngineError, match="KNB613"):
        chat.ask("hi")


def test_an_answer_that_kimis_parser_refuses_is_explained(server, chat):
    """A call begun inside the thinking, without an end: the server throws the whole answer away."""
    bias = {"logit_bias": {token(server, "<|tool_call_begin|>"): 100}}
    with pytest.raises(EngineError, match=r"KNB608.*--special"):
        chat.ask("hi", mode="thinking", tools=[lookup], max_tokens=30, extra_body=bias)


def test_a_server_that_dies_while_it_answers(nano, build):
    from kimi_nb.engine import LlamaServer
    from kimi_nb.plan import Settings

    with (
        LlamaServer(nano, settings=Settings(ctx_size=2048, parallel=1), build=build) as server,
        Chat(server.engine) as chat,
    ):
        events = chat.stream("hi", max_tokens=2000, extra_body={"ignore_eos": True})
        first = next(event for event in events if hasattr(event, "text"))
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="KNB607") as caught:
            for _ in events:
                pass
    partial = caught.value.partial
    assert (partial.reasoning + partial.content).startswith(first.text)


def lookup(key: str = "") -> str:
    """Look a word up.

    Args:
        key: The word.
    """
    return f"found {key}"


def test_the_prompt_declares_tools_in_typescript(server):
    """Exactly the request that Chat sends, rendered by the server itself."""
    with ScriptedEngine([say("ok")]) as scripted, Chat(scripted.engine) as chat:
        chat.ask("hi", tools=[lookup])
    prompt = post(server, "/apply-template", scripted.bodies[0])["prompt"]
    assert "namespace functions {" in prompt
    assert "// Look a word up." in prompt
    assert '"parameters"' not in prompt
    assert prompt.endswith("<think>")


def test_the_loop_carries_reasoning_calls_and_results_into_the_prompt(server):
    acts = [
        say("", "I look it up", [("call_x", "lookup", '{"key": "a"}')]),
        say("", "", [("call_x", "lookup", '{"key": "b"}')]),
        say("done"),
    ]
    with ScriptedEngine(acts) as scripted, Chat(scripted.engine) as chat:
        run = tool_loop(chat, "hi", [lookup])
    assert run.answer == "done"
    prompt = post(server, "/apply-template", scripted.bodies[-1])["prompt"]
    assert "<think>I look it up</think>" in prompt
    for index, key in enumerate("ab"):
        assert (
            f'<|tool_call_begin|>functions.lookup:{index}<|tool_call_argument_begin|>{{"key":"{key}"}}<|tool_call_end|>'
            in prompt.replace('": "', '":"')
        )
        assert f"## Return of functions.lookup:{index}\nfound {key}<|im_end|>" in prompt


def book(city: str, nights: int, kind: str = "single") -> str:
    """Book a room."""
    return f"{city} {nights} {kind}"


@pytest.mark.parametrize("mode", ["thinking", "instant"])
def test_the_tool_loop_runs_real_calls(server, chat, mode):
    from typing import Annotated, Literal

    ran = []

    def book(
        city: Annotated[str, pydantic.Field(max_length=10)],
        nights: Annotated[int, pydantic.Field(ge=1, le=9)],
        kind: Literal["single", "double"] = "single",
    ) -> str:
        """Book a room."""
        ran.append((city, nights, kind))
        return "booked"

    body = start_a_call(server) | {"parallel_tool_calls": False, "thinking_budget_tokens": 0}
    run = tool_loop(
        chat,
        "A room in Rome.",
        [book],
        mode=mode,
        limits=Limits(max_steps=3, max_tokens=300),
        extra_body=body,
    )
    assert (run.stopped, [call.outcome for call in run.calls]) == ("max_steps", ["ok"] * 3), str(run)
    assert [call.id for call in run.calls] == [f"functions.book:{number}" for number in range(3)]
    assert len(ran) == 3
    for city, nights, kind in ran:
        assert len(city) <= 10
        assert 1 <= nights <= 9
        assert kind in {"single", "double"}


class Trip(pydantic.BaseModel):
    """A trip."""

    days: int = pydantic.Field(ge=1, le=30)
    goal: str = pydantic.Field(max_length=12)


@pytest.mark.parametrize(("mode", "way"), [("instant", "grammar"), ("thinking", "think, then grammar")])
def test_a_structured_answer_says_which_way_it_came(chat, mode, way):
    got = ask_structured(chat, "Plan a trip.", Trip, mode=mode, max_tokens=400, think_tokens=20)
    assert isinstance(got.value, Trip)
    assert got.way == way
    assert got.grammar.splitlines()
    assert (got.thinking is None) == (mode == "instant")
    if got.thinking:
        assert "</think>" not in got.thinking.reasoning
        assert got.thinking.hints == ()


@pytest.mark.parametrize("bias", [-100, 100])
def test_the_answer_goes_on_from_the_thinking_or_from_none(server, chat, bias):
    """A model may also close its thinking at once; then there is nothing to go on from."""
    body = {"logit_bias": {token(server, "</think>"): bias}}
    got = ask_structured(
        chat, "Plan a trip.", Trip, mode="thinking", max_tokens=400, think_tokens=8, extra_body=body
    )
    assert isinstance(got.value, Trip)
    assert bool(got.thinking.reasoning) is (bias < 0)
    # the second request's prompt holds the thinking
    assert (got.reply.usage.prompt_tokens > got.thinking.usage.prompt_tokens + 5) is (bias < 0)


def test_response_format_is_ignored_by_llama_server_and_ours_is_not(server, chat):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
    ignored = chat.ask("hi", mode="instant", max_tokens=20, extra_body=form | keep_talking(server))
    with pytest.raises(ValueError, match=r"."):
        json.loads(ignored.content)
    assert ask_structured(chat, "hi", schema, mode="instant", max_tokens=200).value["n"] in range(10)


ODD_VALUES = ["a", "ü", 'say "x"', 7, None, True, 2.5, "<|im_end|>", "\\"]
ODD_NAMES = ["a", "b", "c d", "ü", "e-f", 'q"', "type", "properties"]


def leaf(dice):
    return dice.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer", "minimum": dice.randint(-50, 0), "maximum": dice.randint(1, 500)},
            {"type": "string", "maxLength": dice.randint(0, 9)},
            {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]{1,3}$"},
            {"type": "string", "format": "date"},
            {"enum": dice.sample(ODD_VALUES, dice.randint(1, 5))},
            {"const": dice.choice(["fixed", 3, {"deep": [1]}])},
            {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        ]
    )


def schema_of(dice, depth):
    """A schema of growing difficulty, every length of it bounded."""

    def inner(many):
        return [schema_of(dice, depth - 1) for _ in range(many)]

    def an_object():
        names = dice.sample(ODD_NAMES, dice.randint(1, 4))
        properties = dict(zip(names, inner(len(names)), strict=True))
        required = dice.sample(names, dice.randint(0, len(names)))
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def an_array():
        least = dice.randint(0, 2)
        return {
            "type": "array",
            "items": inner(1)[0],
            "minItems": least,
            "maxItems": least + dice.randint(0, 2),
        }

    kinds = {
        "object": an_object,
        "array": an_array,
        "any": lambda: {"anyOf": inner(dice.randint(1, 3))},
        "tuple": lambda: {"type": "array", "prefixItems": inner(2), "items": False, "minItems": 2},
        "ref": lambda: {"$ref": f"#/$defs/{dice.choice(['leaf', 'pair'])}"},
        "leaf": lambda: leaf(dice),
    }
    return leaf(dice) if depth == 0 else kinds[dice.choice(["object", *kinds])]()


def whole_schema(number):
    dice = random.Random(number)
    return schema_of(dice, min(number // 25, 3)) | {
        "$defs": {
            "leaf": {"type": "string", "enum": ["x", "y"]},
            "pair": {
                "type": "object",
                "properties": {
                    "l": {"$ref": "#/$defs/leaf"},
                    "n": {"type": "integer", "minimum": 0, "maximum": 9},
                },
                "required": ["l"],
                "additionalProperties": False,
            },
        }
    }


@pytest.mark.parametrize("mode", ["instant", "thinking"])
@pytest.mark.parametrize(
    "numbers", [range(0, 100, 10), pytest.param(range(100), marks=pytest.mark.soak)], ids=len
)
def test_schemas_of_growing_difficulty_all_hold(chat, mode, numbers):
    start = time.monotonic()
    for number in numbers:
        schema = whole_schema(number)
        got = ask_structured(
            chat,
            "Fill this in.",
            schema,
            mode=mode,
            max_tokens=2000,
            think_tokens=4,
            extra_body={"seed": number},
        )
        jsonschema.validate(got.value, schema)
    print(f"{mode}: {len(numbers)} schemas in {time.monotonic() - start:.1f} s")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "strin"}, "strin"),
        ({"$ref": "http://127.0.0.1:1/x"}, "only references into the same document"),
        ({"$ref": "#/$defs/none"}, "cannot resolve"),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 2},
            "minItems is 3 and maxItems is 2",
        ),
        (
            {"properties": {"a": {"type": "integer", "minimum": 9, "maximum": 1}}},
            "minimum is 9 and maximum is 1",
        ),
        ({"type": "string", "pattern": "^[$"}, "pattern|regex"),
        ({"type": "string", "minLength": -5}, "-5"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "grammar"),
        (5, "must be an object"),
        (int, "pydantic model"),
    ],
)
def test_a_schema_that_cannot_be_held_to_is_refused_and_the_server_lives(server, chat, schema, why):
    """The fourth one, sent as it is, makes llama-server take all memory there is: it must never be sent."""
    with pytest.raises(UsageError, match=f"KNB630.*({why})"):
        ask_structured(chat, "hi", schema, mode="instant", max_tokens=50)
    assert get(server, "/health") == {"status": "ok"}


def test_an_answer_cut_off_by_max_tokens_is_no_answer(chat):
    with pytest.raises(EngineError, match=r"KNB631.*max_tokens cut it off") as caught:
        ask_structured(
            chat, "hi", {"type": "string", "minLength": 50, "maxLength": 60}, mode="instant", max_tokens=4
        )
    assert caught.value.partial.finish_reason == "length"


def test_compiling_a_grammar_costs_no_slots_cache(chat):
    question = "Remember these words: " + "one two three " * 60
    first = chat.ask(question, max_tokens=1)
    for number in range(6):
        assert "root ::=" in compile_grammar(chat, {"type": "integer", "maximum": number})
    again = chat.ask(question, max_tokens=1)
    assert again.usage.cached_tokens >= first.usage.prompt_tokens - 1


@pytest.mark.parametrize("kind", ["vllm", "moonshot"])
def test_vllm_and_moonshot_are_given_the_schema_themselves(kind):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    script = ScriptedEngine([say('{"n": 3}', "hm"), say("no JSON"), say('{"n": "3"}')], kind=kind)
    with script as scripted, Chat(scripted.engine) as chat:
        got = ask_structured(chat, "hi", schema)
        assert (got.value, got.way, got.reply.reasoning) == ({"n": 3}, "response_format", "hm")
        for _ in range(2):
            with pytest.raises(EngineError, match="KNB631"):
                ask_structured(chat, "hi", schema)
    form = scripted.bodies[0]["response_format"]
    assert form == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


def test_the_key_is_in_no_servers_log(server, chat):
    chat.ask("hi", max_tokens=2)
    log = server.log_tail(10_000)
    text = log if isinstance(log, str) else "\n".join(log)
    assert server.api_key not in text
    for process in Path("/proc").glob("[0-9]*/cmdline") if Path("/proc").is_dir() else ():
        try:
            assert server.api_key.encode() not in process.read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
