"""Chat over a scripted engine: each kind's switch, every way to fail, and what is never done."""

import gc
import inspect
import json
import threading
import time
from dataclasses import replace

import pytest
from scripted_engine import Act, ScriptedEngine, say

from kimi_nb.chat import (
    Chat,
    ContentDelta,
    Done,
    EngineError,
    PromptProgress,
    ReasoningDelta,
    ToolCallDelta,
    assistant_message,
)
from kimi_nb.errors import UsageError, troubles

HELLO = [
    (0, {"role": "assistant", "content": None}),
    (0, {"reasoning_content": "abc"}),
    (0, {"content": "def"}),
]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def ask(*acts, kind="llama-server", model="kimi-k2.5", timeout_s=10.0, messages="hi", **options):
    with ScriptedEngine(list(acts), kind=kind) as scripted:
        with Chat(replace(scripted.engine, model=model), timeout_s=timeout_s) as chat:
            reply = chat.ask(messages, **options)
        assert len(scripted.bodies) == 1
        return reply, scripted.bodies[0]


def fail(*acts, kind="llama-server", timeout_s=10.0, **options):
    with (
        ScriptedEngine(list(acts), kind=kind) as scripted,
        Chat(scripted.engine, timeout_s=timeout_s) as chat,
    ):
        with pytest.raises(EngineError) as caught:
            chat.ask("hi", **options)
        assert len(scripted.bodies) <= 1, "a request is never repeated by itself"
        return caught.value


def test_events_come_in_order_and_end_with_the_reply():
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    progress = {
        "choices": [{"index": 0, "delta": {}}],
        "prompt_progress": {"total": 7, "cache": 3, "processed": 5},
    }
    act = say(
        "Hello there", "let me think", usage=usage, timings={"predicted_per_second": 12.5, "cache_n": 3}
    )
    act.pieces.insert(1, (0, json.dumps(progress)))
    with ScriptedEngine([act]) as scripted, Chat(scripted.engine) as chat:
        *events, last = chat.stream("hi")
    assert events == [
        PromptProgress(processed=5, total=7, cached=3),
        ReasoningDelta("let me"),
        ReasoningDelta(" think"),
        ContentDelta("Hello "),
        ContentDelta("there"),
    ]
    assert isinstance(last, Done)
    reply = last.reply
    assert (reply.content, reply.reasoning, reply.finish_reason) == ("Hello there", "let me think", "stop")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens) == (7, 4, 3)
    assert reply.meter.server == {"predicted_per_second": 12.5, "cache_n": 3}
    assert reply.hints == ()
    assert json.loads(json.dumps(reply.as_dict()))["meter"]["server"]["cache_n"] == 3


@pytest.mark.parametrize(
    ("kind", "mode", "expected"),
    [
        (
            "llama-server",
            "thinking",
            {"chat_template_kwargs": {"thinking": True}, "temperature": 1.0, "top_p": 0.95, "min_p": 0.01},
        ),
        (
            "llama-server",
            "instant",
            {"chat_template_kwargs": {"thinking": False}, "temperature": 0.6, "top_p": 0.95, "min_p": 0.01},
        ),
        ("vllm", "thinking", {"chat_template_kwargs": {"thinking": True}, "temperature": 1.0, "top_p": 0.95}),
        ("vllm", "instant", {"chat_template_kwargs": {"thinking": False}, "temperature": 0.6, "top_p": 0.95}),
        ("moonshot", "thinking", {"thinking": {"type": "enabled"}}),
        ("moonshot", "instant", {"thinking": {"type": "disabled"}}),
    ],
)
def test_each_engine_gets_its_own_switch_and_sampling(kind, mode, expected):
    """The guides sent temperature 0.6 with thinking on; Moonshot's API refuses that, and the others answer worse."""
    _, body = ask(say("ok"), kind=kind, mode=mode, max_tokens=9)
    shared = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    progress = {"return_progress": True} if kind == "llama-server" else {}
    assert body == shared | stream | progress | expected


