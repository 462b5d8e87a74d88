"""The asyncio twin: the same events, errors and limits as the client it is the twin of, and cancelling that frees the engine."""

import asyncio
import json
import time

import pytest
from scripted_engine import Act, ScriptedEngine, say

from kimi_nb.chat import AsyncChat, Chat, ContentDelta, Done, EngineError, ReasoningDelta, request
from kimi_nb.errors import UsageError

HELLO = [
    (0, {"role": "assistant", "content": None}),
    (0, {"reasoning_content": "abc"}),
    (0, {"content": "def"}),
]
CALL = ("functions.look:0", "look", '{"a": 1}')
REFUSED = {
    "error": {
        "code": 400,
        "message": "too long",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 9,
        "n_ctx": 5,
    }
}


def plain(act_of_twin):
    """What both clients make of one act: the events without clocks, or the error and what had arrived."""
    reply = getattr(act_of_twin, "reply", None)
    return (
        ("done", reply.content, reply.reasoning, reply.tool_calls, reply.usage, reply.hints)
        if reply
        else act_of_twin
    )


def with_chat(act, kind, timeout_s, options):
    with ScriptedEngine([act], kind=kind) as scripted:
        with Chat(scripted.engine, timeout_s=timeout_s) as chat:
            got = []
            try:
                for event in chat.stream("hi", **options):
                    got.append(plain(event))  # noqa: PERF401 - what came before an error counts too
            except EngineError as error:
                got += [str(error), error.partial and (error.partial.content, error.partial.reasoning)]
        return (
            got,
            scripted.bodies,
            [each["headers"].get("Authorization") for each in scripted.requests],
        )


def with_twin(act, kind, timeout_s, options):
    async def talk(scripted):
        got = []
        async with AsyncChat(scripted.engine, timeout_s=timeout_s) as chat:
            try:
                async for event in chat.stream("hi", **options):
                    got.append(plain(event))  # noqa: PERF401 - as above
            except EngineError as error:
                got += [str(error), error.partial and (error.partial.content, error.partial.reasoning)]
        return got

    with ScriptedEngine([act], kind=kind) as scripted:
        got = asyncio.run(talk(scripted))
        return (
            got,
            scripted.bodies,
            [each["headers"].get("Authorization") for each in scripted.requests],
        )


def without_port(outcome):
    import re

    return re.sub(r"127\.0\.0\.1:\d+", "HOST", repr(outcome))


@pytest.mark.parametrize("kind", ["llama-server", "vllm", "moonshot"])
@pytest.mark.parametrize(
    ("act", "timeout_s", "options"),
    [
        (say("Hello there", "let me think"), 10, {"mode": "thinking", "max_tokens": 5, "extra_body": {"seed": 1}}),
        (say("", "hm", [CALL, CALL]), 10, {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}),
        (say("", "hm", finish="length"), 10, {}),
        (Act(status=400, body=REFUSED), 10, {}),
        (Act(status=502, body="<html>Bad Gateway</html>"), 10, {}),
        (Act(status=200, body="<html>Welcome</html>"), 10, {}),
        (Act(HELLO, cut=True), 10, {}),
        (Act(HELLO, finish=None, usage=None), 10, {}),
        (Act([*HELLO, (0, "{not json")]), 10, {}),
        (Act([*HELLO, (0, '{"error": {"code": 500, "message": "peg-native"}}')]), 10, {}),
        (Act(HELLO, hang=True), 0.3, {}),
        (Act(HELLO, hang=True), 10, {"deadline_s": 0.3}),
        (Act(HELLO, delay_s=5), 10, {"deadline_s": 0.3}),
        (Act(HELLO, delay_s=5), 0.3, {}),
    ],
    ids=["answer", "calls", "void", "overflow", "502", "html", "cut", "unfinished", "no-json", "error-event", "quiet", "deadline", "late", "mute"],
)  # fmt: skip
def test_both_clients_do_the_same(kind, act, timeout_s, options):
    start = time.monotonic()
    one = with_chat(act, kind, timeout_s, options)
    other = with_twin(act, kind, timeout_s, options)
    assert without_port(one[0]) == without_port(other[0])
    assert one[1:] == other[1:]
    assert len(one[1]) == 1
    assert time.monotonic() - start < 10


