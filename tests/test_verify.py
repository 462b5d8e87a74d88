"""llama.cpp's own answer beside ours, on ghosts: the real llama-fit-params."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from header_models import ORACLE_MODELS
from test_gguf_header_splits import write_set

from kimi_nb.cli import main
from kimi_nb.engine import Build
from kimi_nb.errors import KimiNbError, RehearsalError, UsageError, troubles
from kimi_nb.machine import load_profile, probe, profiles
from kimi_nb.model import read_header, read_remote_header
from kimi_nb.nano import make_nano
from kimi_nb.plan import Settings
from kimi_nb.rehearse import verify as module
from kimi_nb.rehearse.private_folder import rehearse_home
from kimi_nb.rehearse.verify import LLAMA_CPP_KNOWS, Compared, verify

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_header

CPU = next(machine for machine in map(load_profile, profiles()) if not machine.gpus)


@pytest.fixture
def kimi(tmp_path):
    return ORACLE_MODELS["TQ1"].read(tmp_path / "kimi.gguf")


@pytest.mark.engine
def test_the_whole_kimi_without_a_weight(build, kimi):
    found = verify(kimi, Settings(ctx_size=16384), CPU, build)
    assert found.devices == ()
    assert found.host.llama_cpp == found.host.ours == (217515, 1098, 378)
    assert found.agrees
    assert found.llama_cpp == build.version
    assert 0 < found.seconds < 60
    assert not list(rehearse_home().glob("ghost-*"))


@pytest.mark.engine
@pytest.mark.parametrize(
    "settings",
    [
        {"ctx_size": 32768, "parallel": 4, "ubatch_size": 1024, "batch_size": 4096},
        {"cache_type_k": "q8_0", "cache_type_v": "q8_0", "ctx_size": 131072},
        {"flash_attn": "off", "ctx_size": 8192, "threads": 1},
        {"cpu_moe": True, "override_tensor": ("exps=CPU",), "op_offload": False, "kv_offload": False},
        {"n_gpu_layers": 0, "n_cpu_moe": 12, "repack": False, "cache_ram": 0},
    ],
)
def test_settings_reach_llama_cpp(build, kimi, settings):
    assert verify(kimi, Settings(**settings), CPU, build).agrees


@pytest.mark.engine
def test_a_model_in_shards(build, tmp_path):
    model = read_header(make_nano(tmp_path / "nano.gguf", shards=3, build=build))
    assert len(model.shards) == 3
    found = verify(model, Settings(ctx_size=4096), CPU, build)
    assert found.agrees
    assert found.host.llama_cpp[0] == model.data_bytes >> 20


@pytest.mark.engine
def test_a_repository_that_is_not_here(build, tmp_path, monkeypatch):
    """From headers read over HTTP to llama.cpp's own figures, for 240 GB of which 7 MB were fetched."""
    shards = bench_header.write_repository(tmp_path, bench_header.vocabulary(None))
    with bench_header.HollowHub() as hub:
        hub.publish_hollow("local/Kimi-GGUF", shards)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        model = read_remote_header("local/Kimi-GGUF", "UD-TQ1_0", use_cache=False)
    for path in shards:
        path.unlink()
    found = verify(model, Settings(ctx_size=32768, cpu_moe=True), CPU, build)
    assert found.agrees
    assert found.host.difference == (0, 0, 0)
    assert model.file_bytes / 1e9 == pytest.approx(240, rel=0.01)


@pytest.mark.engine
def test_what_the_tool_does_not_know_is_named(build, kimi):
    found = verify(kimi, Settings(ctx_size=8192, parallel=4, kv_unified=True), CPU, build)
    assert found.agrees
    assert found.as_dict()["left_out"] == ["kv_unified"]


@pytest.mark.engine
def test_every_setting_passed_on_is_one_that_the_tool_has(build):
    told = subprocess.run(
        [build.program("llama-fit-params"), "--help"], capture_output=True, text=True, check=True
    )
    flags = set(re.findall(r"--[a-z][a-z-]+", told.stdout))
    knobs = Settings.knobs()
    assert {knobs[name].flag for name in LLAMA_CPP_KNOWS} <= flags
    assert {"--fit-print", "--no-repack", "--kv-unified"} - flags == {"--kv-unified"}


@pytest.mark.engine
def test_an_environment_that_would_change_the_answer(build, kimi, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "512")
    monkeypatch.setenv("LLAMA_ARG_UBATCH", "64")
    assert verify(kimi, Settings(), CPU, build).agrees


@pytest.mark.engine
def test_gpus_that_are_not_here(build, kimi):
    for name, profile in ((name, load_profile(name)) for name in profiles()):
        if profile.usable_gpus and not probe().usable_gpus:
            with pytest.raises(
                KimiNbError, match=r"KNB865: .*and here it finds none. Leave out --verify"
            ) as caught:
                verify(kimi, Settings(), profile, build)
            assert str(profile.usable_gpus[0].total_mib) in str(caught.value), name


