"""Servers that outlive their starter, and are found, asked and stopped by name."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from system import alive, wait_until

from kimi_nb.engine import running
from kimi_nb.errors import UsageError

pytestmark = pytest.mark.engine

SMALL = ("--ctx-size", "2048", "--threads", "1", "--cache-ram", "0")


@pytest.fixture
def cli(tmp_path, nano, monkeypatch):
    """Run ``kimi-nb serve ...`` to its end; whatever it left running is killed when the test is over."""
    monkeypatch.setenv("KIMI_NB_RUNTIME", str(tmp_path / "run"))

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "kimi_nb.cli", "serve", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    yield call
    for record in running.running():
        if record.pid == os.getpid():
            continue
        os.kill(record.pid, signal.SIGKILL)
        wait_until(lambda record=record: record.server_pid is None or not alive(record.server_pid))


def started(cli, tmp_path, *words):
    done = cli("--json", "--detach", "--model", "nano", "--log", str(tmp_path / "d.log"), *SMALL, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_it_runs_on_and_is_found_asked_and_stopped(cli, tmp_path):
    told = started(cli, tmp_path)
    assert told["name"] == "nano"
    assert alive(told["pid"])
    assert alive(told["server_pid"])
    status = json.loads(cli("status", "--json").stdout)
    assert status["servers"] == [told | {"state": "ready"}]
    assert "ready" in cli("status").stdout
    lines = json.loads(cli("logs", "--json", "--lines", "1000").stdout)["lines"]
    assert any("listening on" in line for line in lines)
    assert cli("logs", "--lines", "1").stdout.count("\n") == 1
    key_file = Path(told["api_key_file"])
    assert key_file.read_text() not in json.dumps([status, lines, told])
    assert cli("stop").stdout == "nano is stopped\n"
    assert not alive(told["pid"])
    assert not alive(told["server_pid"])
    assert not key_file.exists()
    nothing = cli("status")
    assert nothing.returncode == 1
    assert nothing.stdout.startswith("no server runs here; start one with ")
    assert json.loads(cli("status", "--json").stdout) == {"servers": []}


def test_names_are_chosen_given_and_never_shared(cli, tmp_path):
    first = started(cli, tmp_path)
    second = started(cli, tmp_path)
    third = started(cli, tmp_path, "--name", "mine")
    assert [one["name"] for one in (first, second, third)] == ["nano", "nano-2", "mine"]
    taken = cli("--json", "--detach", "--model", "nano", "--name", "mine", *SMALL)
    assert (taken.returncode, json.loads(taken.stdout)["error"]["id"]) == (2, "KNB537")
    unclear = cli("stop", "--json")
    assert (unclear.returncode, json.loads(unclear.stdout)["error"]["id"]) == (2, "KNB538")
    assert cli("stop", "--name", "nano-2").returncode == 0
    assert [one["name"] for one in json.loads(cli("status", "--json").stdout)["servers"]] == ["nano", "mine"]


def test_its_errors_arrive_where_it_was_started(cli):
    for words, code, id_ in (
        (["--model", "/nothing.gguf"], 2, "KNB330"),
        (["--model", "nano", "--override-tensor", "exps=NOPE"], 1, "KNB515"),
        (["--model", "nano", "--ctx-size", "8k"], 2, "KNB501"),
        (["--model", "nano", "--name", "a b"], 2, "KNB537"),
        ([], 2, "KNB539"),
    ):
        done = cli("--json", "--detach", *words)
        assert (done.returncode, json.loads(done.stdout)["error"]["id"]) == (code, id_)
    assert running.running() == []


def test_nothing_to_stop_or_to_show(cli):
    for action in ("stop", "logs"):
        done = cli(action, "--json", "--name", "nobody")
        assert (done.returncode, json.loads(done.stdout)["error"]["id"]) == (2, "KNB538")


def test_kill_9_of_a_detached_one_takes_its_server_and_its_record(cli, tmp_path):
    told = started(cli, tmp_path)
    os.kill(told["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(told["server_pid"]))
    assert cli("status").returncode == 1


def test_one_that_hangs_is_told_as_degraded_and_stopped_by_force(cli, tmp_path):
    told = started(cli, tmp_path)
    os.kill(told["server_pid"], signal.SIGSTOP)
    assert json.loads(cli("status", "--json").stdout)["servers"][0]["state"] == "degraded"
    os.kill(told["pid"], signal.SIGSTOP)
    record = running.find("nano")
    running.stop(record, within_s=0.3)
    wait_until(lambda: not alive(told["pid"]) and not alive(told["server_pid"]))


def test_it_outlives_a_notebook_and_even_a_guarded_run(cli, tmp_path):
    """As from a cell of a notebook that a headless run executes: the run's guardian spares it."""
    from kimi_nb.processes import spawn

    words = ["serve", "--json", "--detach", "--model", "nano", "--log", str(tmp_path / "d.log"), *SMALL]
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'kimi_nb.cli', *{words!r}], check=True)"
    with spawn([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=120)
    told = json.loads(output)
    time.sleep(0.5)
    assert alive(told["pid"])
    assert alive(told["server_pid"])
    assert cli("stop").returncode == 0
    assert not alive(told["server_pid"])


def test_one_in_the_foreground_is_on_record_too(cli, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "kimi_nb.cli", "serve", "--json", "--model", "nano", *SMALL],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        told = json.loads(process.stdout.readline())
        assert running.find("nano").pid == process.pid == told["pid"]
        assert cli("stop").returncode == 0
        assert process.wait(20) == 0
    assert running.running() == []


def test_a_record_of_another_process_with_the_same_id_is_not_believed(cli, tmp_path):
    """After a restart of the machine a process id means something else; it must not be killed."""
    record = running.claim("x", model="m", log=tmp_path / "x.log")
    running.announce(record, began=record.began - 3600)
    assert running.running() == []
    assert list((tmp_path / "run").glob("*.json")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1}', "\0"])
def test_a_damaged_record_is_removed(cli, tmp_path, text):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "serve-1.json").write_text(text)
    assert running.running() == []
    assert not (folder / "serve-1.json").exists()


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 65, "ü"])
def test_names_that_are_none(cli, tmp_path, name):
    with pytest.raises(UsageError, match="KNB537"):
        running.claim(name, model="m", log=tmp_path / "x.log")


def test_a_model_of_any_name_gives_a_name(cli, tmp_path):
    for model in ("Kimi K2.5 (TQ1)", "...", "模型"):
        record = running.claim(None, model=model, log=tmp_path / "x.log")
        assert re.fullmatch(r"[A-Za-z0-9._-]+", record.name)
        running.forget(record)


def test_the_records_are_private(cli, tmp_path):
    record = running.claim(None, model="m", log=tmp_path / "x.log")
    (path,) = (tmp_path / "run").glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert record.state() == "starting"
    running.forget(record)
    assert running.running() == []
