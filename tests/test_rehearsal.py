"""The rehearsal with real llama-bench on nano: its time, its profile, being cancelled and being killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import scripted_bench
from header_models import ORACLE_MODELS

from kimi_nb.cli import main
from kimi_nb.engine import Build
from kimi_nb.errors import RehearsalError, UsageError
from kimi_nb.machine import load_profile as load_machine
from kimi_nb.machine import probe
from kimi_nb.model import read_header
from kimi_nb.plan import Settings
from kimi_nb.plan.profile import forecast_from
from kimi_nb.plan.profile_forecast import forecast_from as forecast_at
from kimi_nb.rehearse.disk_speed import disk_read_mib_s
from kimi_nb.rehearse.private_folder import rehearse_home
from kimi_nb.rehearse.program import choose_slices, stages
from kimi_nb.rehearse.rehearsal import rehearse
from kimi_nb.rehearse.saved import find_profile, load_profile, machine_key, save_profile
from kimi_nb.rehearse.slices import slice_bytes

KILLED = """
import sys
from kimi_nb.engine import find_build
from kimi_nb.machine import probe
from kimi_nb.model import read_header
from kimi_nb.rehearse.rehearsal import rehearse
rehearse(read_header(sys.argv[1]), probe(), budget_s=60, progress=lambda text, _: print(text, flush=True))
"""


@pytest.fixture(autouse=True)
def home(build, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "KIMI_NB_LLAMA_CPP", str(build.bin)
    )  # found again although the cache folder is another
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path / "cache"))
    return rehearse_home()


@pytest.fixture(scope="module")
def kimi(tmp_path_factory):
    return ORACLE_MODELS["TQ1"].read(tmp_path_factory.mktemp("kimi") / "kimi.gguf")


@pytest.fixture(scope="module")
def machine():
    found = probe()
    return replace(
        found, cpu=replace(found.cpu, allowed_physical=1)
    )  # one thread: tests share the processors


@pytest.fixture(scope="module")
def profile(build, nano, machine, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIMI_NB_CACHE", str(tmp_path_factory.mktemp("rehearsal")))
        texts = []
        found = rehearse(
            read_header(nano), machine, budget_s=6, build=build, progress=lambda *told: texts.append(told)
        )
        assert [path.name for path in rehearse_home().glob("*.header-only")] == []
    assert [done for _, done in texts] == sorted(done for _, done in texts)
    return found


@pytest.mark.engine
def test_a_rehearsal_of_nano(profile, nano, machine):
    assert {cost.part for cost in profile.costs} >= {"fixed", "dense", "moe", "head"}
    assert profile.model.n_moe == read_header(nano).block_count - 1
    assert profile.disk_read_mib_s is None or profile.disk_read_mib_s.low > 0
    assert any("disk" in limit for limit in profile.limits)
    found = forecast_from(profile, read_header(nano), Settings(ctx_size=2048, threads=1), machine)
    assert found.source == "measured"
    assert 0 < found.decode_tok_s.low <= found.decode_tok_s.expected <= found.decode_tok_s.high


@pytest.mark.engine
def test_a_kept_profile_is_found_again(profile, nano, kimi, machine):
    model = read_header(nano)
    assert find_profile(model, machine) is None
    path = save_profile(profile)
    assert load_profile(path) == profile
    assert find_profile(model, machine) == profile
    assert find_profile(model, machine, build="another") is None
    assert find_profile(kimi, machine) is None
    assert find_profile(model, load_machine("h100-80gb")) is None
    newer = replace(profile, made="2099-01-01T00:00:00+00:00", build="another")
    save_profile(newer)
    assert find_profile(model, machine) == newer
    for number, text in enumerate(("", "{", "[]", '{"format": 1}', "\x00" * 100, "[" * 100_000)):
        (path.parent / f"{machine_key(machine)}-bad{number}.json").write_text(text)
    (path.parent / f"{machine_key(machine)}-folder.json").mkdir()
    assert find_profile(model, machine) == newer
    with pytest.raises(UsageError, match="KNB841"):
        load_profile(path.parent / f"{machine_key(machine)}-bad0.json")


@pytest.mark.engine
def test_time_that_does_not_do(nano, machine, build):
    for budget in (0, -1, float("nan"), 1):
        with pytest.raises(UsageError, match="KNB847"):
            rehearse(read_header(nano), machine, budget_s=budget, build=build)


@pytest.mark.engine
def test_the_time_is_kept_with_a_model_that_takes_longer(kimi, machine, build):
    """Kimi's width: everything would take minutes; what is there after some seconds makes a profile, or a clear no."""
    start = time.monotonic()
    try:
        said = rehearse(kimi, machine, budget_s=5, build=build, max_slice_mib=400).limits
    except UsageError as error:
        said = (str(error),)
    assert any("time was over" in text or "KNB847: nothing was measured" in text for text in said)
    assert time.monotonic() - start < 60  # a hang, not a delay