def test_wrong_use_is_told_by_the_call_itself():
    with ScriptedEngine([say("ok")]) as scripted:
        chat = AsyncChat(scripted.engine)
        with pytest.raises(UsageError, match="KNB622"):
            chat.stream([])
        with pytest.raises(UsageError, match="KNB622: timeout_s is 0"):
            AsyncChat(scripted.engine, timeout_s=0)
        asyncio.run(chat.close())
        assert scripted.requests == []


def test_many_at_once_stay_apart():
    """Sixteen answers of 0.2 s in far less than their sum, each to its own question."""

    def script(body, _number):
        return Act([(0.2, {"content": body["messages"][0]["content"] + "!"})])

    async def talk(engine):
        async with AsyncChat(engine) as chat:
            return await asyncio.gather(*(chat.ask(f"question {number}") for number in range(16)))

    with ScriptedEngine(script) as scripted:
        start = time.monotonic()
        replies = asyncio.run(talk(scripted.engine))
        assert time.monotonic() - start < 2.0
    assert [reply.content for reply in replies] == [f"question {number}!" for number in range(16)]


@pytest.mark.parametrize("way", ["cancel", "aclose", "timeout"])
def test_leaving_closes_the_connection(way):
    async def talk(scripted):
        async with AsyncChat(scripted.engine) as chat:
            events = chat.stream("hi")
            assert await anext(events) == ReasoningDelta("abc")
            assert await anext(events) == ContentDelta("def")
            if way == "aclose":
                await events.aclose()
            elif way == "timeout":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await anext(events)
            else:
                task = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for _ in range(200):
                if scripted.clients_gone:
                    break
                await asyncio.sleep(0.02)
            assert scripted.clients_gone == 1

    with ScriptedEngine([Act(HELLO, hang=True)]) as scripted:
        asyncio.run(talk(scripted))


def connections(scripted):
    return {each["client"] for each in scripted.requests}


async def ask_in_turn(engine, times):
    async with AsyncChat(engine) as chat:
        return [(await chat.ask("hi")).content for _ in range(times)]


def test_one_connection_serves_one_request_after_another_where_that_saves_a_handshake(monkeypatch):
    """Left after its last event and before its end, a response takes its connection with it: a handshake each time."""
    monkeypatch.setattr(request, "_REUSED", ("http",))  # as it is for https
    with ScriptedEngine([say("ok")]) as scripted:
        with Chat(scripted.engine) as chat:
            assert [chat.ask("hi").content for _ in range(3)] == ["ok"] * 3
        assert len(connections(scripted)) == 1
    with ScriptedEngine([say("ok")]) as scripted:
        assert asyncio.run(ask_in_turn(scripted.engine, 3)) == ["ok"] * 3
        assert len(connections(scripted)) == 1


@pytest.mark.engine
def test_a_connection_that_the_engine_is_about_to_close_is_not_used_again(server):
    """llama-server sends Keep-Alive and closes after each stream: a second request on it would sometimes be lost."""
    with Chat(server.engine) as chat:
        for _ in range(30):
            assert chat.ask("Hello!", max_tokens=1).finish_reason == "length"
    assert len(asyncio.run(ask_in_turn(server.engine, 10))) == 10


@pytest.mark.parametrize("timeout_s", [0.5, 600])
def test_an_engine_that_stays_after_its_last_event_does_not_keep_us(timeout_s):
    usage = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    act = Act([*HELLO, (0, usage), (0, "[DONE]")], hang=True)
    for client in (with_chat, with_twin):
        start = time.monotonic()
        got, _, _ = client(act, "vllm", timeout_s, {})
        assert time.monotonic() - start < 5
        assert got[-1][:3] == ("done", "def", "abc")


def becomes(server, *, busy):
    deadline = time.monotonic() + 5
    while any(slot["is_processing"] for slot in server.slots()) is not busy:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.engine
def test_nano_answers_and_a_cancelled_request_frees_its_slot(server):
    async def talk():
        async with AsyncChat(server.engine) as chat:
            async for event in chat.stream(
                "How many experts does Kimi K2.5 have?", max_tokens=64, mode="instant"
            ):
                last = event
            assert isinstance(last, Done)
            assert last.reply.content
            long = asyncio.ensure_future(chat.ask("Hello!", max_tokens=7000, extra_body={"ignore_eos": True}))
            assert await asyncio.to_thread(becomes, server, busy=True)
            long.cancel()
            assert await asyncio.to_thread(becomes, server, busy=False)

    asyncio.run(talk())
