"""The server panel without a browser, on real llama-servers: what it starts, what it says, and what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from header_models import ModelShape, kimi_types
from system import alive, wait_until

from kimi_nb import panel as panels
from kimi_nb.chat import Chat
from kimi_nb.engine import LlamaServer, running
from kimi_nb.engine.named_server import NamedServer
from kimi_nb.engine.server_metrics import Meter
from kimi_nb.engine.server_state import ServerState
from kimi_nb.errors import ServerError
from kimi_nb.machine import load_profile
from kimi_nb.model import read_header
from kimi_nb.panel import nodes as n
from kimi_nb.panel import server_panel as module
from kimi_nb.panel import server_view as view
from kimi_nb.panel import still
from kimi_nb.panel.pulse import Pulse
from kimi_nb.panel.server_view import Facts
from kimi_nb.plan import Settings, memory_report

pytestmark = pytest.mark.engine
SHAPE = ModelShape(n_layer=8, types=kimi_types("Q8_0", "Q4_K", "Q4_K", "Q4_0"))
SMALL = Settings(ctx_size=4096, parallel=2, threads=1, cache_ram=0)


def shown(panel):
    return panel.view["nodes"]


def state(panel):
    return n.find(shown(panel), "text", key="state")["text"]


def button(panel, name):
    return n.find(shown(panel), "button", name=name)


@pytest.fixture
def private(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    return tmp_path


@pytest.fixture
def panel(build, nano, private):
    """A panel; what it started is down when the test is over."""
    yield panels.server(settings=SMALL)
    for server in module._ours:
        server.stop()
    module._ours.clear()
    for record in running.running():
        running.stop(record)


def started(panel):
    panel.press("start")
    panel.wait(60)
    assert state(panel).startswith("Ready: "), n.words_of(shown(panel))
    return panel


def test_started_asked_and_stopped(panel):
    assert state(panel) == "No server runs here."
    assert button(panel, "stop")["disabled"]
    heard = []
    panel.observe(lambda change: heard.append(change["new"]), "served")
    started(panel)
    facts = panel.facts
    assert state(panel) == f"Ready: nano answers at {facts.base_url}"
    assert button(panel, "start")["disabled"]
    with Chat(panel.engine) as chat:
        assert chat.ask("Say hello.", max_tokens=8).usage
    assert heard == [panel.engine]
    panel.update()
    slots = n.find(shown(panel), "fact", label="Slots in use")
    assert (slots["value"], slots["said"]) == ("0 of 2", "2,048 tokens of context each")
    assert n.find(shown(panel), "fact", label="Now")["value"] == "idle"
    assert "tokens" in n.find(shown(panel), "fact", label="Written so far")["value"]
    ram = n.find(shown(panel), "bar", label="llama-server's RAM")
    resident = psutil.Process(panel._server.pid).memory_info().rss / 2**20
    assert sum(part[2] for part in ram["parts"]) == pytest.approx(resident, rel=0.2)
    assert "estimated" in ram["said"]
    pid = panel._server.pid
    panel.press("stop")
    wait_until(lambda: state(panel) == "Stopped.")
    assert not alive(pid)
    assert heard[-1] is None
    with pytest.raises(ServerError, match="KNB533"):
        _ = panel.engine
    wait_until(lambda: not panel._pulse.beating)  # nobody is asked any more
    started(panel)


def test_the_key_is_told_of_but_nowhere_shown(panel):
    started(panel)
    key, view = panel.engine.api_key, json.dumps(panel.view)
    assert key not in view
    assert key not in still.as_html(shown(panel))
    path = panel.facts.key_file
    assert path.read_text() == key
    assert path.stat().st_mode & 0o777 == 0o600
    shell = n.find(shown(panel), "code", label="In a terminal")["text"]
    told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(told.stdout)["data"][0]["id"] == "nano"
    code = n.find(shown(panel), "code", label="In a program with openai's package")["text"]
    say = code + "\nprint(client.models.list().data[0].id)"
    told = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "nano"
    panel.press("stop")
    wait_until(lambda: state(panel) == "Stopped.")
    assert not path.exists()


def test_a_restart_keeps_address_and_key(panel):
    before = started(panel).engine
    pid = panel._server.pid
    panel.press("restart")
    panel.wait(60)
    assert state(panel).startswith("Ready")
    assert panel.engine == before
    assert panel._server.pid != pid
    assert not alive(pid)
    panel.choose(restart=True)
    assert "Restart serves it" in n.find(shown(panel), "text", key="changed")["text"]
    panel.choose(restart=False)
    with pytest.raises(LookupError):
        n.find(shown(panel), "text", key="changed")


def test_the_log_is_searched(panel):
    started(panel)
    everything = n.find(shown(panel), "log")["lines"]
    panel.choose(search="LISTENING on")
    found = n.find(shown(panel), "log")["lines"]
    assert len(found) == 1
    assert "listening on http://127.0.0.1" in found[0]
    assert re.fullmatch(r"1 of \d+ lines contain it\.", n.find(shown(panel), "text", key="found")["text"])
    panel.choose(search="no such thing")
    assert n.find(shown(panel), "log")["lines"] == []
    panel.choose(search="")
    assert n.find(shown(panel), "log")["lines"][: len(everything)] == everything


def test_killed_it_says_so_and_starts_again(panel):
    started(panel)
    os.kill(panel._server.pid, signal.SIGKILL)
    wait_until(lambda: state(panel).startswith("Failed: llama-server was killed while it was running"))
    assert n.find(shown(panel), "text", key="fix")["text"].startswith("What to do: ")
    assert n.find(shown(panel), "fold", key="about error")["label"].startswith("More on KNB5")
    wait_until(lambda: not panel._pulse.beating)
    assert not button(panel, "start")["disabled"]
    panel.choose(restart=True)
    started(panel)
    os.kill(panel._server.pid, signal.SIGKILL)
    wait_until(lambda: state(panel).startswith("Failed"))
    assert n.find(shown(panel), "text", key="again")
    wait_until(lambda: state(panel).startswith("Ready"))


def test_a_broken_model_says_why_and_what_to_do(panel, nano, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(nano.read_bytes()[:200_000])
    for file, id_ in (
        (str(broken), "KNB3"),
        ("/no/such.gguf", "KNB330"),
        ("", "KNB970"),
        (str(tmp_path), "KNB3"),
    ):
        panel.choose(source="file", file=file)
        panel.press("start")
        panel.wait(60)
        said = " ".join(n.words_of(shown(panel)))
        assert id_ in said
        assert "Traceback" not in said
        assert not button(panel, "start")["disabled"]
    panel.choose(source="nano", port=99_999)
    panel.press("start")
    assert "KNB524" in n.find(shown(panel), "text", key="trouble")["text"]
    panel.choose(port=0)
    started(panel)


def test_a_saved_plan_is_served_as_it_says(build, private, panel, tmp_path):
    from kimi_nb.cli import main

    plan = tmp_path / "plan.json"
    assert main(["plan", "--model", "nano", "--ctx", "2048", "--save", str(plan)]) == 0
    planned = panels.server(plan, settings=Settings(threads=1))
    assert "2,048 tokens of context" in n.find(shown(planned), "text", key="said")["text"]
    started(planned)
    assert planned.facts.work.slot_ctx == 2048
    planned.press("stop")
    wait_until(lambda: state(planned) == "Stopped.")
    planned.choose(plan=str(tmp_path / "none.json"))
    assert "KNB375" in n.find(shown(planned), "text", key="said")["text"]


def test_a_cell_that_is_run_again_shows_the_server_that_runs(panel):
    started(panel)
    again = panels.server(settings=SMALL)
    assert again.engine == panel.engine
    again.press("stop")
    wait_until(lambda: state(panel) == state(again) == "Stopped.")
    again.press("start")
    again.wait(60)
    assert state(again).startswith("Ready")


def test_kept_running_it_is_found_by_name_and_stopped_from_elsewhere(panel):
    panel.choose(keep=True, name="mine")
    started(panel)
    assert "kimi-nb serve stop --name mine" in n.find(shown(panel), "text", key="note0")["text"]
    with Chat(panel.engine) as chat:
        chat.ask("Say hello.", max_tokens=4)
    assert panel.engine.api_key not in json.dumps(panel.view)
    other = panels.server()
    other.choose(server="mine")
    wait_until(lambda: state(other).startswith("Ready"))
    assert other.engine == panel.engine
    assert "started elsewhere" in button(other, "restart")["disabled"]
    before = running.find("mine").server_pid
    panel.press("restart")
    panel.wait(60)
    assert state(panel).startswith("Ready")
    assert not alive(before)
    other.choose(server="here")
    other.choose(server="mine")
    pids = running.find("mine").pid, running.find("mine").server_pid
    wait_until(lambda: state(other).startswith("Ready"))
    other.press("stop")
    wait_until(lambda: state(other) == "Stopped.")
    wait_until(lambda: "KNB543" in str(panel.facts.error))
    assert state(panel).startswith("Failed: the server mine has ended")
    assert not any(map(alive, pids))
    wait_until(lambda: not psutil.pid_exists(pids[0]), "a zombie of this process, its starter, did not go")
    panel.choose(name="not a name")
    panel.press("start")
    panel.wait(60)
    assert "KNB537" in " ".join(n.words_of(shown(panel)))


def test_stopped_while_it_starts(panel, nano, monkeypatch):
    slow = LlamaServer._launch

    def launch(server, watch, port, cancel):
        cancel.wait(30)
        slow(server, watch, port, cancel)

    monkeypatch.setattr(LlamaServer, "_launch", launch)
    panel.press("start")
    wait_until(lambda: state(panel) == "Starting nano.")
    assert n.find(shown(panel), "progress", key="loading")
    panel.press("start")  # pressed twice
    panel.press("stop")
    wait_until(lambda: state(panel) == "Stopped.")
    assert len(module._ours) == 1


def test_kept_running_it_can_be_stopped_while_it_starts_and_is_told_when_it_hangs(panel):
    panel.choose(keep=True, name="mine")
    for at_first in ("No server runs here", "Starting"):
        panel.press("start")
        wait_until(lambda at_first=at_first: state(panel).startswith(at_first))
        panel.press("stop")
        panel.wait(60)
        assert state(panel) in {"Stopped.", "No server runs here."}
        assert running.running() == []
    started(panel)
    pid = running.find("mine").server_pid
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state(panel).startswith("nano runs but does not answer at present"))
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: state(panel).startswith("Ready"))


def test_nothing_is_left_when_the_kernel_is_killed(build, nano, private):
    script = (
        "import kimi_nb.panel, sys\nfrom kimi_nb.plan import Settings\n"
        "panel = kimi_nb.panel.server(settings=Settings(threads=1, ctx_size=2048))\n"
        "panel.press('start')\nprint(panel.wait()._server.pid, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as kernel:
        pid = int(kernel.stdout.readline())
        assert alive(pid)
        kernel.kill()
        wait_until(lambda: not alive(pid))


def test_memory_and_loading_in_words(tmp_path):
    machine = load_profile("rtx4090-256gb")
    SHAPE.write(tmp_path / "kimi.gguf")
    estimate = memory_report(
        read_header(tmp_path / "kimi.gguf"), Settings(ctx_size=4096, n_cpu_moe=8), machine
    )
    facts = Facts(
        state=ServerState.READY,
        estimate=estimate,
        gpus=machine.gpus,
        memory_mib=(3000.0, 2000.0),
        base_url="x",
    )
    nodes = view.memory_nodes(facts)
    gpu = n.find(nodes, "bar", label="GPU0")
    assert gpu["limit"] == machine.gpus[0].total_mib
    assert (
        f"{estimate.gpus[0].needed_mib:,.0f} MiB estimated" in gpu["said"] or "GiB estimated" in gpu["said"]
    )
    ram = n.find(nodes, "bar", label="llama-server's RAM")
    assert ram["said"].startswith("2.9 GiB now, ")
    assert "for finished prompts" in ram["said"]
    assert ram["limit"] >= sum(part[2] for part in ram["parts"]) == 3000.0
    assert view.memory_nodes(Facts()) == []
    loading = Facts(state=ServerState.STARTING, alias="kimi", loading=("loading 3.2 of 9.1 GB", 0.35))
    assert view.state_nodes(loading)[1]["said"] == "loading 3.2 of 9.1 GB, 35%"


def test_whatever_is_sent_it_shows_something(panel):
    for content in (
        {"set": {"source": 3, "file": [], "port": "x", "search": None, "keep": "", "server": "nobody"}},
        {"set": {"source": "panel"}},
        {"press": "start_all"},
        {"press": "restart"},
        {"press": "stop"},
    ):
        panel._hear(panel, {**content, "from": "a tab", "number": 1}, [])
        json.dumps(panel.view)
        assert state(panel)
    assert "llama" not in still.as_text(shown(panel)).casefold().split("\n")[0]


class Slots:
    """A server of which only the slots and the counters are known."""

    def __init__(self):
        self.now, self.total, self.asked = [], 0.0, 0

    def slots(self):
        return self.now

    def metrics(self):
        self.asked += 1
        return {"tokens_predicted_total": self.total, "tokens_predicted_seconds_total": self.total / 25}


def slot(task, decoded, *, busy=True):
    return {
        "id": 0,
        "n_ctx": 512,
        "id_task": task,
        "is_processing": busy,
        "next_token": [{"n_decoded": decoded}],
    }


def test_speed_is_what_was_written_between_two_looks():
    server, times = Slots(), iter([10.0, 12.0, 13.0, 13.1, 14.0, 15.0])
    meter = Meter(server, clock=lambda: next(times))
    server.now = [slot(7, 0)]
    first = meter.look()
    assert (first.reading, first.tok_s, first.mean_tok_s) == (1, None, None)
    server.now = [slot(7, 30)]
    assert meter.look().tok_s == 15.0
    server.now, server.total = [slot(8, 5)], 40.0  # ten more of the one, and five of the next
    assert meter.look().tok_s == 15.0
    assert meter.look().tok_s == 15.0  # too soon after the last for a new figure
    assert server.asked == 2
    server.now, server.total = [slot(8, 0, busy=False)], 50.0
    last = meter.look()
    assert (last.busy, last.tok_s, last.written, last.mean_tok_s, server.asked) == (0, None, 50, 25.0, 3)
    server.now = [slot(9, 20)]
    assert meter.look().tok_s == 20.0


def test_a_pulse_ends_when_there_is_nothing_to_see_and_begins_again():
    seen, answers = [], iter([0.01, 0.01, None, None])

    def beat():
        seen.append(time.monotonic())
        return next(answers)

    pulse = Pulse(beat, "a pulse")
    pulse.wake()
    wait_until(lambda: not pulse.beating)
    assert len(seen) == 3
    pulse.wake()
    wait_until(lambda: not pulse.beating)
    assert len(seen) == 4


def test_a_named_server_that_is_gone(build, private):
    lost = NamedServer(words=["--model=/nothing.gguf"])
    with pytest.raises(Exception, match="KNB330"):
        lost.start()
    assert (lost.state, lost.error.id, lost.log_tail()) == (ServerState.FAILED, "KNB330", [])
    lost.stop()
    with pytest.raises(ServerError, match="KNB533"):
        lost.slots()
