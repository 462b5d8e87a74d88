"""The chat panel without a browser: real nano on a real llama-server, and engines that misbehave as told."""

import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scripted_engine import Act, ScriptedEngine, say
from system import wait_until

from kimi_nb import panel as panels
from kimi_nb.chat import tool
from kimi_nb.chat.history import History
from kimi_nb.chat.reach import reach
from kimi_nb.errors import UsageError
from kimi_nb.panel import nodes as n
from kimi_nb.panel import still
from kimi_nb.panel.chat_view import blocks
from kimi_nb.panel.patches import changes

WAIT_S = 60


@tool
def get_weather(city: str) -> dict:
    """Get the weather of a city.

    Args:
        city: name of the city
    """
    return {"temp_c": {"Rome": 31, "Oslo": -4}[city], "sky": "sun"}


@pytest.fixture
def scripted():
    engines = []

    def start(*acts, **more):
        engine = ScriptedEngine(list(acts), **more)
        engines.append(engine.__enter__())
        return engine

    yield start
    for engine in engines:
        engine.__exit__()


@pytest.fixture
def opened(tmp_path):
    made = []

    def panel(to, **more):
        made.append(panels.chat(to, history=tmp_path / "chats", **more).wait(WAIT_S))
        return made[-1]

    yield panel
    for each in made:
        each.press("stop")
        each.wait(WAIT_S)


def said(panel):
    return panel.view["nodes"]


def words(panel):
    return "\n".join(n.words_of(said(panel)))


def messages(panel):
    return n.find(said(panel), "feed")["items"]


@pytest.mark.engine
def test_nano_thinks_answers_and_uses_a_tool(server, opened):
    panel = opened(server, tools=[get_weather])
    assert "nano, llama-server at http://127.0.0.1" in words(panel)
    panel.choose(sampling="steady", tool_get_weather=False)
    panel.ask("How many experts does Kimi K2.5 have?").wait(WAIT_S)
    you, nano = messages(panel)
    assert (you["who"], nano["who"]) == ("You", "nano")
    thinking = n.find([nano], "fold", key="thinking-0")
    assert not thinking["opened"]
    assert thinking["items"][0]["text"]
    assert "384" in n.find([nano], "text", key="text-0-0")["text"]
    figures = n.find([nano], "text", key="figures-0")["text"]
    assert figures.startswith("First token after")
    assert "first answer token after" in figures
    assert "tokens/s" in figures
    panel.choose(conversation="new", mode="instant", tool_get_weather=True)
    panel.ask("What is the weather in Rome?").wait(WAIT_S)
    call = n.find(said(panel), "fold", key="call-0-0")
    assert call["label"].startswith("Tool get_weather: done in")
    assert [item["text"] for item in call["items"]] == [
        'Arguments: {"city":"Rome"}',
        'Result: {"temp_c":31,"sky":"sun"}',
    ]
    assert "31" in panel.conversation.turns[0].said[-1].content
    with pytest.raises(LookupError):
        n.find(said(panel), "fold", key="thinking-0")


@pytest.mark.engine
def test_stop_ends_it_frees_the_slot_and_keeps_what_came(server, opened):
    panel = opened(server)
    panel.choose(sampling="own", temperature=2.0, top_p=1.0)
    for _ in range(20):  # until nano rambles for long enough to be stopped
        panel.ask("Tell me everything about everything, at length.")
        wait_until(lambda: any(slot["is_processing"] for slot in server.slots()) or not panel.busy)
        panel.press("stop")
        panel.wait(WAIT_S)
        if panel.conversation.turns[-1].state == "cancelled":
            break
    assert panel.conversation.turns[-1].state == "cancelled"
    wait_until(lambda: not any(slot["is_processing"] for slot in server.slots()))
    assert "You stopped this answer." in words(panel)
    assert not panel.busy
    panel.choose(sampling="steady", conversation="new")
    panel.ask("Who are you?").wait(WAIT_S)
    assert panel.conversation.turns[-1].state == "answered"


