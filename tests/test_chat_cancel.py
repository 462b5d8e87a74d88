"""An answer that somebody does not want any more ends at once, wherever it is, and the engine is free."""

import threading
import time

import pytest
from scripted_engine import Act, ScriptedEngine, say
from system import wait_until

from kimi_nb.chat import Chat, EngineError, tool, tool_loop

PIECES = [(0, {"role": "assistant", "content": None}), (0, {"content": "Once upon"})]


@pytest.mark.parametrize(
    ("act", "partial"),
    [
        (Act(PIECES, finish=None, done=False, hang=True), "Once upon"),
        # Before the first byte of the response: as while all slots are busy.
        (Act(PIECES, delay_s=30.0), None),
    ],
)
def test_a_stream_ends_when_it_is_cancelled_from_another_thread(act, partial):
    cancel = threading.Event()
    with ScriptedEngine([act]) as scripted, Chat(scripted.engine) as chat:
        threading.Timer(0.3, cancel.set).start()
        began = time.monotonic()
        with pytest.raises(EngineError, match="KNB625") as caught:
            chat.ask("Tell me a story", cancel=cancel)
        assert time.monotonic() - began < 10
        assert (caught.value.partial and caught.value.partial.content) == partial
        scripted.stopping.set()


def test_what_is_cancelled_before_it_begins_does_not_reach_the_engine_for_long():
    cancel = threading.Event()
    cancel.set()
    with ScriptedEngine([Act(PIECES, delay_s=30.0)]) as scripted, Chat(scripted.engine) as chat:
        with pytest.raises(EngineError, match="KNB625"):
            chat.ask("Tell me a story", cancel=cancel)
        run = tool_loop(chat, "Tell me a story", [], cancel=cancel)
        assert (run.stopped, run.steps) == ("cancelled", ())
        scripted.stopping.set()


def test_a_loop_is_cancelled_while_a_tool_runs_and_keeps_what_was_done():
    cancel = threading.Event()

    @tool
    def wait() -> str:
        """Wait."""
        cancel.set()
        time.sleep(30)
        return "late"

    with ScriptedEngine([say(calls=[("functions.wait:0", "wait", "{}")])]) as scripted:
        with Chat(scripted.engine) as chat:
            began = time.monotonic()
            run = tool_loop(chat, "Wait", [wait], cancel=cancel)
        assert time.monotonic() - began < 10
        assert run.stopped == "cancelled"
        assert [call.outcome for call in run.calls] == ["cancelled"]
        assert len(scripted.bodies) == 1


@pytest.mark.engine
def test_a_cancelled_loop_frees_the_slot(server):
    cancel = threading.Event()
    runs = []

    def work():
        with Chat(server.engine) as chat:
            endless = {"ignore_eos": True}
            runs.append(tool_loop(chat, "Who are you?", [], cancel=cancel, extra_body=endless))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: any(slot["is_processing"] for slot in server.slots()))
    cancel.set()
    thread.join(20)
    assert runs[0].stopped == "cancelled"
    wait_until(lambda: not any(slot["is_processing"] for slot in server.slots()))