@pytest.mark.engine
def test_cancelling_ends_at_once_and_leaves_nothing(nano, machine, build, home):
    asked = []

    def cancelled():
        asked.append(time.monotonic())
        return len(asked) > 60

    with pytest.raises(KeyboardInterrupt):
        rehearse(read_header(nano), machine, budget_s=30, build=build, cancelled=cancelled)
    assert list(home.glob("*.header-only")) == []


@pytest.mark.engine
def test_killed_it_leaves_no_program_and_its_files_are_swept(nano, machine, build, home):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(nano)], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        while "writing on the processor" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    (left,) = home.glob("*.header-only")
    deadline = time.monotonic() + 20
    while running(left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(left) == []
    with pytest.raises(UsageError):
        rehearse(read_header(nano), machine, budget_s=1, build=build)
    with pytest.raises(KeyboardInterrupt):
        rehearse(read_header(nano), machine, budget_s=30, build=build, cancelled=lambda: True)
    assert list(home.glob("*.header-only")) == []


def running(folder):
    """Command lines of programs that work in a folder."""
    import psutil

    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(str(folder) in word for word in line)]


@pytest.mark.engine
def test_without_a_build_it_says_so(nano, machine, monkeypatch, tmp_path):
    monkeypatch.delenv("KIMI_NB_LLAMA_CPP")
    with pytest.raises(RehearsalError, match="KNB849"):
        rehearse(read_header(nano), machine, budget_s=10)


def test_slices_find_room_and_stay_above_the_cache(kimi):
    machine = load_machine("cpu-512gb")
    found = choose_slices(kimi, machine, disk_mib=100_000, cache_mib=32)
    assert (
        512 <= (slice_bytes(kimi, found.moe) - slice_bytes(kimi, found.bare)) / found.moe.n_moe / 2**20 < 1000
    )
    large = choose_slices(kimi, machine, disk_mib=100_000, cache_mib=384)
    assert large.moe.n_expert > 2.5 * found.moe.n_expert
    tight = choose_slices(kimi, machine, disk_mib=100_000, cache_mib=32, max_mib=1000)
    assert slice_bytes(kimi, tight.moe) / 2**20 < 1000
    assert tight.moe.n_expert >= 2 * kimi.expert_used_count
    assert choose_slices(kimi, machine, disk_mib=500, cache_mib=32).holes
    assert not found.holes


def test_what_is_measured_on_a_gpu(kimi):
    machine = load_machine("rtx4090-256gb")
    planned = stages(kimi, machine, choose_slices(kimi, machine, disk_mib=100_000, cache_mib=32))
    kinds = {
        (s.settings.n_gpu_layers, s.settings.cpu_moe, s.settings.op_offload, bool(s.tests.prompts))
        for s in planned
    }
    assert {(999, None, None, False), (999, True, False, False), (999, True, True, True)} <= kinds
    assert {s.settings.cache_type_k for s in planned} == {None, "q8_0"}
    assert {s.tests.depth for s in planned} == {0, 8192}
    on_processor = stages(kimi, replace(machine, gpus=()), choose_slices(kimi, machine, disk_mib=100_000))
    assert {s.tests.depth for s in on_processor} == {0, 1024}
    assert [s.patience for s in planned[:2]] == [2.0, 1.0]  # there is no profile without the first
    with_threads = [s for s in planned if s.settings.cpu_moe and s.tests.writes]
    assert len({s.tests.threads for s in with_threads}) == 2