def test_regenerate_edit_and_resend_lose_nothing(scripted, opened):
    engine = scripted(*(say(f"Answer {i}.") for i in range(5)))
    panel = opened(engine.engine)
    for question in ("One?", "Two?"):
        panel.ask(question).wait(WAIT_S)
    first = panel.conversation.id
    panel.press("regenerate")
    panel.wait(WAIT_S)
    assert panel.conversation.turns[-1].said[0].content == "Answer 2."
    (earlier,) = n.find(said(panel), "fold", label="Earlier answers (1)")["items"]
    assert "Answer 1." in n.words_of([earlier])
    assert [m["content"] for m in engine.bodies[-1]["messages"]] == ["One?", "Answer 0.", "Two?"]
    panel.press("edit", of="0")
    assert n.find(said(panel), "area", name="edited")["value"] == "One?"
    panel.press("resend", edited="Uno?")
    panel.wait(WAIT_S)
    assert [m["content"] for m in engine.bodies[-1]["messages"]] == ["Uno?"]
    assert [turn.asked for turn in panel.conversation.turns] == ["Uno?"]
    assert panel.conversation.id != first
    panel.choose(conversation=first)
    assert [turn.asked for turn in panel.conversation.turns] == ["One?", "Two?"]
    assert "Answer 2." in words(panel)
    for nonsense in ("", "7", "-1", "x"):
        panel.press("edit", of=nonsense)
        with pytest.raises(LookupError):
            n.find(said(panel), "area", name="edited")


def test_what_was_said_outlives_the_panel_and_can_be_deleted(scripted, opened, tmp_path):
    engine = scripted(say("Hello you."))
    opened(engine.engine, system="Be kind.").ask("Hello?").wait(WAIT_S)
    later = opened(engine.engine)
    (entry,) = History(tmp_path / "chats").entries()
    options = dict(n.find(said(later), "select", name="conversation")["options"])
    assert options[entry.id].endswith("Hello? (1)")
    later.choose(conversation=entry.id)
    assert "Hello you." in words(later)
    assert n.find(said(later), "area", name="system")["value"] == "Be kind."
    later.ask("And now?").wait(WAIT_S)
    sent = [m["content"] for m in engine.bodies[-1]["messages"]]
    assert sent == ["Be kind.", "Hello?", "Hello you.", "And now?"]
    later.press("delete")
    assert len(History(tmp_path / "chats").entries()) == 1
    later.press("delete_not")
    later.press("delete_now")  # nobody was asked
    assert len(History(tmp_path / "chats").entries()) == 1
    later.press("delete")
    later.press("delete_now")
    assert History(tmp_path / "chats").entries() == []
    assert later.conversation.turns == ()


def test_a_dangerous_tool_waits_for_permission(scripted, opened):
    ran = []

    @tool(dangerous=True)
    def delete_all(folder: str) -> str:
        """Delete a folder."""
        ran.append(folder)
        return "gone"

    call = say(calls=[("functions.delete_all:0", "delete_all", '{"folder":"/"}')])
    engine = scripted(call, say("Refused."), call, say("Done."), call)
    panel = opened(engine.engine, tools=[delete_all])
    for decision, wanted in (("refuse", []), ("allow", ["/"])):
        panel.ask("Clean up")
        wait_until(lambda: "Your permission" in words(panel))
        assert '"folder": "/"' in words(panel)
        assert "Waiting for you: may delete_all run?" in words(panel)
        panel.press(decision)
        panel.wait(WAIT_S)
        assert ran == wanted
        assert "Your permission" not in words(panel)
    panel.ask("Clean up")
    wait_until(lambda: "Your permission" in words(panel))
    panel.press("stop")
    panel.wait(WAIT_S)
    assert ran == ["/"]
    assert panel.conversation.turns[-1].state == "cancelled"


