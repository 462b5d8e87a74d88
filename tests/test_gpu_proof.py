"""The proof for GPU machines, run here on the processor: it ends in time, continues, and mixes nothing up."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import scripted_bench

from kimi_nb.engine import Build
from kimi_nb.machine import Machine, load_profile
from kimi_nb.plan import Settings

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


def again_is_the_same(proof, ledger):
    """Whether what was measured is forecast as it was, by the same code and from what was saved alone."""
    import again

    proof.machine.save(proof.folder / "machine.json")
    machine = Machine.load(proof.folder / "machine.json")
    rows = list(ledger.rows("speed").values())
    return rows and all(again.forecast_again(row, proof.folder, machine) == row for row in rows)


def cases_of_programs_far_apart(programs):
    """What was measured, joined from two programs for each setting, each pair with all others between."""
    import speed

    found = speed.joined(programs)
    order = [row["setting"] for row in programs]
    assert order == 2 * [row["key"] for row in found]
    cases = [case for row in found for case in row["cases"]]
    assert {len(case["runs"]) for case in cases} == {2 * len(scripted_bench.CALM)}
    return cases


def test_the_ways_of_a_gpu_machine(tmp_path, monkeypatch):
    """With scripted programs: forecasts beside what a table says, the planner's choice, the table to commit."""
    import planning
    import report
    import running
    import speed
    import stages

    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "llama-bench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{scripted_bench.__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("SCRIPTED_WHOLE", json.dumps({"n_vocab": 8192, "n_expert": 64}))
    machine = load_profile("rtx4090-256gb")

    taken = {"mib": 0}

    @contextmanager
    def less_free(proof, mib):
        free = round(mib) + taken["mib"]
        yield replace(machine, gpus=tuple(replace(card, free_mib=free) for card in machine.gpus))

    monkeypatch.setattr(planning, "less_free", less_free)
    by_fit = Settings(ctx_size=8192, n_gpu_layers=999, n_cpu_moe=6)
    monkeypatch.setattr(planning, "fitted", lambda *_: by_fit)
    ran = running.Ran(ran=True, no_memory=False, code=0, last="")
    monkeypatch.setattr(planning, "try_to_run", lambda *_: ran)
    options = {"layers": 20, "budget": 60, "plans": 2, "refused": 2, "small": 1, "seed": 1, "experts": 384}
    proof = stages.Proof(Build(folder, "cuda", "scripted", {"files": {}}), machine, tmp_path / "out", options)
    proof.folder.mkdir()
    every = (planning.OOM, speed.SPEED, planning.PLANNER)
    ledger = Ledger(proof.folder, {"code": "a"})
    stages.run_stage(speed.SPEED, proof, ledger, 0.0)
    assert not ledger.rows("speed")  # its time was over before anything was begun
    monkeypatch.setattr(speed, "_SMALL_PROMPT", speed._PROMPT)  # it takes no time here
    for stage in every:
        taken["mib"] = 1500 if stage is planning.PLANNER else 0  # CUDA itself, margins and buffers
        assert stages.run_stage(stage, proof, ledger, 300), ledger.rows(stage.name)
    assert again_is_the_same(proof, ledger)
    cases = cases_of_programs_far_apart(list(ledger.rows("speed").values()))
    assert {case["kind"] for case in cases} == {"decode", "prefill"}
    assert max(case["error"] for case in cases if case["kind"] == "decode") < 0.06
    assert max(case["error"] for case in cases if case["kind"] == "prefill") < 0.25
    assert all(row["of_best"] >= 0.98 for row in ledger.rows("planner").values())
    refused = [row for key, row in ledger.rows("oom").items() if key.startswith("refused")]
    assert all(0.02 <= row["lacks"] <= 0.10 for row in refused)
    assert not report.write_report(proof, ledger, every)  # the scripted program runs what lacks memory
    table = report.table_path(tmp_path, machine)
    report.write_table(table, proof, ledger, every)
    text = table.read_text()
    assert table.name == "1-x-nvidia-geforce-rtx-4090.md"
    assert "| oom: plans that fit, and ran | 2 of 2 | all | met |" in text
    assert "refused by 2 to 10 %, and ran all the same | 2 of 2 | none | MISSED |" in text
    assert "backend cuda" in text
    assert len(text.splitlines()) < 40


@pytest.mark.soak
def test_every_stage_gives_rows(build, tmp_path):
    done = prove(
        tmp_path, "--small", "--count", "10", "--plans", "2", "--budget", "20", "--layers", "4", timeout=1800
    )
    assert "Traceback" not in done.stdout + done.stderr
    told = json.loads((tmp_path / "proof.json").read_text())
    assert set(told["stages"]) == {"memory", "ghosts", "oom", "speed", "planner"}
    assert not [row for stage in told["stages"].values() for row in stage["rows"] if "error" in row]
