"""From a saved plan to a server, and an estimate with a forecast."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from planning_machines import machine

from kimi_nb.cli import main
from kimi_nb.engine.planned import planned
from kimi_nb.errors import UsageError
from kimi_nb.model.candidates import Candidate, candidates
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings
from kimi_nb.plan.planner import make_plan


@pytest.fixture
def plan():
    return make_plan(candidates("nano"), machine(cores=1, ram_gib=8), ctx_size=1024).plan


@pytest.mark.engine
def test_a_server_starts_from_a_plan(build, plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    words = [sys.executable, "-m", "kimi_nb.cli", "serve", "--plan", str(tmp_path / "plan.json"), "--json"]
    words += ["--log", str(tmp_path / "server.log"), "--cache-ram", "0"]
    environment = os.environ | {"KIMI_NB_RUNTIME": str(tmp_path / "run")}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            ready = json.loads(server.stdout.readline())
            key = Path(ready["api_key_file"]).read_text().strip()
            request = urllib.request.Request(ready["base_url"].removesuffix("/v1") + "/props")
            request.add_header("Authorization", f"Bearer {key}")
            with urllib.request.urlopen(request, timeout=20) as answer:
                props = json.load(answer)
            assert props["total_slots"] == 1
            assert props["default_generation_settings"]["n_ctx"] == 1024
            assert Path(props["model_path"]) == nano_path()
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
        assert server.returncode == 0


def test_what_is_given_besides_wins(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    model, settings = planned(tmp_path / "plan.json", "other.gguf", Settings(threads=7))
    assert model == "other.gguf"
    assert settings == plan.settings.replace(threads=7)
    assert planned(tmp_path / "plan.json")[0] == "nano"


def test_a_file_that_lies_there_is_taken(plan, tmp_path):
    own = make_plan(Candidate(candidates("nano")[0].model, on_disk=True), machine(ram_gib=8)).plan
    own.save(tmp_path / "plan.json")
    assert planned(tmp_path / "plan.json")[0] == str(nano_path())


def test_a_model_that_is_not_here_is_told_with_the_download(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_MODELS", str(tmp_path / "models"))
    there = replace(
        plan, model=replace(plan.model, key="kimi-k2.5", quant="UD-TQ1_0", repo="unsloth/x", file="x.gguf")
    )
    there.save(tmp_path / "plan.json")
    with pytest.raises(UsageError) as error:
        planned(tmp_path / "plan.json")
    assert error.value.id == "KNB540"
    assert "kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0" in error.value.fix


def test_no_plan_is_wrong_use(tmp_path, capsys):
    assert main(["serve", "--plan", str(tmp_path / "none.json")]) == 2
    assert "KNB375" in capsys.readouterr().err


def test_an_estimate_has_a_forecast(capsys):
    words = ["estimate", "--gguf", str(nano_path()), "--machine", "cpu-512gb", "--ctx", "1024"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["forecast"]
    assert said["source"] == "estimated"
    assert 0 < said["decode_tok_s"]["low"] <= said["decode_tok_s"]["expected"] <= said["decode_tok_s"]["high"]
    assert main(words) == 0
    assert "tokens/s" in capsys.readouterr().out
    assert main([*words, "--n-gpu-layers", "all", "--gpus", "100", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["forecast"] is None
