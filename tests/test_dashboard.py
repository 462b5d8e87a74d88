"""The dashboard without a browser: what is chosen in one panel is used by the next."""

import json
import shutil

import pytest
from faulty_hub import FaultyHub
from system import wait_until

from kimi_nb import panel as panels
from kimi_nb.panel import nodes as n
from kimi_nb.panel import server_panel
from kimi_nb.plan import Settings

pytestmark = pytest.mark.engine


@pytest.fixture
def dashboard(build, nano, tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("KIMI_NB_CHATS", str(tmp_path / "chats"))
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    yield panels.dashboard(
        settings=Settings(threads=1, cache_ram=0), folder=tmp_path / "models", endpoint="http://127.0.0.1:9"
    )
    for server in server_panel._ours:
        server.stop()
    server_panel._ours.clear()


def shown(panel):
    return panel.view["nodes"]


def test_what_was_planned_is_served_and_talked_to(dashboard):
    plan, server, chat = dashboard.plan, dashboard.server, dashboard.chat
    assert dashboard.said[:3] == ["Fits", "Nothing to fetch", "No server runs here"]
    chat.wait(20)
    assert "Press Start in the server panel" in n.find(shown(chat), "text", key="unreached")["text"]
    plan.choose(ctx_size=4096, parallel=2)
    wait_until(
        lambda: "4,096 tokens of context, 2 slots" in n.find(shown(server), "text", key="said")["text"]
    )
    server.press("start")
    server.wait(60)
    assert server.facts.work.slot_ctx == 2048
    wait_until(lambda: dashboard.said[2:] == ["Ready", "Ready"])
    chat.wait(20)
    chat.ask("What is 3 + 4?").wait(60)
    assert chat.conversation.turns[-1].state == "answered"
    wait_until(lambda: dashboard.said[3] == "Answered")
    server.press("stop")
    wait_until(lambda: dashboard.said[2] == "Stopped")
    wait_until(lambda: n.find(shown(chat), "text", key="unreached"))


def test_what_is_planned_is_what_would_be_fetched_and_is_served_once_it_is_there(dashboard, nano, tmp_path):
    plan, download, server = dashboard.plan, dashboard.download, dashboard.server
    plan.choose(source="kimi-k2.5")
    assert (download.chosen["source"], download.chosen["quant"]) == ("kimi-k2.5", plan.chosen["quant"])
    wait_until(lambda: "KNB540" in n.find(shown(server), "text", key="said")["text"])
    server.press("start")
    assert "kimi-nb download" in n.find(shown(server), "text", key="trouble")["text"]
    assert server.models_folder == tmp_path / "models"
    shutil.copy(nano, tmp_path / "mine.gguf")
    plan.choose(source="a file", file=str(tmp_path / "mine.gguf"))
    wait_until(lambda: n.find(shown(server), "text", key="said")["text"].startswith("mine: "))
    assert dashboard.said[1] == "Nothing to fetch"


def test_what_was_downloaded_is_served(build, nano, tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("KIMI_NB_CHATS", str(tmp_path / "chats"))
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    repo = tmp_path / "hub" / "someone" / "nano-GGUF"
    (repo / "Q8_0").mkdir(parents=True)
    shutil.copy(nano, repo / "Q8_0" / "nano-Q8_0.gguf")
    with FaultyHub(tmp_path / "hub") as hub:
        dashboard = panels.dashboard(
            settings=Settings(threads=1, cache_ram=0), folder=tmp_path / "models", endpoint=hub.endpoint
        )
        download, server = dashboard.download, dashboard.server
        server.choose(source="set")
        assert "KNB971" in n.find(shown(server), "text", key="said")["text"]
        download.choose(source="a repository", repo="someone/nano-GGUF", repo_quant="Q8_0")
        download.wait(30)
        download.press("start")
        wait_until(lambda: "someone/nano-GGUF:Q8_0" in server._sets)
    assert n.find(shown(server), "text", key="said")["text"].startswith("nano-Q8_0.gguf: ")
    server.press("start")
    try:
        server.wait(60)
        assert server.facts.state == "ready"
        assert server._server.model.is_relative_to(tmp_path / "models")
        assert (
            dashboard.chat.wait(20).ask("What is 3 + 4?").wait(60).conversation.turns[-1].state == "answered"
        )
    finally:
        server.press("stop")
        wait_until(lambda: dashboard.said[2] == "Stopped")


def test_headless_it_shows_all_four(dashboard):
    still, _ = dashboard._repr_mimebundle_()
    assert set(still) == {"text/plain", "text/html"}
    for words in ("Plan: will it fit", "Download: what comes", "Server: start it", "Chat"):
        assert words in still["text/html"]
    assert "<script" not in still["text/html"]
    json.dumps([panel.view for panel in dashboard.panels])
