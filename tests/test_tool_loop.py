"""The tool loop against an engine that behaves, and against one that does not."""

import json
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import jsonschema
import pydantic
import pytest
from scripted_engine import Act, ScriptedEngine, say

from kimi_nb.chat import Chat, Limits, tool, tool_loop
from kimi_nb.chat.functions import as_tool
from kimi_nb.chat.running import cut_short
from kimi_nb.chat.trace import CallRecord
from kimi_nb.errors import UsageError


def weather(city: str, days: int = 1) -> str:
    """Tell the weather."""
    return f"{city}: sun for {days} days"


CALL = ("functions.weather:0", "weather", '{"city": "Rome"}')


def loop(*acts, tools=(weather,), messages="hi", **options):
    with ScriptedEngine(list(acts)) as scripted, Chat(scripted.engine, timeout_s=5) as chat:
        run = tool_loop(chat, messages, list(tools), **options)
    json.dumps(run.as_dict())
    assert str(run)
    return run, scripted.bodies


def outcomes(run):
    return [call.outcome for call in run.calls]


def test_a_call_is_run_and_answered_and_the_reasoning_carried_back():
    run, bodies = loop(say("", "look it up", [CALL]), say("Sunny.", "now I know"))
    assert (run.answer, run.stopped, outcomes(run)) == ("Sunny.", "answered", ["ok"])
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "look it up",
            "tool_calls": [
                {
                    "id": "functions.weather:0",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "functions.weather:0", "content": "Rome: sun for 1 days"},
    ]
    assert bodies[0]["tools"] == bodies[1]["tools"] == [as_tool(weather).declaration]
    assert run.messages[-1] == {"role": "assistant", "content": "Sunny.", "reasoning_content": "now I know"}


def test_the_trace_tells_everything_in_order():
    events = []
    run, _ = loop(say("I look.", "hm", [CALL]), say("Sunny."), on_event=events.append)
    first, second = run.steps
    assert (first.number, first.reply.reasoning, first.reply.content) == (1, "hm", "I look.")
    record = first.calls[0]
    assert (record.id, record.name, record.arguments) == (
        "functions.weather:0",
        "weather",
        '{"city": "Rome"}',
    )
    assert record.output == "Rome: sun for 1 days"
    assert record.sent_id is None
    assert second.reply.content == "Sunny."
    assert [event for event in events if isinstance(event, CallRecord)] == [record]
    text = str(run)
    for part in (
        "thought  hm",
        "said     I look.",
        "called   functions.weather:0",
        "ok",
        "stopped: answered",
    ):
        assert part in text