def test_errors_are_one_line_and_the_panel_goes_on(scripted, opened):
    engine = scripted(
        Act(status=401, body={"error": {"message": "Invalid API Key"}}),
        Act(status=500, body="<b>out of order</b>"),
        Act(
            status=400,
            body={"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}},
        ),
        say("Fine again."),
    )
    panel = opened(engine.engine)
    for id_ in ("KNB602", "KNB606", "KNB604"):
        panel.ask("Hello?").wait(WAIT_S)
        ending = n.find(messages(panel)[-1]["items"], "text", key="ending")
        assert ending["text"].startswith(id_)
        assert "\n" not in ending["text"]
        assert "out of order" not in ending["text"] or "<b>" in ending["text"]
    panel.press("regenerate")
    panel.wait(WAIT_S)
    assert "Fine again." in words(panel)
    assert len(engine.bodies[-1]["messages"]) == 1
    panel.press("send", ask="  ")
    assert "KNB960" in words(panel)
    panel.press("send", ask="Hello again")
    panel.wait(WAIT_S)
    assert "KNB960" not in words(panel)


def test_no_engine_is_told_and_looked_for_again(opened, scripted, monkeypatch, tmp_path):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    panel = opened("no-such-server")
    assert n.find(said(panel), "text", key="unreached")["text"].startswith("KNB538")
    panel.ask("Hello?").wait(WAIT_S)
    assert "KNB538" in n.find(messages(panel)[-1]["items"], "text", key="ending")["text"]
    panel._find = lambda: reach(scripted(say("Here.")).engine)
    panel.press("look")
    panel.wait(WAIT_S)
    assert "KNB538" not in n.words_of(said(panel)[:2])[0]
    panel.press("regenerate")
    panel.wait(WAIT_S)
    assert "Here." in words(panel)
    with pytest.raises(UsageError, match="KNB620"):
        opened("x", tools=[3])
    with pytest.raises(UsageError, match="KNB622"):
        opened("x", folder=tmp_path / "none")


def test_while_an_answer_is_under_way_nothing_else_is_begun(scripted, opened):
    held = [(0, {"content": "Wait for"}), (0, {"content": " it"})]
    engine = scripted(Act(held, finish=None, done=False, hang=True))
    panel = opened(engine.engine)
    panel.ask("Hello?")
    wait_until(lambda: "Wait for it" in words(panel))
    assert n.find(said(panel), "button", name="send")["disabled"]
    assert not n.find(said(panel), "button", name="stop")["disabled"]
    panel.ask("Me too!")
    assert "KNB961" in words(panel)
    panel.choose(conversation="new")
    assert len(panel.conversation.turns) == 1
    panel.press("stop")
    panel.wait(WAIT_S)
    wait_until(lambda: engine.clients_gone == 1)
    assert [m["content"] for m in panel.conversation.asking("x").messages()] == ["Hello?", "Wait for it", "x"]


def test_a_fast_answer_is_drawn_seldom_and_sent_in_pieces(scripted, opened):
    """3,000 tokens in a second or two: what reaches the browser is what changed, some twenty times a second."""
    engine = scripted(say("Earlier. " * 2000), Act([(0.0005, {"content": f"word{i} "}) for i in range(3000)]))
    panel = opened(engine.engine)
    panel.ask("First?").wait(WAIT_S)
    sent = []
    panel.comm.send = lambda data=None, **_more: sent.append(data)
    began = time.monotonic()
    panel.ask("Go").wait(WAIT_S)
    took = time.monotonic() - began
    wait_until(lambda: not any(thread.name == "kimi-nb panel show" for thread in threading.enumerate()))
    del panel.comm.send
    assert panel.conversation.turns[-1].said[0].content.endswith("word2999 ")
    assert len(sent) < 10 + 25 * took
    assert all(message["method"] == "custom" for message in sent), "never the whole view again"
    # The whole conversation for each drawing would be more than 18 kB times the drawings.
    assert sum(len(json.dumps(message)) for message in sent) < 60_000 + 3_000 * len(sent)


def test_a_browser_that_missed_something_is_sent_all(idle):
    sent = []
    idle.comm.send = lambda data=None, **_more: sent.append(data)
    idle._hear(idle, {"have": idle.view["number"]}, [])
    assert sent == []
    for number in (None, 0, "x", idle.view["number"] - 1):
        idle._hear(idle, {"have": number}, [])
        message = sent.pop()
        assert (message["method"], message["state"]["view"]) == ("update", idle.view)
    del idle.comm.send


def test_what_a_model_writes_stays_text(opened, scripted):
    wild = "<img src=x onerror=alert(1)>\n```html\n<script>alert(2)</script>\n```\n&amp; **bold**"
    panel = opened(scripted(say(wild, "<script>thought</script>")).engine)
    panel.ask("<b>Hello</b>").wait(WAIT_S)
    assert n.find(said(panel), "text", key="text-0-0")["text"] == "<img src=x onerror=alert(1)>"
    assert n.find(said(panel), "code", label="html")["text"] == "<script>alert(2)</script>"
    page = still.as_html(said(panel))
    for piece in ("<img", "<script", "<b>Hello"):
        assert piece not in page


def test_blocks():
    assert blocks("a\n\nb") == [("", "a\n\nb")]
    assert blocks("a\n```py\nx\n\n y\n```\nb") == [("", "a"), ("py", "x\n\n y"), ("", "b")]
    assert blocks("````\n```\n````") == [("Code", "```")]
    assert blocks("```py\nstill being writ") == [("py", "still being writ")]
    assert blocks("use ```x``` inline") == [("", "use ```x``` inline")]
    assert blocks("") == []


_ANY = some.one_of(some.none(), some.integers(), some.floats(), some.booleans(), some.text(max_size=9))
_NAMES = ["conversation", "mode", "sampling", "temperature", "top_p", "max_tokens", "language", "tool_clock"]


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idle")
    with ScriptedEngine([say("Hello.")]) as engine:
        yield panels.chat(engine.engine, history=folder).wait(WAIT_S)


@settings(max_examples=60)
@given(chosen=some.dictionaries(some.sampled_from([*_NAMES, "x"]), _ANY), press=some.text(max_size=9))
def test_whatever_is_sent_the_panel_shows_something_true(idle, chosen, press):
    idle._hear(
        idle, {"set": chosen, "press": press, "from": "a tab", "number": 3, "fields": {"of": press}}, []
    )
    json.dumps(idle.view, allow_nan=False)
    assert n.find(said(idle), "select", name="mode")["value"] in {"thinking", "instant"}
    assert not idle.busy


_LEAF = some.builds(lambda t, k: n.text(t, key=k), some.text("ab", max_size=4), some.sampled_from("xyz"))
_TREE = some.recursive(
    some.lists(_LEAF, max_size=3),
    lambda inner: some.lists(
        some.one_of(_LEAF, some.builds(lambda items: n.fold("f", items, key="k"), inner)), max_size=3
    ),
    max_leaves=12,
)


def applied(nodes, news):
    """What panel.js does with changes."""
    top = {"items": nodes}
    for change in news:
        node = top
        for i in change["at"]:
            node["items"] = list(node["items"])
            node["items"][i] = dict(node["items"][i])
            node = node["items"][i]
        node.update(change.get("set", {}))
        for key, text in change.get("grow", {}).items():
            node[key] += text
        node["items"] = node["items"] + change["add"] if "add" in change else node.get("items")
        if node["items"] is None:
            del node["items"]
    return top["items"]


@given(old=_TREE, new=_TREE)
def test_changes_make_the_new_of_the_old(old, new):
    assert applied(old, json.loads(json.dumps(changes(old, new)))) == new
    assert changes(new, new) == []


def test_headless_it_shows_the_conversation_without_controls(scripted, tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    panel = panels.chat(scripted(say("Hello you.")).engine, history=tmp_path).wait(WAIT_S)
    panel.ask("Hello?").wait(WAIT_S)
    shown, _ = panel._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"}
    assert "You\nHello?" in shown["text/plain"]
    assert "Hello you." in shown["text/html"]
    assert "<button" not in shown["text/html"]
    assert "scripted-key" not in json.dumps(shown)