def test_the_switches_that_llama_server_ignores_are_never_sent():
    _, body = ask(say("ok"), mode="instant")
    assert "enable_thinking" not in json.dumps(body)
    assert "reasoning_effort" not in body
    assert "thinking" not in body


def test_a_given_temperature_wins_and_reaches_moonshot_too():
    assert ask(say("ok"), temperature=0.2, top_p=0.5)[1]["temperature"] == 0.2
    _, body = ask(say("ok"), kind="moonshot", temperature=1.0)
    assert (body["temperature"], "top_p" in body) == (1.0, False)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("kimi-k2-thinking", "instant"),
        ("moonshotai/Kimi-K2.7-Code", "instant"),
        ("kimi-k2-instruct", "thinking"),
    ],
)
def test_a_mode_the_model_lacks_is_refused_before_anything_is_sent(model, mode):
    with ScriptedEngine([say("ok")]) as scripted, Chat(replace(scripted.engine, model=model)) as chat:
        with pytest.raises(UsageError, match=r"KNB392.*has no mode"):
            chat.stream("hi", mode=mode)
        assert scripted.requests == []


def test_a_model_with_one_mode_is_asked_in_it():
    reply, body = ask(say("ok"), model="kimi-k2-instruct-0905")
    assert (reply.mode, body["temperature"]) == ("instant", 0.6)
    assert "chat_template_kwargs" not in body
    reply, body = ask(say("ok"), model="kimi-k2.7-code", kind="moonshot")
    assert reply.mode == "thinking"
    assert "thinking" not in body, "there is nothing to switch"


def test_tools_go_as_json_and_to_llama_server_as_typescript_too():
    from kimi_nb.model.tools_ts import encode_tools

    _, body = ask(say("ok"), tools=[TOOL], tool_choice="auto")
    assert body["tools"] == [TOOL]
    assert list(body["tools"][0]["function"]) == sorted(TOOL["function"])
    assert body["tool_choice"] == "auto"
    assert body["chat_template_kwargs"] == {"thinking": True, "tools_ts_str": encode_tools([TOOL])}
    for kind in ("vllm", "moonshot"):
        assert "tools_ts_str" not in json.dumps(ask(say("ok"), kind=kind, tools=[TOOL])[1])


def test_extra_body_adds_to_our_template_switch_and_does_not_replace_it():
    _, body = ask(say("ok"), extra_body={"seed": 7, "chat_template_kwargs": {"preserve_thinking": True}})
    assert body["seed"] == 7
    assert body["chat_template_kwargs"] == {"thinking": True, "preserve_thinking": True}


def test_reasoning_is_read_under_both_names_and_sent_back_under_both_to_vllm():
    act = Act(
        [
            (0, {"reasoning": "new", "reasoning_content": "new"}),
            (0, {"reasoning": " name"}),
            (0, {"content": "x"}),
        ]
    )
    reply, _ = ask(act, kind="vllm")
    assert reply.reasoning == "new name"
    history = [
        {"role": "user", "content": "hi"},
        assistant_message(reply),
        {"role": "user", "content": "and?"},
    ]
    assert history[1] == {"role": "assistant", "content": "x", "reasoning_content": "new name"}
    _, body = ask(say("ok"), kind="vllm", messages=history)
    assert body["messages"][1]["reasoning"] == "new name" == body["messages"][1]["reasoning_content"]
    _, body = ask(say("ok"), kind="moonshot", messages=history)
    assert body["messages"] == history


def test_tool_calls_arrive_in_pieces_and_whole():
    with (
        ScriptedEngine(
            [say("", "hm", [("functions.a:0", "a", '{"x": 1}'), ("functions.b:1", "b", "{}")])]
        ) as scripted,
        Chat(scripted.engine) as chat,
    ):
        *events, done = chat.stream("hi")
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [piece.index for piece in pieces] == [0, 0, 1, 1]
    assert [(call.id, call.name, call.arguments) for call in done.reply.tool_calls] == [
        ("functions.a:0", "a", '{"x": 1}'),
        ("functions.b:1", "b", "{}"),
    ]
    assert done.reply.finish_reason == "tool_calls"


