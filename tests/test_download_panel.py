"""The download panel without a browser: what it says is what the disk and the Hub say, and nothing breaks it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from faulty_hub import MIB, REPO, Fault, FaultyHub, make_repo, same_files, start_download
from hypothesis import given, settings
from hypothesis import strategies as some
from system import wait_until

from kimi_nb import panel as panels
from kimi_nb.engine import download as actions
from kimi_nb.engine.download import Options, download
from kimi_nb.engine.fetch.background import Phase, Task, begin, latest
from kimi_nb.engine.fetch.part import WINDOW
from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.engine.fetch.stock import files_of, stock
from kimi_nb.panel import download_view as view
from kimi_nb.panel import nodes as n
from kimi_nb.panel.download_choice import target_of
from kimi_nb.plan import Plan

NAME = f"{REPO}:Q4"


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return make_repo(tmp_path_factory.mktemp("hub") / "repos" / REPO, quants=("Q4", "Q2"), shards=3, mib=4)


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """What a panel still looks up must not go on beside the next test."""
    yield
    names = ("kimi-nb", "fetch-", "keep-", "check")
    wait_until(lambda: not [one.name for one in threading.enumerate() if one.name.startswith(names)])


@pytest.fixture
def hub(repo, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with FaultyHub(repo.parents[1]) as running:
        running.licenses[REPO] = "modified-mit"
        yield running


def opened(hub, folder, quant="Q4", **options):
    panel = panels.download(
        REPO, quant, folder=folder, endpoint=hub.endpoint, options=Options(backoff_s=0.05, **options)
    )
    return looked(panel)


def looked(panel):
    looking = panel._looking
    if looking is not None:
        looking.join(30)
    wait_until(lambda: "Looking what there is" not in words(panel))
    return panel


def words(panel):
    return "\n".join(n.words_of(panel.view["nodes"]))


def state(panel):
    return n.find(panel.view["nodes"], "text", key="state")["text"]


def button(panel, name):
    return n.find(panel.view["nodes"], "button", name=name)


def whole(panel):
    return n.find(panel.view["nodes"], "progress", key="whole")


def ended(panel):
    work = latest(NAME, panel._shelf.folder)
    assert work.wait(60)
    looked(panel)
    wait_until(lambda: not button(panel, "start")["disabled"].startswith("It is under way"))
    return work


def served(hub):
    return sum(hub.sent().values())


# ---- before, during, after


def test_what_would_come_is_said_before_the_first_byte(hub, repo, tmp_path):
    panel = opened(hub, tmp_path / "models")
    said = words(panel)
    size = sum(path.stat().st_size for path in repo.glob("Q4/*"))
    assert f"To fetch: {size / 1e6:.1f} MB, 3 files, {size / 1e6:.1f} MB in all" in said
    assert "Free afterwards: " in said
    assert "GB free now" in said
    assert "Licence: modified-mit." in said
    assert hub.find(REPO, "main")[0][:12] in said
    assert state(panel) == "Not begun."
    assert button(panel, "start")["label"] == "Download"
    assert button(panel, "pause")["disabled"] == "Nothing is under way."
    assert f"None yet in {tmp_path / 'models'}." in said
    assert served(hub) == 0


def test_download_pause_and_resume(hub, repo, tmp_path):
    panel = opened(hub, tmp_path, limit_bytes_s=1.5e6)
    panel.press("start")
    wait_until(lambda: (whole(panel)["fraction"] or 0) > 0.1)
    assert state(panel) == "Downloading ..."
    wait_until(lambda: "/s, over the last minute\nTime left: " in words(panel))
    assert button(panel, "start")["disabled"] == "It is under way."
    started = time.monotonic()
    panel.press("pause")
    assert state(panel) == "Pausing ..."
    work = ended(panel)
    assert work.phase is Phase.PAUSED
    assert time.monotonic() - started < 10
    wait_until(lambda: state(panel).startswith("Paused at "))
    assert button(panel, "start")["label"] == "Resume"
    came = served(hub)
    panel.choose(limit="")
    panel.press("start")
    result = ended(panel).result
    wait_until(lambda: state(panel) == "Whole: every byte of every file was verified.")
    assert result.fetched_bytes <= result.manifest.size - came + 3 * WINDOW
    assert result.fetched_bytes < result.manifest.size
    assert button(panel, "start")["disabled"] == "It is whole already."
    assert n.find(panel.view["nodes"], "code")["text"] == str(result.first_shard)
    table = n.find(panel.view["nodes"], "table")
    assert table["rows"] == [[NAME, f"{result.manifest.size / 1e6:.1f} MB", "verified, every byte"]]
    same_files(repo, tmp_path / REPO)


def test_pressed_twice_there_is_one_download(hub, repo, tmp_path):
    panel = opened(hub, tmp_path, limit_bytes_s=10e6)
    for _ in range(3):
        panel.press("start")
    ended(panel)
    assert served(hub) == sum(path.stat().st_size for path in repo.glob("Q4/*"))


def test_two_panels_of_a_kernel_show_the_same(hub, tmp_path):
    first, second = opened(hub, tmp_path, limit_bytes_s=1.5e6), opened(hub, tmp_path)
    first.press("start")
    wait_until(lambda: state(second) == "Downloading ..." and (whole(second)["fraction"] or 0) > 0)
    second.press("pause")
    ended(first)
    wait_until(lambda: state(first).startswith("Paused") and state(second).startswith("Paused"))


def test_another_process_is_seen_and_not_disturbed(hub, repo, tmp_path):
    other = start_download(hub, tmp_path, extra=", limit_bytes_s=2.5e6")
    wait_until(lambda: served(hub) > MIB)
    panel = opened(hub, tmp_path)
    assert state(panel) == "Another process is fetching it."
    assert "another process is fetching it" in words(panel)
    before = whole(panel)["fraction"]
    wait_until(lambda: whole(panel)["fraction"] > before)
    panel.press("start")
    wait_until(lambda: "Another process is fetching Q4/" in words(panel))
    out, error = other.communicate(timeout=60)
    assert other.returncode == 0, (out, error)
    ended(panel)
    wait_until(lambda: state(panel).startswith("Whole"))
    assert served(hub) == sum(path.stat().st_size for path in repo.glob("Q4/*")), "nothing came twice"


def test_after_kill_9_the_panel_says_how_far_it_came_and_goes_on(hub, repo, tmp_path):
    code = (
        "import kimi_nb.panel, time\n"
        "from kimi_nb.engine.download import Options\n"
        f"panel = kimi_nb.panel.download({REPO!r}, 'Q4', folder={str(tmp_path)!r}, endpoint={hub.endpoint!r},\n"
        "    options=Options(limit_bytes_s=3e6))\n"
        "panel.wait(30)\n"
        "panel.press('start')\n"
        "time.sleep(60)\n"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"KIMI_NB_HEADLESS": "1"})
    shelf = Shelf(tmp_path)
    wait_until(lambda: sum(f.done for e in shelf.entries() for f in files_of(shelf, e)) > 2 * MIB)
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    panel = opened(hub, tmp_path)
    assert state(panel).startswith("Not finished at ")
    assert button(panel, "start")["label"] == "Resume"
    shown = whole(panel)["fraction"]
    size = sum(path.stat().st_size for path in repo.glob("Q4/*"))
    assert 2 * MIB < shown * size < size
    panel.press("start")
    wait_until(lambda: state(panel).startswith("Whole"))
    fetched = ended(panel).result.fetched_bytes
    assert fetched == size - round(shown * size), "what the panel said was here was not fetched again"
    same_files(repo, tmp_path / REPO)


# ---- what goes wrong


def test_a_disk_without_room_says_what_to_do(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("kimi_nb.engine.fetch.preflight.RESERVE", shutil.disk_usage(tmp_path).free)
    panel = opened(hub, tmp_path)
    said = words(panel)
    assert "KNB408" in said
    assert "choose another disk" in said
    assert "More about KNB408" in said
    assert served(hub) == 0
    monkeypatch.setattr("kimi_nb.engine.fetch.preflight.RESERVE", 0)
    panel.press("look")
    assert "KNB408" not in words(looked(panel))


def test_what_stops_it_on_the_way_is_told_and_tried_again(hub, repo, tmp_path):
    panel = opened(hub, tmp_path, refusals=0, connections=1)
    hub.faults = [Fault("flip", times=1000, at=MIB)]
    panel.press("start")
    ended(panel)
    assert "KNB412" in words(panel)
    assert button(panel, "start")["label"] == "Try again"
    assert n.find(panel.view["nodes"], "text", key="state")["tone"] == "bad"
    hub.faults = []
    panel.press("start")
    ended(panel)
    wait_until(lambda: state(panel).startswith("Whole"))
    same_files(repo, tmp_path / REPO)


def test_a_repository_that_is_not_there(hub, tmp_path):
    panel = opened(hub, tmp_path, "Q9")
    assert "KNB405" in words(panel)
    panel.choose(repo="no/such", repo_quant="Q4")
    assert "KNB401" in words(looked(panel))
    panel.choose(repo="", repo_quant="")
    assert "KNB980" in words(panel)
    assert button(panel, "look")["disabled"] == "Choose a model first."
    panel.press("start")  # by a message: the button is not there
    assert "KNB401" in words(panel) or "KNB980" in words(panel)
    panel.choose(repo=REPO, repo_quant="Q2")
    assert "3 files" in words(looked(panel))


def test_offline_what_is_here_is_still_shown(hub, tmp_path, monkeypatch):
    download(REPO, "Q4", endpoint=hub.endpoint, folder=tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    panel = opened(hub, tmp_path)
    assert state(panel).startswith("Whole")
    assert "To fetch: nothing" in words(panel)
    panel.choose(repo_quant="Q2")
    assert "KNB407" in words(looked(panel))


# ---- what is here


def test_verify_tells_of_a_damaged_byte_and_mends_it(hub, repo, tmp_path):
    files = download(REPO, "Q4", endpoint=hub.endpoint, folder=tmp_path).files
    panel = opened(hub, tmp_path)
    panel.press("verify")
    ended(panel)
    wait_until(lambda: "was read again: every byte is right" in words(panel))
    with files[1].open("r+b") as file:
        file.seek(2 * MIB)
        byte = file.read(1)[0]
        file.seek(2 * MIB)
        file.write(bytes([byte ^ 1]))
    panel.press("look")
    looked(panel)
    assert "changed since it was verified" in words(panel)
    panel.press("verify")
    ended(panel)
    wait_until(lambda: "KNB416" in words(panel))
    before = served(hub)
    panel.press("repair")
    work = ended(panel)
    assert work.task is Task.REPAIR
    assert served(hub) - before == work.result.fetched_bytes <= 2 * MIB
    wait_until(lambda: state(panel).startswith("Whole"))
    same_files(repo, tmp_path / REPO)


def test_verifying_can_be_stopped(hub, tmp_path, monkeypatch):
    download(REPO, "Q4", endpoint=hub.endpoint, folder=tmp_path)
    panel = opened(hub, tmp_path)
    monkeypatch.setattr("kimi_nb.engine.fetch.check.PIECE", 4096)
    wait = time.sleep
    monkeypatch.setattr(
        "kimi_nb.engine.fetch.check.memoryview", lambda b: wait(0.5) or memoryview(b), raising=False
    )
    panel.press("verify")
    panel.press("stop")
    assert ended(panel).phase is Phase.PAUSED


def test_removing_asks_first_and_takes_its_own_files_only(hub, tmp_path):
    for quant in ("Q4", "Q2"):
        download(REPO, quant, endpoint=hub.endpoint, folder=tmp_path)
    panel = opened(hub, tmp_path)
    assert n.find(panel.view["nodes"], "select", name="set")["value"] == NAME
    panel.press("remove")
    assert f"Removing {NAME} deletes 3 files and frees 12.6 MB." in words(panel)
    panel.press("keep")
    assert "Nothing was removed." in words(panel)
    assert len(stock(Shelf(tmp_path))) == 2
    panel.press("remove")
    panel.choose(set=f"{REPO}:Q2")  # another one: the question was not about that
    panel.press("sure")
    assert len(stock(Shelf(tmp_path))) == 2
    panel.choose(set=NAME)
    panel.press("remove")
    with next((tmp_path / REPO / "Q4").iterdir()).open("rb"):
        panel.press("sure")
        assert "KNB418" in words(panel)
    panel.press("remove")
    panel.press("sure")
    assert f"{NAME} was removed." in words(panel)
    assert [one.entry.manifest.quant for one in stock(Shelf(tmp_path))] == ["Q2"]
    assert not (tmp_path / REPO / "Q4").exists()
    looked(panel)
    assert state(panel) == "Not begun."


# ---- choices, messages, summaries


def test_a_saved_plan_says_what_to_download(hub, tmp_path, monkeypatch):
    from kimi_nb.machine import load_profile
    from kimi_nb.model.candidates import candidates
    from kimi_nb.plan import make_plan

    (candidate,) = candidates("kimi-k2.5", "UD-TQ1_0")
    plan = make_plan(candidate, load_profile("h200x8")).plan
    plan.save(tmp_path / "plan.json")
    asked = []

    def plan_download(model, quant, **_more):
        asked.append((model, quant))
        raise KeyboardInterrupt

    monkeypatch.setattr(actions, "plan_download", plan_download)
    panel = panels.download(saved=tmp_path / "plan.json", folder=tmp_path, endpoint=hub.endpoint)
    panel._looking.join(30)
    assert asked == [("unsloth/Kimi-K2.5-GGUF", "UD-TQ1_0")]
    assert target_of(panel.chosen) == (Plan.load(tmp_path / "plan.json").model.repo, "UD-TQ1_0")
    panel.choose(plan=str(tmp_path / "none.json"))
    assert "none.json" in words(panel)
    assert "KNB" in words(panel)
    panel.choose(source="kimi-k2.5", quant="ud-q2_k_xl")
    assert panel.chosen["quant"] == "unsloth/UD-Q2_K_XL"
    panel._looking.join(30)
    assert asked[-1] == ("kimi-k2.5", "unsloth/UD-Q2_K_XL")
    assert "nano is not to be downloaded" in words(panels.download("nano", folder=tmp_path))


@settings(max_examples=40)
@given(
    name=some.sampled_from(["source", "quant", "repo", "repo_quant", "plan", "folder", "limit", "set", "x"]),
    value=some.one_of(
        some.none(), some.integers(), some.text(max_size=20), some.lists(some.none(), max_size=2)
    ),
    press=some.sampled_from(["", "pause", "look", "stop", "remove", "keep", "sure", "draw", "wait"]),
)
def test_whatever_is_sent_the_panel_says_something_true(tmp_path, monkeypatch, name, value, press):
    def plan_download(*_words, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(actions, "plan_download", plan_download)
    monkeypatch.setattr("kimi_nb.panel.download_panel._TYPING_S", 0)
    panel = panels.download(REPO, "Q4", folder=tmp_path)
    panel._hear(panel, {"set": {name: value}, "press": press, "from": "a tab", "number": 7}, [])
    panel._looking.join(30)
    assert panel.view["seen"] == {"a tab": 7}
    assert state(panel)
    json.dumps(panel.view)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_headless_it_is_a_static_page(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    download(REPO, "Q4", endpoint=hub.endpoint, folder=tmp_path)
    shown, _ = opened(hub, tmp_path).wait(30)._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"}
    assert "Whole: every byte of every file was verified." in shown["text/plain"]
    assert "verified, every byte" in shown["text/plain"]
    assert "verified, every byte" in shown["text/html"]
    assert "<button" not in shown["text/html"]


def test_how_far_each_file_is_can_be_read_while_it_is_fetched(hub, tmp_path):
    work = begin(
        Task.DOWNLOAD, REPO, "Q4", folder=tmp_path, endpoint=hub.endpoint, options=Options(limit_bytes_s=1e6)
    )
    assert begin(Task.VERIFY, REPO, "Q4", folder=tmp_path) is work
    wait_until(lambda: work.progress is not None and work.progress.done_bytes > MIB)
    shelf = Shelf(tmp_path)
    entry = shelf.find(REPO, "Q4")
    assert "elsewhere" in {file.state.value for file in files_of(shelf, entry)} <= {"elsewhere", "done"}
    work.pause()
    assert work.wait(30)
    left = files_of(shelf, entry)
    assert "waiting" in {file.state.value for file in left} <= {"waiting", "done"}
    assert sum(file.done for file in left) >= work.progress.done_bytes
    assert work.result is None


def test_what_speaks_against_a_large_model_is_said_first(hub, tmp_path):
    plan = actions.plan_download(REPO, "Q4", folder=tmp_path, endpoint=hub.endpoint)
    (first, *_) = plan.manifest.files
    large = replace(plan.manifest, files=(replace(first, size=240 * 10**9),), license=None)
    fits = n.words_of(view.facts(replace(plan, manifest=large, fetch_bytes=240 * 10**9)))
    assert "To fetch: 240.00 GB, 1 file, 240.00 GB in all" in fits
    assert "This machine's memory: fits, estimated by its size" in fits
    assert any("names none" in line for line in fits)
    warned = view.facts(
        replace(plan, manifest=large, warnings=("/x is memory",), outlook=("it is too large",))
    )
    assert "This machine's memory: see below, estimated by its size" in n.words_of(warned)
    assert n.find(warned, "text", key="it is too large")["tone"] == "warn"
    assert n.find(warned, "text", key="/x is memory")["text"] == "/x is memory."
