"""A run that is stopped from outside says so, keeps what it had, and leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from system import gone, wait_until, words_of

from kimi_nb.run import run_notebooks

pytestmark = pytest.mark.notebooks

NOTEBOOKS = Path(__file__).parent / "notebooks"
LONG_S = 60


def asleep(out):
    """Whether the sleeping notebook in this folder is in its second cell."""
    for path in out.glob(".partial-sleeps-*/notebook.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return cells[1]["metadata"]["papermill"]["status"] == "running"
    return False


def family(process):
    """The processes below one, as they are now: the guardian, the worker and the kernel."""
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture
def running(tmp_path):
    """`kimi-nb run succeeds.ipynb sleeps.ipynb raises.ipynb`, in the middle of the second one."""
    names = [str(NOTEBOOKS / f"{name}.ipynb") for name in ("succeeds", "sleeps", "raises")]
    command = [sys.executable, "-m", "kimi_nb.cli", "run", *names, "--out", str(tmp_path / "out"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def in_the_middle():
        assert process.poll() is None, process.stderr.read()
        return asleep(tmp_path / "out") and len(family(process)) >= 3

    try:
        wait_until(in_the_middle)
        time.sleep(0.5)  # it is saved as running a moment before it runs
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_run_as_interrupted(running, tmp_path, number, code):
    """papermill's notebook says of Ctrl-C that every cell was completed."""
    below = family(running)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=LONG_S)
    assert running.returncode == code
    assert gone(*(one.pid for one in below))
    record = json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8"))
    assert record["status"] == "interrupted"
    assert record["interrupted_by"] == number.name
    assert [notebook["status"] for notebook in record["notebooks"]] == ["succeeded", "interrupted", "not_run"]
    error = record["notebooks"][1]["error"]
    assert (error["id"], error["cell"]) == ("KNB717", {"index": 1, "line": "import time"})
    assert number.name in error["message"]
    printed = json.loads(stdout)
    assert {key: printed[key] for key in record} == record
    assert b"Traceback" not in stderr
    saved = json.loads((tmp_path / "out/sleeps.ipynb").read_text(encoding="utf-8"))
    assert saved["metadata"]["kimi_nb"]["status"] == "interrupted"
    assert saved["cells"][1]["outputs"][0]["text"] == "began\n"
    assert not list((tmp_path / "out").glob(".partial-*"))


def test_after_kill_9_nothing_runs_and_the_record_is_true(running, tmp_path):
    below = family(running)
    running.kill()
    running.wait()
    assert gone(*(one.pid for one in below))
    record = json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8"))
    assert record["status"] == "interrupted"
    assert [notebook["status"] for notebook in record["notebooks"]] == ["succeeded", "interrupted", "not_run"]
    assert record["notebooks"][1]["error"]["class"] == "RunLost"


def in_a_thread(tmp_path):
    """Run the sleeping notebook in a thread of this process; return the thread, its result and the worker."""
    result = []
    thread = threading.Thread(
        target=lambda: result.append(run_notebooks([NOTEBOOKS / "sleeps.ipynb"], out=tmp_path)), daemon=True
    )
    thread.start()
    wait_until(lambda: asleep(tmp_path))
    time.sleep(0.5)  # it is saved as running a moment before it runs
    workers = [
        process
        for process in psutil.Process(os.getpid()).children(recursive=True)
        if "kimi_nb.run.worker" in (words := words_of(process))
        and not any("guardian" in word for word in words)
    ]
    assert len(workers) == 1
    return thread, result, workers[0]


@pytest.mark.parametrize(
    ("number", "id_", "kind"),
    [(signal.SIGTERM, "KNB717", "Interrupted"), (signal.SIGKILL, "KNB718", "WorkerDied")],
)
def test_a_worker_that_is_killed_from_outside_was_interrupted(tmp_path, number, id_, kind):
    """papermill leaves a notebook behind whose cell says "running" for ever."""
    thread, result, worker = in_a_thread(tmp_path)
    kernels = worker.children(recursive=True)
    worker.send_signal(number)
    thread.join(LONG_S)
    [run] = result
    assert run.status == run.notebooks[0].status == "interrupted"
    assert run.interrupted_by is None
    error = run.notebooks[0].error
    assert (error.id, error.kind, error.cell) == (id_, kind, 1)
    assert number.name in error.message
    assert (tmp_path / "sleeps.ipynb").exists()
    assert gone(*(one.pid for one in kernels))
