"""Conversations: what an engine is sent of them, how they are kept on disk, and how they become programs."""

import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from scripted_engine import Act, ScriptedEngine, say

from kimi_nb.chat import Chat, tool, tool_loop
from kimi_nb.chat.conversation import Conversation, Turn, turn_of
from kimi_nb.chat.history import History
from kimi_nb.chat.reach import reach
from kimi_nb.chat.request import chat_request
from kimi_nb.chat.snippets import LANGUAGES, as_program
from kimi_nb.engine import Engine
from kimi_nb.errors import SystemRefusedError, UsageError


@tool
def get_weather(city: str) -> dict:
    """Get the weather of a city."""
    return {"temp_c": 31, "sky": f"sun over {city}"}


def answered(asked, *acts, tools=()):
    """Really ask a scripted engine."""
    before = Conversation().asking(asked)
    with ScriptedEngine(list(acts)) as scripted, Chat(scripted.engine) as chat:
        messages = before.messages()
        run = tool_loop(chat, messages, tools)
    return before.with_last(turn_of(before.turns[-1], run, len(messages)))


def test_a_turn_with_tools_is_shown_step_by_step_and_sent_on_whole():
    call = ("functions.get_weather:0", "get_weather", '{"city":"Rome"}')
    talk = answered(
        "Weather?", say(reasoning="I look.", calls=[call]), say("Sunny.", "Good."), tools=[get_weather]
    )
    turn = talk.turns[0]
    assert [said.content for said in turn.said] == ["", "Sunny."]
    assert turn.said[0].calls[0].output == '{"temp_c":31,"sky":"sun over Rome"}'
    assert turn.state == "answered"
    roles = [message["role"] for message in talk.asking("And now?").messages()]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert [m.get("reasoning_content") for m in turn.messages] == ["I look.", None, "Good."]


def test_a_turn_of_which_nothing_came_is_not_sent_on_and_a_broken_one_with_what_came():
    nothing = answered("One?", Act(status=500, body={"error": {"message": "no"}}))
    assert (nothing.turns[0].state, nothing.turns[0].error["id"]) == ("engine_error", "KNB606")
    assert nothing.asking("Two?").messages() == [{"role": "user", "content": "Two?"}]
    piece = [(0, {"role": "assistant", "content": None}), (0, {"content": "Half a"})]
    broken = answered("One?", Act(piece, finish=None, done=False, cut=True))
    assert [m["content"] for m in broken.asking("Two?").messages()] == ["One?", "Half a", "Two?"]
    only_thought = answered("One?", say(reasoning="Hm.", finish="length"))
    assert only_thought.turns[0].state == "no_answer"
    assert only_thought.asking("Two?").messages() == [{"role": "user", "content": "Two?"}]


def test_regenerating_keeps_the_earlier_answers():
    first = answered("Name?", say("Nano.")).turns[0]
    again = first.again()
    assert (again.said, [one.said[0].content for one in again.earlier]) == ((), ["Nano."])
    second = replace(again, said=first.said).again()
    assert len(second.earlier) == 2
    assert all(one.earlier == () for one in second.earlier)


def test_what_is_kept_comes_back_the_same_and_only_its_owner_can_read_it(tmp_path):
    history = History(tmp_path / "chats")
    assert history.entries() == []
    call = ("functions.get_weather:0", "get_weather", '{"city":"Rome"}')
    talk = answered("Wetter in “Rom”? 天气 \ud83d", say(calls=[call]), say("Sonne."), tools=[get_weather])
    kept = history.save(replace(talk, system="Be brief.", model="nano"))
    assert History(tmp_path / "chats").load(kept.id) == kept
    assert kept.turns == talk.turns
    path = tmp_path / "chats" / f"{kept.id}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    json.loads(path.read_text(encoding="utf-8"))
    (entry,) = history.entries()
    assert (entry.id, entry.turns, entry.model) == (kept.id, 1, "nano")
    assert entry.title.startswith("Wetter in “Rom”? 天气")
    assert history.save(kept).id == kept.id
    history.delete(kept.id)
    history.delete(kept.id)
    assert history.entries() == []


def test_two_who_write_one_conversation_lose_nothing(tmp_path):
    history = History(tmp_path)
    kept = history.save(Conversation().asking("First?"))
    ours = history.save(kept.asking("Ours?"))
    theirs = History(tmp_path).save(kept.asking("Theirs?"))
    assert ours.id == kept.id != theirs.id
    assert [turn.asked for turn in history.load(ours.id).turns] == ["First?", "Ours?"]
    assert [turn.asked for turn in history.load(theirs.id).turns] == ["First?", "Theirs?"]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda i: History(tmp_path).save(ours.asking(f"{i}?")), range(8)))
    assert len({each.id for each in many}) == 8
    assert len(history.entries()) == 9