def test_calls_that_all_carry_the_same_index_stay_apart():
    def piece(id_, name, arguments):
        return (
            0,
            {"tool_calls": [{"index": 0, "id": id_, "function": {"name": name, "arguments": arguments}}]},
        )

    reply, _ = ask(
        Act([piece("1", "a", "{}"), piece("2", "b", '{"y"'), piece(None, None, ": 2}")], finish="tool_calls")
    )
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("a", "{}"), ("b", '{"y": 2}')]


def test_moonshot_usage_inside_the_choice_is_counted():
    last = {
        "choices": [
            {
                "index": 0,
                "delta": {},
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            }
        ]
    }
    reply, _ = ask(
        Act([(0, {"content": "hi"}), (0, json.dumps(last))], finish=None, usage=None), kind="moonshot"
    )
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 2)


def error(status, message, **more):
    return Act(status=status, body={"error": {"code": status, "message": message} | more})


@pytest.mark.parametrize(
    ("act", "id_", "words"),
    [
        (error(503, "Loading model", type="unavailable_error"), "KNB603", "still loading"),
        (
            error(400, "too long", type="exceed_context_size_error", n_prompt_tokens=900, n_ctx=512),
            "KNB604",
            "900 tokens, and the engine holds 512 for each slot .* 388 tokens too long",
        ),
        (
            error(
                400,
                "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens",
            ),
            "KNB604",
            "140000 tokens, and the engine holds 131072",
        ),
        (
            error(400, "Your request exceeded model token limit: 262144 (requested: 300000)"),
            "KNB604",
            "300000 tokens, and the engine holds 262144",
        ),
        (
            error(500, "The model produced output that does not match the expected peg-native format"),
            "KNB608",
            "--special",
        ),
        (error(400, "invalid temperature: only 1 is allowed for this model"), "KNB611", "Leave temperature"),
        (
            error(
                400,
                "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
            ),
            "KNB612",
            "tool_loop",
        ),
        (
            error(400, '"auto" tool choice requires --enable-auto-tool-choice'),
            "KNB605",
            "--tool-call-parser kimi_k2",
        ),
        (error(400, "max_tokens must not be negative"), "KNB605", "max_tokens must not be negative"),
        (error(500, "[json.exception.parse_error.101] parse error"), "KNB606", "once and is not repeated"),
        (error(429, "rate limit"), "KNB614", "at its limit"),
        (Act(status=404, body={"detail": "Not Found"}), "KNB613", "/v1"),
        (Act(status=502, body="<html>Bad Gateway</html>"), "KNB606", "502"),
        (Act(status=302, body="<html>elsewhere</html>"), "KNB615", "does not speak"),
        (Act(status=200, body="<html>Welcome</html>"), "KNB615", "text/html"),
        (Act(status=200, body={"choices": []}), "KNB615", "application/json"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("KNB") else "",
)
def test_refusals_say_what_why_and_what_to_do(act, id_, words):
    import re

    failure = fail(act)
    assert failure.id == id_
    assert re.search(words, str(failure)), str(failure)
    assert failure.partial is None
    assert "\n" not in str(failure)


@pytest.mark.parametrize(
    ("act", "id_"),
    [
        (Act(HELLO, cut=True), "KNB607"),
        (Act(HELLO, finish=None, usage=None, done=False), "KNB607"),
        (Act(HELLO, finish=None, usage=None), "KNB607"),
        (
            Act(
                [
                    *HELLO,
                    (
                        0,
                        '{"error": {"code": 500, "message": "does not match the expected peg-native format"}}',
                    ),
                ]
            ),
            "KNB608",
        ),
        (Act([*HELLO, (0, '{"error": {"code": 500, "message": "something else"}}')]), "KNB607"),
        (Act([*HELLO, (0, "{not json")]), "KNB615"),
        (Act([*HELLO, (0, b"data: \xff\xfe\n\n")]), "KNB615"),
        (Act(HELLO, hang=True), "KNB609"),
    ],
)
def test_what_arrived_before_a_failure_is_kept(act, id_):
    failure = fail(act, timeout_s=0.5)
    assert failure.id == id_
    assert (failure.partial.reasoning, failure.partial.content) == ("abc", "def")
    assert failure.partial.meter.ttft_s is not None


@pytest.mark.parametrize(
    "event",
    ["[]", "5", "null", '"x"', '{"choices": 5}', '{"choices": [5]}', '{"choices": [{"delta": 7}]}', '{"usage": 7}',
     '{"choices": [{"delta": {"content": 5, "reasoning_content": [1]}}], "timings": 3, "prompt_progress": {"total": "x"}}',
     '{"choices": [{"delta": {"tool_calls": 5}}]}'],
)  # fmt: skip
def test_odd_events_are_passed_over(event):
    reply, _ = ask(Act([*HELLO, (0, event), (0, {"content": "!"})]))
    assert (reply.reasoning, reply.content) == ("abc", "def!")


def test_no_engine_at_all():
    from kimi_nb.engine import Engine

    for url in ("http://127.0.0.1:1/v1", "127.0.0.1:80", "ftp://127.0.0.1/v1"):
        engine = Engine(kind="llama-server", base_url=url, api_key="k", model="m")
        with Chat(engine) as chat, pytest.raises(EngineError, match="KNB601: cannot reach llama-server at"):
            chat.ask("hi")


def test_a_wrong_key_is_told_and_not_shown():
    with ScriptedEngine([say("ok")]) as scripted:
        engine = replace(scripted.engine, api_key="sk-canary-0123456789")
        with Chat(engine) as chat, pytest.raises(EngineError, match="KNB602") as caught:
            chat.ask("hi")
        assert "canary" not in str(caught.value) + repr(chat) + repr(engine)


def test_an_engine_that_repeats_our_key_does_not_get_it_into_the_message():
    failure = fail(error(500, "bad header: Bearer scripted-key"))
    assert "scripted-key" not in str(failure)
    assert "[key]" in str(failure)


def test_a_name_and_password_in_the_address_are_not_shown():
    from kimi_nb.engine import Engine

    with (
        Chat(
            Engine(kind="vllm", base_url="http://me:hunter2@127.0.0.1:1/v1", api_key="k", model="m")
        ) as chat,
        pytest.raises(EngineError) as caught,
    ):
        chat.ask("hi")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("delay_s", "hang"), [(5.0, False), (0.0, True)])
def test_a_deadline_holds_before_and_after_the_first_byte(delay_s, hang):
    """llama-server's empty comments keep a read timeout from ever passing: the deadline must not depend on it."""
    start = time.monotonic()
    failure = fail(Act(HELLO, delay_s=delay_s, hang=hang), deadline_s=0.3)
    assert time.monotonic() - start < 4
    assert failure.id == "KNB609"
    assert "deadline_s=0.3" in str(failure)


def test_closing_the_generator_closes_the_connection_and_leaves_no_thread():
    with ScriptedEngine([Act(HELLO, hang=True)]) as scripted, Chat(scripted.engine) as chat:
        events = chat.stream("hi")
        assert next(events) == ReasoningDelta("abc")
        assert any(thread.name == "kimi-nb chat watch" for thread in threading.enumerate())
        events.close()
        assert not any(thread.name == "kimi-nb chat watch" for thread in threading.enumerate())
        for _ in range(200):
            if scripted.clients_gone:
                break
            time.sleep(0.02)
        assert scripted.clients_gone == 1


def test_a_generator_that_is_dropped_closes_too():
    with ScriptedEngine([Act(HELLO, hang=True)]) as scripted, Chat(scripted.engine) as chat:
        next(chat.stream("hi"))
        gc.collect()
        for _ in range(200):
            if scripted.clients_gone:
                break
            time.sleep(0.02)
        assert scripted.clients_gone == 1


def test_the_environment_of_the_openai_package_changes_nothing(monkeypatch):
    """Its organisation, project, key, address, headers, and any proxy, are for another service."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "canary-value")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer canary-value")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with ScriptedEngine([say("ok")]) as scripted, Chat(scripted.engine) as chat:
        assert chat.ask("hi").content == "ok"
        assert "canary" not in json.dumps(scripted.requests[0]["headers"])


@pytest.mark.parametrize(
    "messages", ["", [], [{"role": "robot", "content": "x"}], [{"content": "x"}], ["x"], [None]]
)
def test_a_malformed_conversation_is_refused_before_anything_is_sent(messages):
    with ScriptedEngine([say("ok")]) as scripted, Chat(scripted.engine) as chat:
        if messages == "":
            assert chat.ask(messages).content == "ok", "an empty question is a question"
            return
        with pytest.raises(UsageError, match="KNB622"):
            chat.stream(messages)
        assert scripted.requests == []


@pytest.mark.parametrize("content", ["half \ud800 of one", object()])
def test_what_json_cannot_hold_is_refused(content):
    with ScriptedEngine([say("ok")]) as scripted, Chat(scripted.engine) as chat:
        with pytest.raises(UsageError, match="KNB622"):
            chat.ask([{"role": "user", "content": content}])
        assert scripted.bodies == []


def test_halves_of_characters_are_joined_or_replaced():
    act = Act([(0, {"content": "\ud83d"}), (0, {"content": "\ude00 and \ud83d alone"})])
    assert ask(act)[0].content == "\U0001f600 and \ufffd alone"


def test_an_unknown_kind_and_a_foolish_timeout_are_refused():
    from kimi_nb.engine import Engine

    with pytest.raises(UsageError, match="KNB622"):
        Chat(Engine(kind="vllm", base_url="http://127.0.0.1:1/v1", api_key="k", model="m"), timeout_s=0)
    engine = Engine(kind="ollama", base_url="http://127.0.0.1:1/v1", api_key="k", model="m")
    with Chat(engine) as chat, pytest.raises(UsageError, match=r"KNB394.*ollama"):
        chat.stream("hi")


@pytest.mark.parametrize(
    ("act", "mode", "id_", "word"),
    [
        (say("", "long thoughts", finish="length"), "thinking", "KNB610", "max_tokens"),
        (say("", "thoughts"), "thinking", "KNB610", "ask it to answer"),
        (say("ok", "thoughts"), "instant", "KNB616", "thinking"),
        (
            say("<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{}"),
            "thinking",
            "KNB617",
            "declare",
        ),
        (say("hello<|im_end|>"), "thinking", "KNB618", "--special"),
        (say("<think>well</think>hello"), "thinking", "KNB619", "--reasoning-parser kimi_k2"),
    ],
)
def test_a_void_answer_comes_with_a_hint(act, mode, id_, word):
    reply, _ = ask(act, mode=mode)
    assert [hint.split(":")[0] for hint in reply.hints] == [id_]
    assert word in reply.hints[0]


def test_every_id_raised_or_hinted_in_this_package_is_explained():
    import re
    from pathlib import Path

    import kimi_nb.chat
    import kimi_nb.commands.chat

    folder = Path(inspect.getfile(kimi_nb.chat)).parent
    sources = [*folder.glob("*.py"), Path(inspect.getfile(kimi_nb.commands.chat))]
    used = {id_ for source in sources for id_ in re.findall(r"KNB6\d\d", source.read_text(encoding="utf-8"))}
    explained = {id_ for id_ in troubles() if id_.startswith("KNB6")}
    assert used == explained
    assert len(used) > 20