def test_duplicate_and_malformed_ids_are_mended_and_counted_over_the_conversation():
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "functions.weather:0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "functions.weather:0", "content": "sun"},
    ]  # fmt: skip
    acts = [
        say(
            "",
            "",
            [
                ("call_abc", "weather", CALL[2]),
                ("call_abc", "functions.weather:7", CALL[2]),
                ("", "weather", CALL[2]),
            ],
        ),
        say("", "", [CALL]),
        say("done"),
    ]
    run, bodies = loop(*acts, messages=history)
    assert [call.id for call in run.calls] == [f"functions.weather:{number}" for number in (1, 2, 3, 4)]
    assert [call.sent_id for call in run.calls] == ["call_abc", "call_abc", "", "functions.weather:0"]
    assert outcomes(run) == ["ok"] * 4
    answered = [message["tool_call_id"] for message in bodies[-1]["messages"] if message["role"] == "tool"]
    assert answered == [f"functions.weather:{number}" for number in (0, 1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("name", "arguments", "outcome", "said"),
    [
        ("weather", "", "invalid_arguments", "not valid JSON"),
        ("weather", '{"city": "Ro', "invalid_arguments", "not valid JSON"),
        ("weather", "[1]", "invalid_arguments", "object"),
        ("weather", "{}", "invalid_arguments", "city: Field required"),
        ("weather", '{"city": 5}', "invalid_arguments", "city: Input should be a valid string"),
        (
            "weather",
            '{"city": "Rome", "days": "3"}',
            "invalid_arguments",
            "days: Input should be a valid integer",
        ),
        ("weather", '{"city": "Rome", "mood": 1}', "invalid_arguments", "mood: Extra inputs"),
        ("climate", "{}", "unknown_tool", "there is no tool climate; there are: weather"),
        ("", "{}", "unknown_tool", "there is no tool unknown"),
        ("rm -rf /", "{}", "unknown_tool", "there is no tool rm_-rf__"),
    ],
)
def test_a_wrong_call_is_told_to_the_model_which_may_correct_itself(name, arguments, outcome, said):
    run, bodies = loop(say("", "", [("x", name, arguments)]), say("", "", [CALL]), say("Sunny."))
    assert outcomes(run) == [outcome, "ok"]
    assert said in run.calls[0].output
    assert run.answer == "Sunny."
    sent = bodies[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(json.loads(sent), dict), "the chat template would fail on anything else"


def test_an_endless_caller_is_stopped_by_steps_and_by_calls():
    run, bodies = loop(say("", "", [CALL]), limits=Limits(max_steps=4))
    assert (run.stopped, run.answer, len(bodies), outcomes(run)) == ("max_steps", None, 4, ["ok"] * 4)
    run, bodies = loop(say("", "", [CALL] * 3), limits=Limits(max_calls=5))
    assert (run.stopped, len(bodies)) == ("max_calls", 2)
    assert outcomes(run) == ["ok"] * 5 + ["over_limit"]


def test_a_hanging_tool_is_given_up_and_the_loop_goes_on():
    release = threading.Event()

    def hang() -> str:
        """Never return."""
        release.wait(60)
        return "late"

    run, _ = loop(
        say("", "", [("", "hang", "{}")]), say("ok"), tools=[hang], limits=Limits(tool_timeout_s=0.1)
    )
    release.set()
    assert (run.stopped, outcomes(run)) == ("answered", ["timeout"])
    assert "did not finish within 0.1 s" in run.calls[0].output


def test_the_deadline_bounds_tools_and_engine():
    def slow() -> None:
        """Wait."""
        time.sleep(2)

    start = time.monotonic()
    run, _ = loop(say("", "", [("", "slow", "{}")]), tools=[slow], limits=Limits(deadline_s=0.4))
    assert (run.stopped, outcomes(run)) == ("deadline", ["timeout"])
    run, _ = loop(Act([(0, {"content": "a"})], hang=True), limits=Limits(deadline_s=0.4))
    assert time.monotonic() - start < 8
    assert (run.stopped, run.error["id"], run.steps[0].reply.content) == ("deadline", "KNB609", "a")


def fail_plainly() -> None:
    raise KeyError("no such key")


def leave() -> None:
    sys.exit(3)


def give_object() -> object:
    return {"a": [1, {2}], "b": object, "c": b"\xff", "d": float("nan"), "e": 1j}


def loop_for_ever() -> dict:
    endless: dict = {}
    endless["self"] = endless
    return endless


def half_a_character() -> str:
    return "\ud83d x"


async def wait_a_little() -> int:
    return 7


class Answer(pydantic.BaseModel):
    """The answer."""

    value: int


@pytest.mark.parametrize(
    ("function", "arguments", "outcome", "said"),
    [
        (fail_plainly, "{}", "raised", "KeyError: 'no such key'"),
        (leave, "{}", "raised", "SystemExit: 3"),
        (give_object, "{}", "ok", '"a":[1,[2]]'),
        (loop_for_ever, "{}", "ok", "..."),
        (half_a_character, "{}", "ok", "\ufffd x"),
        (wait_a_little, "{}", "ok", "7"),
        (Answer, '{"value": 3}', "ok", '{"value":3}'),
    ],
)
def test_whatever_a_tool_does_becomes_text_for_the_model(function, arguments, outcome, said):
    run, bodies = loop(say("", "", [("", function.__name__, arguments)]), say("fine"), tools=[function])
    assert (run.answer, outcomes(run)) == ("fine", [outcome])
    assert said in bodies[1]["messages"][-1]["content"]


def test_long_output_is_cut_in_the_middle_with_a_marker():
    def long() -> str:
        """Talk."""
        return "a" * 100_000 + "end"

    run, bodies = loop(
        say("", "", [("", "long", "{}")]), say("ok"), tools=[long], limits=Limits(max_output_chars=1000)
    )
    shown = bodies[1]["messages"][-1]["content"]
    assert shown.startswith("aaa")
    assert shown.endswith("end")
    assert "[... 99003 of 100003 characters left out ...]" in shown
    assert run.calls[0].truncated_chars == 99003
    assert cut_short("abc", 3) == ("abc", 0)


def test_only_allowed_tools_are_declared_and_run():
    def forbidden() -> str:
        """Do not."""
        raise AssertionError("it ran")

    run, bodies = loop(
        say("", "", [("", "forbidden", "{}"), CALL]), say("ok"), tools=[weather, forbidden], allow={"weather"}
    )
    assert outcomes(run) == ["not_allowed", "ok"]
    assert [each["function"]["name"] for each in bodies[0]["tools"]] == ["weather"]


def test_a_dangerous_tool_needs_a_person():
    ran = []

    @tool(dangerous=True)
    def delete(path: str) -> str:
        """Delete a file."""
        ran.append(path)
        return "gone"

    act = say("", "", [("", "delete", '{"path": "a"}'), ("", "delete", '{"path": "b"}')])
    assert outcomes(loop(act, say("ok"), tools=[delete])[0]) == ["refused", "refused"]
    assert ran == []
    asked = []

    def approve(chosen, arguments):
        asked.append((chosen.name, arguments))
        return arguments["path"] == "b"

    run, _ = loop(act, say("ok"), tools=[delete], approve=approve)
    assert (outcomes(run), ran) == (["refused", "ok"], ["b"])
    assert asked == [("delete", {"path": "a"}), ("delete", {"path": "b"})]
    run, _ = loop(say("", "", [("", "delete", '{"path": 1}')]), say("ok"), tools=[delete], approve=approve)
    assert outcomes(run) == ["invalid_arguments"], "nobody is asked about a call that cannot run"
    assert len(asked) == 2


def test_a_model_that_says_nothing_after_its_tools_is_asked_once_to_answer():
    """Seen with K2.6 on open engines: it closes its thinking and stops."""
    run, bodies = loop(say("", "", [CALL]), say("", "I think so"), say("Sunny."))
    assert (run.answer, run.stopped, [step.nudged for step in run.steps]) == (
        "Sunny.",
        "answered",
        [False, True, False],
    )
    assert bodies[2]["messages"][-1]["role"] == "user"
    run, bodies = loop(say("", "I think so"))
    assert (run.answer, run.stopped, len(bodies)) == (None, "no_answer", 2)
    run, bodies = loop(say("", "still thinking", finish="length"))
    assert (run.stopped, len(bodies)) == ("no_answer", 1)


def test_a_failing_engine_ends_the_loop_with_the_trace_kept():
    gone = Act(status=500, body={"error": {"message": "does not match the expected peg-native format"}})
    run, _ = loop(say("", "", [CALL]), gone)
    assert (run.stopped, run.error["id"], outcomes(run)) == ("engine_error", "KNB608", ["ok"])
    assert len(run.steps) == 2
    assert "KNB608" in str(run)


def test_keys_in_a_tools_output_reach_neither_the_model_nor_the_trace(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "canary-one-123456")

    def environment() -> str:
        """Show everything."""
        import os

        return f"{os.environ['MY_API_KEY']} scripted-key {'x' * 990} sk-canarytwo0123456789abcdef"

    call = ("", "environment", "{}")
    run, bodies = loop(
        say("", "", [call]), say("ok"), tools=[environment], limits=Limits(max_output_chars=1010)
    )
    everything = json.dumps(run.as_dict()) + str(run) + json.dumps(bodies)
    assert outcomes(run) == ["ok"]
    for secret in ("canary", "scripted-key"):
        assert secret not in everything


def test_wrong_use_is_refused_before_anything_is_sent():
    def weather_too() -> None:
        """Another."""

    weather_too.__name__ = "weather"
    with ScriptedEngine([say("ok")]) as scripted, Chat(scripted.engine) as chat:
        with pytest.raises(UsageError, match="KNB620: two tools are called weather"):
            tool_loop(chat, "hi", [weather, weather_too])
        with pytest.raises(UsageError, match="KNB622"):
            tool_loop(chat, [], [weather])
        with pytest.raises(UsageError, match="KNB622: max_steps is 0"):
            Limits(max_steps=0)
        impossible = {"type": "object", "properties": {"a": {"type": "array", "minItems": 3, "maxItems": 2}}}
        with pytest.raises(UsageError, match=r"KNB630.*minItems is 3 and maxItems is 2"):
            chat.stream(
                "hi", tools=[{"type": "function", "function": {"name": "a", "parameters": impossible}}]
            )
        assert scripted.requests == []


# Every way to misbehave that engines and models have been seen in, mixed at random.
NAMES = [
    "weather",
    "add",
    "slow",
    "boom",
    "big",
    "functions.weather",
    "weather:3",
    "nope",
    "",
    "we ather",
    "ш",
    "add\n",
]
IDS = ["", "call_1", "call_1", "functions.weather:0", "functions.add:0", "functions.x:y", "0", "ш" * 5]
ARGUMENTS = [
    '{"city": "Rome"}', '{"city": "Rome", "days": 2}', '{"a": 1, "b": 2.5}', "{}", "", "null", "[]", '"city"', "{'city': 1}", '{"city":',
    '{"city": 5}', '{"city": "Rome", "days": "2"}', '{"city": "Rome", "days": 2.5}', '{"city": "Rome", "x": 1}', '{"a": NaN, "b": 1}',
    '{"a": 1e999, "b": 1}', '{"a": true, "b": 1}', "[" * 3000, '{"city": "\\ud800"}', '{"city": "R"} trailing', "\x00", '{"a": 1}{"b": 2}',
]  # fmt: skip
RAW = [
    "[]", "null", "{", '{"choices": 3}', '{"choices": [{"delta": {"tool_calls": [7, {"index": "x"}]}}]}', '{"error": {"message": "boom"}}',
    '{"error": {"message": "expected peg-native format"}}', '{"choices": [{"index": 0, "delta": {"content": null, "tool_calls": null}}]}',
]  # fmt: skip
STATUS = [400, 401, 404, 429, 500, 502, 503]


def misbehave(dice: random.Random) -> Act:
    kind = dice.random()
    calls = [
        (dice.choice(IDS), dice.choice(NAMES), dice.choice(ARGUMENTS))
        for _ in range(dice.choice([0, 1, 1, 2, 3, 12]))
    ]
    text = dice.choice(["", "", "fine", "<|tool_call_begin|>functions.weather:0", "</think>", "ш" * 50])
    act = say(
        text,
        dice.choice(["", "hm", "x" * 300]),
        calls,
        finish=dice.choice([None, "stop", "length", "tool_calls", "content_filter"]),
    )
    if kind < 0.10:
        act.pieces.insert(dice.randrange(len(act.pieces) + 1), (0, dice.choice(RAW)))
    elif kind < 0.14:
        act = Act(
            status=dice.choice(STATUS),
            body={"error": {"message": dice.choice(["no", "Loading model", "peg-native"])}},
        )
    elif kind < 0.17:
        act.cut = True
    elif kind < 0.20:
        act.finish = None
    elif kind < 0.22:
        act.pieces.append(
            (0, dice.choice([b"\xff\xfe\n\n", b"data: \xff\n\n", b"event: error\n\n", b":\n\n" * 50]))
        )
    elif kind < 0.225:
        act.hang = True
    elif kind < 0.24:
        act = Act(status=200, body=dice.choice(["<html>", {"choices": []}]))
    act.usage = dice.choice([act.usage, None, {"completion_tokens": "many"}])
    return act


@pytest.fixture
def suspects():
    """Tools that keep a record of every call that reached them, and the record."""
    ran = []

    def add(a: int, b: float) -> float:
        """Add."""
        return a + b

    def slow() -> None:
        """Hang."""
        time.sleep(0.15)

    def boom(city: str = "") -> None:
        """Fail."""
        raise RuntimeError(city)

    def big() -> str:
        """Talk."""
        return "y" * 50_000

    def recorded(function):
        made = as_tool(function)

        def run(**arguments):
            ran.append((made.name, arguments))
            return function(**arguments)

        return replace(made, run=run)

    return [recorded(function) for function in (weather, add, slow, boom, big)], ran


def check_one(run, bodies, limits):
    json.dumps(run.as_dict())
    assert 1 <= len(bodies) <= limits.max_steps
    ids = [call.id for call in run.calls]
    assert len(ids) == len(set(ids))
    assert all(len(call.output) < limits.max_output_chars + 100 for call in run.calls)
    for message in (message for body in bodies for message in body["messages"]):
        for call in message.get("tool_calls") or ():
            assert isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest.mark.parametrize("seeds", [range(200), pytest.param(range(1000), marks=pytest.mark.soak)], ids=len)
def test_misbehaving_engines_neither_crash_nor_trap_the_loop(suspects, seeds):
    """None loops for ever, none crashes, and no tool runs with arguments that do not fit its schema."""
    tools, ran = suspects
    limits = Limits(max_steps=5, max_calls=20, deadline_s=1.5, tool_timeout_s=0.05, max_output_chars=500)
    current: list[Act] = []
    stops, outcomes_seen = Counter(), Counter()
    script = ScriptedEngine(lambda _body, _number: current.pop(0) if len(current) > 1 else current[0])
    with script as scripted, Chat(scripted.engine, timeout_s=0.5) as chat:
        for seed in seeds:
            dice = random.Random(seed)
            current[:] = [misbehave(dice) for _ in range(dice.randint(1, 6))]
            scripted.requests.clear()
            start = time.monotonic()
            run = tool_loop(chat, "hi", tools, limits=limits, mode=dice.choice(["thinking", "instant"]))
            assert time.monotonic() - start < 30, f"seed {seed}"
            check_one(run, scripted.bodies, limits)
            stops[run.stopped] += 1
            outcomes_seen.update(outcomes(run))
    print(f"\nstopped: {dict(stops)}\ncalls: {dict(outcomes_seen)}\ntools run: {len(ran)}")
    schemas = {each.name: each.parameters for each in tools}
    for name, arguments in ran:
        jsonschema.validate(arguments, schemas[name])
    assert len(ran) > 40
    assert {"answered", "engine_error", "max_steps", "no_answer"} <= set(stops)
    assert {"ok", "invalid_arguments", "unknown_tool", "raised", "timeout"} <= set(outcomes_seen)