def test_a_damaged_file_is_left_out_and_left_alone(tmp_path):
    history = History(tmp_path)
    kept = history.save(Conversation().asking("Fine?"))
    for number, text in enumerate(['{"id": 3', "[]", '{"turns": [{"asked": 1}]}', '{"turns": {}}', "\0"]):
        (tmp_path / f"20260101-00000{number}-abcdef.json").write_text(text)
    (tmp_path / "notes.txt").write_text("mine")
    assert [entry.id for entry in history.entries()] == [kept.id]
    with pytest.raises(UsageError, match="KNB650"):
        history.load("20260101-000000-abcdef")
    for name in ("../../etc/passwd", "", "20260101-000009-abcdef"):
        with pytest.raises(UsageError, match="KNB650"):
            history.load(name)
    with pytest.raises(UsageError, match="KNB650"):
        history.delete("../notes")
    # What stands where ours was is no conversation any more: it is not overwritten.
    (tmp_path / f"{kept.id}.json").write_text("something else")
    assert history.save(kept).id != kept.id
    assert (tmp_path / f"{kept.id}.json").read_text() == "something else"


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemRefusedError, match="KNB002"):
        History(tmp_path / "file").save(Conversation().asking("Hello?"))


def test_the_key_is_in_no_program_and_the_environments_secrets_neither(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-the-environment")
    engine = Engine("llama-server", "http://me:pass@127.0.0.1:1/v1", "the-key-of-the-engine", "nano")
    told = "Why is the-key-of-the-engine not a-secret-of-the-environment? It's \"$HOME\" `id` \\n ${x} '''"
    request = chat_request(engine, told, tools=[get_weather], mode="instant", max_tokens=5)
    for language in LANGUAGES:
        program = as_program(request, language, key_env="MY_KEY")
        assert "MY_KEY" in program
        for secret in ("the-key-of-the-engine", "a-secret-of-the-environment", "pass@"):
            assert secret not in program
        assert "MY_KEY" not in as_program(request, language, key_env="")


@pytest.mark.engine
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_does_what_the_request_does(server, language, tmp_path):
    run = {"curl": ["sh"], "Python": [sys.executable], "JavaScript": ["node"]}[language]
    asked = "What's 3 + 4?"
    request = chat_request(server.engine, asked, mode="instant", temperature=0.0, max_tokens=64)
    with Chat(server.engine) as chat:
        wanted = chat.ask(asked, mode="instant", temperature=0.0, max_tokens=64).content
    program = as_program(request, language, key_env="MY_KEY")
    file = tmp_path / {"curl": "chat.sh", "Python": "chat.py", "JavaScript": "chat.mjs"}[language]
    file.write_text(program, encoding="utf-8")
    assert server.api_key not in program
    if language == "JavaScript" and shutil.which("node") is None:
        assert (
            "process.env.MY_KEY" in program
        )  # it is run where there is a Node, and read by people elsewhere
        return
    clean = {k: v for k, v in os.environ.items() if k != "MY_KEY"} | {"MY_KEY": server.api_key}
    done = subprocess.run([*run, file], env=clean, capture_output=True, text=True, timeout=60, check=True)
    if language == "curl":
        lines = [line[6:] for line in done.stdout.splitlines() if line.startswith("data: {")]
        deltas = [choice["delta"] for line in lines for choice in json.loads(line).get("choices", [])]
        assert "".join(delta.get("content") or "" for delta in deltas) == wanted
    else:
        assert done.stdout == wanted


class _Panel:
    def __init__(self, server):
        self.server = server


def test_whom_to_reach(monkeypatch, tmp_path):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    engine = Engine("llama-server", "http://127.0.0.1:1/v1", "key", "nano")
    assert reach(engine).key_env == "LLAMA_API_KEY"
    assert reach(replace(engine, api_key="")).key_env == ""
    assert reach(_Panel(_Panel(engine))).engine is engine
    with pytest.raises(UsageError, match="KNB651"):
        reach(3)
    with pytest.raises(UsageError, match="KNB538"):
        reach("no-such-server")
    monkeypatch.setenv("MINE", "scripted-key")
    with ScriptedEngine([say("x")]) as scripted:
        found = reach(scripted.base_url, api_key_env="MINE", model="m", kind="vllm")
        assert (found.engine.api_key, found.engine.kind, found.key_env) == ("scripted-key", "vllm", "MINE")
    with pytest.raises(UsageError, match="KNB640"):
        reach("http://127.0.0.1:1/v1", api_key_env="NOT_SET_AT_ALL", model="m", kind="vllm")


def test_titles_and_names():
    talk = Conversation().asking("a\n" * 100)
    assert len(talk.title) == 60
    assert Conversation().title == ""
    assert Turn("x").again().earlier == ()
