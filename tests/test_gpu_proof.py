"""The proof for GPU machines, run here on the processor: it ends in time, continues, and mixes nothing up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "gpu_proof"))
from ledger import Ledger

PROOF = [sys.executable, str(Path(__file__).parents[1] / "scripts" / "gpu_proof"), "--backend", "cpu"]

pytestmark = pytest.mark.engine


def prove(out, *words, timeout=120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROOF, "--out", str(out), *words], capture_output=True, text=True, timeout=timeout, check=False, cwd="/"
    )  # fmt: skip


def rows(out, stage="memory"):
    try:
        return [json.loads(line) for line in (out / f"{stage}.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def test_a_table_of_what_agrees(build, tmp_path):
    done = prove(tmp_path, "--stages", "memory", "--count", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "proof.md").read_text()
    assert "| memory: settings that agree | 6 of 6 | all | met |" in table
    assert f"| llama.cpp | {build.version}, backend cpu |" in table
    told = json.loads((tmp_path / "proof.json").read_text())
    assert len(told["stages"]["memory"]["rows"]) == 6
    assert all(row["worst"] == [0, 0, 0] for row in told["stages"]["memory"]["rows"])
    assert os.uname().nodename not in table


def test_it_stops_in_time_and_continues(build, tmp_path):
    none = prove(tmp_path, "--stages", "memory", "--count", "5", "--limit", "0")
    assert none.returncode == 1
    assert "5 rows are missing; the same command continues" in none.stdout
    words = [*PROOF, "--out", str(tmp_path), "--stages", "memory", "--count", "40"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        for _ in range(600):
            if len(rows(tmp_path)) >= 2:
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    kept = rows(tmp_path)
    assert 2 <= len(kept) < 40
    again = prove(tmp_path, "--stages", "memory", "--count", str(len(kept) + 2))
    assert f"memory: {len(kept)} rows there" in again.stdout
    assert again.returncode == 0, again.stdout + again.stderr


def test_rows_of_other_code_are_moved_aside(tmp_path):
    one = Ledger(tmp_path, {"code": "a"})
    one.add("memory", "1", {"agrees": True})
    with (tmp_path / "memory.jsonl").open("a") as file:
        file.write('{"key": "2", "agr')  # as a power cut leaves it
    assert list(Ledger(tmp_path, {"code": "a"}).rows("memory")) == ["1"]
    other = Ledger(tmp_path, {"code": "b"})
    assert other.rows("memory") == {}
    assert [path.name for path in tmp_path.glob("earlier-*/memory.jsonl")] == ["memory.jsonl"]


def test_a_stage_that_is_not_there(tmp_path):
    done = prove(tmp_path, "--stages", "magic")
    assert done.returncode == 2
    assert "no stage magic" in done.stderr


def test_a_plan_is_started_for_real(build, tmp_path):
    done = prove(tmp_path, "--stages", "oom", "--plans", "1", "--small", timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| oom: plans that fit, and ran | 1 of 1 | all | met |" in (tmp_path / "proof.md").read_text()
    assert not list(tmp_path.glob("trials*"))  # nothing that looks like a model is left


@pytest.mark.soak
def test_every_stage_gives_rows(build, tmp_path):
    done = prove(
        tmp_path, "--small", "--count", "10", "--plans", "2", "--budget", "20", "--layers", "4", timeout=1800
    )
    assert "Traceback" not in done.stdout + done.stderr
    told = json.loads((tmp_path / "proof.json").read_text())
    assert set(told["stages"]) == {"memory", "ghosts", "oom", "speed", "planner"}
    assert not [row for stage in told["stages"].values() for row in stage["rows"] if "error" in row]