def test_beside_a_gpu_the_processor_is_measured_by_several_programs_far_apart(kimi):
    """A rule with a story: on an H200 one program's samples foretold 25 % less than five others then showed."""
    machine = load_machine("rtx4090-256gb")
    cores = machine.cpu.usable_cores
    planned = stages(kimi, machine, choose_slices(kimi, machine, disk_mib=100_000, cache_mib=32))
    places = {
        count: [
            place
            for place, stage in enumerate(planned)
            if stage.settings.cpu_moe and stage.tests.writes and stage.tests.threads == (count,)
        ]
        for count in (cores, cores // 2)
    }
    assert [len(each) for each in places.values()] == [3, 2]
    for each in places.values():
        assert all(later - earlier >= 4 for earlier, later in itertools.pairwise(each))
    assert len(set(planned)) == len(planned)  # results are kept by stage
    assert not any(
        "again" in stage.about
        for stage in stages(kimi, replace(machine, gpus=()), choose_slices(kimi, machine, disk_mib=100_000))
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model of Kimi's architecture, small enough that its slices are written in no time."""
    shape = replace(
        ORACLE_MODELS["TQ1"], n_layer=31, n_embd=512, n_ff=512, n_ff_exp=256, n_head=8, q_lora=256, kv_lora=256,
        n_expert=32, n_used=4, n_vocab=2000,
    )  # fmt: skip
    return shape.read(tmp_path_factory.mktemp("wide") / "wide.gguf")


@pytest.fixture
def scripted(tmp_path, monkeypatch, wide):
    """A build whose llama-bench answers from a table."""
    program = tmp_path / "bin" / "llama-bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{scripted_bench.__file__}" "$@"\n')
    program.chmod(0o755)
    whole = {"n_vocab": wide.vocab_size, "n_expert": wide.expert_count}
    monkeypatch.setenv("SCRIPTED_WHOLE", json.dumps(whole))
    return Build(program.parent, "cuda", "scripted", {"files": {}})


def test_a_gpu_machine_from_slices_to_the_whole(wide, scripted):
    """Experts on the GPU, on the processor and sent over PCIe; what is forecast is what the table would take."""
    machine = load_machine("rtx4090-256gb")
    cores = machine.cpu.usable_cores
    found = rehearse(wide, machine, budget_s=60, build=scripted)
    assert not any("time was over" in limit for limit in found.limits)
    assert {cost.way for cost in found.costs} == {"gpu", "experts_cpu", "experts_offload"}
    cost = scripted_bench.COSTS
    for on_cpu in (0, 1, 12, 31):
        moved = max(on_cpu - 1, 0)  # the first layer is dense
        settings = Settings(ctx_size=4096, n_gpu_layers=99, n_cpu_moe=on_cpu, threads=cores)
        told = forecast_at(found, wide, settings, machine, prompt_tokens=512)
        writing = cost["fixed"] + cost["dense"] + cost["head"] + (30 - moved) * cost["gpu"]
        writing += moved * cost["experts_cpu"] * 16 / cores
        assert told.decode_tok_s.expected == pytest.approx(1000 / writing, rel=0.06)
        assert told.decode_bound == ("cpu" if moved > 2 else "gpu")
    told = forecast_at(
        found, wide, Settings(ctx_size=4096, cpu_moe=True, ubatch_size=512), machine, prompt_tokens=512
    )
    reading = (cost["fixed"] + cost["dense"]) * (1 + 0.05 * 512) + 29 * cost["experts_offload"] + cost["head"]
    reading += 31 * 512 * scripted_bench.ATTENTION_MS * 256 / 1024
    reading += cost["experts_cpu"] * 16 / cores - cost["gpu"]  # the answer's token, in the last layer
    assert told.prefill_tok_s.expected == pytest.approx(512_000 / reading, rel=0.03)
    assert told.prefill_bound == "pcie"


def test_half_of_the_threads_are_measured_until_they_settle(wide, scripted, monkeypatch):
    """A rule with a story: on half the cores of an H200's machine a program grew faster for ten seconds.

    The rehearsal wrote for less than one, and foretold 22 to 35 % less than models of 20 layers then showed.
    """
    machine = load_machine("rtx4090-256gb")
    half = machine.cpu.usable_cores // 2
    monkeypatch.setenv("SCRIPTED_SETTLING", str(half))
    monkeypatch.setattr("kimi_nb.rehearse.rehearsal.Others", Nobody)
    found = rehearse(wide, machine, budget_s=60, build=scripted)
    assert not any("disturbed" in limit for limit in found.limits)
    settings = Settings(ctx_size=4096, cpu_moe=True, threads=half)
    told = forecast_at(found, wide, settings, machine, prompt_tokens=512)
    cost = scripted_bench.COSTS
    writing = cost["fixed"] + cost["dense"] + cost["head"] + 30 * cost["experts_cpu"] * 16 / half
    assert told.decode_tok_s.expected == pytest.approx(1000 / writing, rel=0.06)
    of_half = [
        one for one in found.measurements if one.settings.get("cpu_moe") and one.settings["threads"] == half
    ]
    longest = max(of_half, key=lambda one: one.written_tokens * len(one.samples_ms))
    assert sum(longest.samples_ms) > 3000
    assert min(of_half[0].samples_ms) > 1.3 * longest.samples_ms[-1] / longest.written_tokens * 8


def test_what_was_disturbed_is_measured_again(wide, scripted, tmp_path, monkeypatch):
    machine = load_machine("cpu-512gb")
    calm = rehearse(wide, machine, budget_s=60, build=scripted)
    monkeypatch.setenv("SCRIPTED_CALLS", str(tmp_path / "calls"))
    uneasy = rehearse(wide, machine, budget_s=60, build=scripted)
    for one, other in zip(calm.costs, uneasy.costs, strict=True):
        assert other.ms.expected == pytest.approx(one.ms.expected, rel=1e-6)


@pytest.mark.parametrize(("name", "told"), [("rtx4090-256gb", False), ("cpu-512gb", True)])
def test_a_gpu_that_prepares_itself_is_not_disturbed(wide, scripted, monkeypatch, name, told):
    """On an H200, 5 of 22 measurements were told to have been disturbed, three of them for the first sample alone.

    It took up to 1.8 times as long as the others, as a GPU's does. On a processor that is a disturbance.
    """
    monkeypatch.setenv("SCRIPTED_COLD", "1")
    monkeypatch.setattr("kimi_nb.rehearse.rehearsal.Others", Nobody)
    found = rehearse(wide, load_machine(name), budget_s=60, build=scripted)
    assert any("disturbed" in limit for limit in found.limits) == told


class Nobody:
    """No other program."""

    def processors(self):
        return 0.0


def test_the_disk_is_read_past_the_cache(tmp_path):
    found = disk_read_mib_s(tmp_path, size_mib=16, seconds=0.6)
    assert found is not None
    assert 0 < found.low <= found.expected <= found.high
    assert list(tmp_path.iterdir()) == []
    assert disk_read_mib_s(tmp_path / "nowhere") is None


@pytest.mark.engine
def test_the_command(nano, capsys, machine, monkeypatch):
    monkeypatch.setattr("kimi_nb.machine.probe", lambda: machine)
    assert main(["rehearse", "--gguf", str(nano), "--budget", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["forecast"]["source"] == "measured"
    assert load_profile(told["path"] and rehearse_home() / "profiles" / told["path"].rsplit("/", 1)[1])
    assert told["profile"]["limits"]
    for words, code in ((["--gguf", "/no/such.gguf"], 2), (["--gguf", str(nano), "--budget", "soon"], 2)):
        assert main(["rehearse", *words]) == code
        assert "KNB" in capsys.readouterr().err


@pytest.mark.engine
def test_estimate_and_plan_know_what_was_measured(profile, nano, machine, capsys, monkeypatch):
    monkeypatch.setattr("kimi_nb.machine.probe", lambda: machine)
    for verb, place in (("estimate", ("forecast",)), ("plan", ("plan", "forecast"))):
        for source in ("estimated", "measured"):
            for old in (rehearse_home() / "profiles").glob("*.json"):
                old.unlink()
            if source == "measured":
                save_profile(profile)
            assert main([verb, "--gguf", str(nano), "--ctx", "4096", "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
            for key in place:
                told = told[key]
            assert told["source"] == source