@pytest.mark.engine
def test_a_model_that_llama_cpp_refuses(build, tmp_path, kimi):
    with pytest.raises(KimiNbError) as caught:
        verify(read_header(write_set(tmp_path)[0]), Settings(), CPU, build)
    assert caught.value.id in troubles()
    with pytest.raises(
        RehearsalError, match=r"KNB867: .*exit code 134; .*(context_length|failed to load model)"
    ) as caught:
        module.ask_llama_cpp(build, write_set(tmp_path)[0], Settings())
    assert "\n" not in str(caught.value)


def test_an_absurd_context_does_not_fill_the_memory(kimi):
    with pytest.raises(UsageError, match=r"KNB869: a context of 2,000,000,000 tokens"):
        verify(kimi, Settings(ctx_size=2_000_000_000), CPU, Build(Path("/nowhere"), "cpu", "none", {}))


def stand_in(tmp_path, script: str) -> Build:
    program = tmp_path / "llama-fit-params"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Build(tmp_path, "cpu", "test", {})


def test_a_tool_that_hangs_is_ended(tmp_path, monkeypatch, kimi):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    build = stand_in(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60")
    with pytest.raises(RehearsalError, match="KNB868"):
        verify(kimi, Settings(), CPU, build)
    number = int((tmp_path / "pid").read_text())
    assert subprocess.run(["ps", "-p", str(number)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -SEGV $$", "exit code 139"),
        ("echo nonsense", "it printed no figures"),
        ("echo 'GGML_ASSERT(x) failed' >&2; exit 1", r"GGML_ASSERT\(x\) failed"),
        ("echo 'CUDA0 1 2 3 '; echo 'Host 1 2 3 '", "llama.cpp uses CUDA0, Host, and we expected Host"),
    ],
)
def test_a_tool_that_fails(tmp_path, kimi, script, words):
    with pytest.raises(RehearsalError, match=rf"KNB867: .*{words}"):
        verify(kimi, Settings(), CPU, stand_in(tmp_path, script))


def test_two_gpus_as_llama_cpp_names_them(tmp_path, kimi):
    """What the program would print on a machine with two GPUs, to see how the answers are put side by side."""
    two = next(m for m in map(load_profile, profiles()) if len(m.usable_gpus) == 2 and not m.unified)
    listed = "".join(
        f"  CUDA{g.index}: {g.name} ({round(0.97 * g.total_mib)} MiB, {g.free_mib} MiB free)\n"
        for g in two.gpus
    )
    lines = "CUDA0 1 2 3 \nCUDA1 4 5 6 \nHost 7 8 9 \n"
    build = stand_in(
        tmp_path,
        f"case $1 in --list-devices) printf 'Available devices:\n{listed}';; *) printf '{lines}';; esac",
    )
    found = verify(kimi, Settings(cpu_moe=True), two, build)
    assert [(one.name, one.llama_cpp_name, one.llama_cpp) for one in (*found.devices, found.host)] == [
        ("GPU0", "CUDA0", (1, 2, 3)),
        ("GPU1", "CUDA1", (4, 5, 6)),
        ("Host", "Host", (7, 8, 9)),
    ]
    assert not found.agrees
    other = stand_in(tmp_path, "echo 'Available devices:'")
    with pytest.raises(KimiNbError, match="KNB865"):
        verify(kimi, Settings(cpu_moe=True), two, other)


def test_how_far_apart_is_agreement():
    def row(*ours):
        return Compared(name="Host", llama_cpp_name="Host", llama_cpp=(10, 10, 10), ours=ours)

    assert row(11, 9, 12).agrees
    assert not any(row(*ours).agrees for ours in ((12, 10, 10), (10, 8, 10), (10, 10, 7)))
    assert row(11, 9, 12).difference == (1, -1, 2)


@pytest.mark.engine
def test_the_command_line(build, nano, capsys):
    assert main(["estimate", "--gguf", str(nano), "--gpus", "", "--ctx", "4096", "--verify", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    verified = told["verified"]
    assert verified["agrees"]
    for part in ("model_mib", "context_mib", "compute_mib"):
        assert verified["host"][part] == told["host"][part]
        assert verified["host"]["difference"][part] == 0
    assert main(["estimate", "--gguf", str(nano), "--gpus", "", "--ctx", "4096", "--verify"]) == 0
    assert "+0, +0, +0" in capsys.readouterr().out
    assert main(["estimate", "--gguf", str(nano), "--ctx", "4096", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] is None


@pytest.mark.engine
def test_the_command_line_says_why_not(build, nano, capsys):
    words = ["estimate", "--gguf", str(nano), "--gpus", "987654", "--ctx", "4096", "--verify", "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["verified"] is None
    assert told["not_verified"]["id"] == "KNB865"
    assert told["fits"]
    assert "not verified: KNB865" in said.err
