"""A plan as a shell script: run by the real sh, with the real llama-server where it matters."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from planning_machines import machine
from system import free_port

from kimi_nb.cli import main
from kimi_nb.machine import load_profile
from kimi_nb.model.candidates import candidates
from kimi_nb.plan.planner import make_plan
from kimi_nb.recipe import shell_script


@pytest.fixture
def nano_plan():
    return make_plan(candidates("nano"), machine(cores=1, ram_gib=8), ctx_size=1024).plan


@pytest.fixture
def kimi_plan():
    return make_plan(candidates("kimi-k2.5", "UD-TQ1_0"), load_profile("rtx4090-256gb")).plan


@pytest.fixture
def run(tmp_path):
    """Run a script with programs of ours in place of llama-server and kimi-nb; return what they were told."""
    told = tmp_path / "told.txt"
    for name, answer in {
        "llama-server": 'printf "key %s\\n" "$LLAMA_API_KEY" >> "$TOLD"',
        "kimi-nb": "echo '/a model/x.gguf'",
    }.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\nfor word in "{name}" "$@"; do printf "%s\\n" "$word" >> "$TOLD"; done\n{answer}\n'
        )
        program.chmod(0o755)

    def new(script, **env):
        environment = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "TOLD": str(told),
            **env,
        }
        subprocess.run(["sh"], input=script, text=True, env=environment, cwd=tmp_path, check=True, timeout=20)
        return told.read_text().splitlines()

    return new


@pytest.mark.engine
def test_it_serves_what_was_planned_and_keeps_the_key_to_itself(build, nano_plan, tmp_path):
    port = free_port()
    script = tmp_path / "serve.sh"
    script.write_text(shell_script(nano_plan, port=port))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LLAMA_SERVER": str(build.program("llama-server")),
    }
    with subprocess.Popen(
        ["sh", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            key_file = tmp_path / ".config" / "kimi-nb" / "llama-server.key"
            props = asked(port, key_file, server)
            assert props["default_generation_settings"]["n_ctx"] == 1024
            key = key_file.read_text()
            assert len(key) == 64
            assert key_file.stat().st_mode & 0o777 == 0o600
            assert key not in " ".join(psutil.Process(server.pid).cmdline())
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/props", timeout=20)
        finally:
            server.terminate()


def asked(port, key_file, server):
    for _ in range(300):
        assert server.poll() is None
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/props")
            request.add_header("Authorization", f"Bearer {key_file.read_text()}")
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except OSError:  # not made, not listening or not loaded yet
            time.sleep(0.1)
    raise AssertionError("it did not answer")


def test_a_model_of_the_catalog_is_fetched_first(kimi_plan, run):
    told = run(shell_script(kimi_plan))
    assert told[:5] == ["kimi-nb", "download", "--model", "kimi-k2.5", "--quant"]
    assert told[6:10] == ["kimi-nb", "models", "path", "unsloth/Kimi-K2.5-GGUF:UD-TQ1_0"]
    assert told[10:13] == ["llama-server", "--model", "/a model/x.gguf"]
    settings = kimi_plan.settings.argv()
    assert told[-1 - len(settings) : -1] == settings
    again = run(shell_script(kimi_plan))[len(told) :]
    assert again[-1] == told[-1]  # the key is made once


def test_what_is_there_already_is_taken(kimi_plan, run):
    told = run(shell_script(kimi_plan), MODEL="/else where/k.gguf", LLAMA_API_KEY="mine")
    assert told[:3] == ["llama-server", "--model", "/else where/k.gguf"]
    assert told[-1] == "key mine"


def test_nothing_in_a_plan_becomes_a_command(nano_plan, run, tmp_path):
    """A plan is a file that people pass on, and its names go into a script that they run."""
    evil = "'; touch pwned; echo \"$(touch pwned)`touch pwned`\n touch pwned\n.gguf"
    plan = replace(
        nano_plan,
        model=replace(nano_plan.model, key=None, repo=None, name=evil, file=evil),
        machine=evil,
        warnings=(evil,),
    )
    assert evil in "\n".join(run(shell_script(plan)))
    planned = replace(plan, model=replace(plan.model, key=evil, repo=evil, quant=evil))
    run(shell_script(planned))
    assert not (tmp_path / "pwned").exists()


def test_the_command(nano_plan, tmp_path, capsys):
    file = tmp_path / "plan.json"
    nano_plan.save(file)
    assert main(["recipe", "--plan", str(file), "--port", "8123"]) == 0
    text = capsys.readouterr().out
    assert text == shell_script(nano_plan, port=8123)
    assert main(["recipe", "--plan", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"] == "shell"
    file.write_text("{")
    assert main(["recipe", "--plan", str(file)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["recipe", "--plan", str(Path("/nothing.json"))]) == 2
