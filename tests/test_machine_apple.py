"""Macs, by programs of the names macOS has, answering with what those print."""

import json
import os
from pathlib import Path

import pytest

from kimi_nb.errors import KimiNbError
from kimi_nb.machine import probe
from kimi_nb.machine.apple import read_apple
from kimi_nb.machine.cpu import read_cpu_macos
from kimi_nb.machine.memory import read_host_memory_macos

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              1000000.
Pages active:                            5000000.
Pages inactive:                          2000000.
Pages speculative:                         97152.
Pages throttled:                               0.
Pages wired down:                         500000.
Pages purgeable:                           10000.
"Translation faults":                  123456789.
"""
M2_ULTRA = {
    "hw.memsize": 192 * 1024**3,
    "hw.optional.arm64": 1,
    "machdep.cpu.brand_string": "Apple M2 Ultra",
    "iogpu.wired_limit_mb": 0,
    "vm.swapusage": "total = 2048.00M  used = 512.50M  free = 1535.50M  (encrypted)",
    "hw.physicalcpu": 24,
    "hw.logicalcpu": 24,
    "hw.perflevel0.physicalcpu": 16,
    "hw.packages": 1,
    "hw.optional.neon": 1,
    "hw.optional.arm.FEAT_FP16": 1,
    "hw.optional.arm.FEAT_DotProd": 1,
    "hw.optional.arm.FEAT_I8MM": 1,
    "hw.optional.arm.FEAT_BF16": 1,
    "hw.optional.arm.FEAT_SME": 0,
}


@pytest.fixture
def mac(tmp_path, monkeypatch):
    """Make this process find a Mac's programs, answering with what it is given."""

    def make(answers: dict[str, object], vm_stat: str | None = VM_STAT) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (tmp_path / "answers.json").write_text(
            json.dumps({key: str(value) for key, value in answers.items()})
        )
        program(
            folder / "sysctl",
            f"""
import json, sys
answers = json.load(open({str(tmp_path / "answers.json")!r}))
if sys.argv[1] != "-n" or sys.argv[2] not in answers:
    sys.exit(f"sysctl: unknown oid '{{sys.argv[2]}}'")
print(answers[sys.argv[2]])
""",
        )
        if vm_stat is not None:
            program(folder / "vm_stat", f"print({vm_stat!r}, end='')")
        monkeypatch.setenv("PATH", str(folder))

    def program(path: Path, code: str) -> None:
        import sys

        path.write_text(f"#!{sys.executable} -IS\n{code}\n")
        path.chmod(0o755)

    return make


def test_memory(mac):
    mac(M2_ULTRA)
    memory, notes = read_host_memory_macos()
    assert memory.total_mib == memory.physical_mib == 192 * 1024
    assert memory.available_mib == (1000000 + 2000000 + 97152) * 16384 // 1024**2
    assert (memory.swap_total_mib, memory.swap_free_mib) == (2048, 1535)
    assert notes == []


@pytest.mark.parametrize(
    ("answers", "vm_stat"),
    [({}, VM_STAT), ({"hw.memsize": "lots"}, VM_STAT), (M2_ULTRA, None), (M2_ULTRA, "?")],
)
def test_memory_that_cannot_be_read(mac, answers, vm_stat):
    mac(answers, vm_stat)
    with pytest.raises(KimiNbError, match="KNB125"):
        read_host_memory_macos()


@pytest.mark.parametrize(
    ("gib", "lent_mib"),
    [
        (16, 10922),
        (32, 21845),
        (64, 49152),
        (96, 73728),
        (192, 147456),
    ],  # the first four: seen in llama.cpp's logs
)
def test_what_metal_lends_is_guessed_and_said_to_be(mac, gib, lent_mib):
    mac({**M2_ULTRA, "hw.memsize": gib * 1024**3})
    (gpu,), notes = read_apple(read_host_memory_macos()[0])
    assert (gpu.kind, gpu.name, gpu.total_mib, gpu.guess) == ("metal", "Apple M2 Ultra", lent_mib, True)
    assert gpu.free_mib <= gpu.total_mib
    assert [note.id for note in notes] == ["KNB120"]
    assert "guess" in notes[0].why


def test_what_the_owner_set_is_no_guess(mac):
    mac({**M2_ULTRA, "iogpu.wired_limit_mb": 184320})
    (gpu,), notes = read_apple(read_host_memory_macos()[0])
    assert (gpu.total_mib, gpu.guess) == (184320, False)
    assert notes == []


def test_an_intel_mac_has_no_gpu_for_us(mac):
    intel = {
        key: value for key, value in M2_ULTRA.items() if not key.startswith(("hw.optional", "hw.perflevel"))
    }
    intel |= {
        "machdep.cpu.brand_string": "Intel(R) Core(TM) i9-9980HK CPU @ 2.40GHz",
        "machdep.cpu.features": "FPU SSE4.2 AVX1.0 FMA F16C SSSE3",
        "machdep.cpu.leaf7_features": "AVX2 BMI2",
        "hw.physicalcpu": 8,
        "hw.logicalcpu": 16,
    }
    mac(intel)
    gpus, notes = read_apple(read_host_memory_macos()[0])
    assert gpus == ()
    assert [note.id for note in notes] == ["KNB101"]
    cpu, _ = read_cpu_macos()
    assert set(cpu.features) == {"ssse3", "sse4_2", "avx", "fma", "f16c", "avx2", "bmi2"}
    assert (cpu.physical_cores, cpu.logical_cores, cpu.performance_cores) == (8, 16, None)


def test_processors(mac):
    mac(M2_ULTRA)
    cpu, _ = read_cpu_macos()
    assert (cpu.model, cpu.physical_cores, cpu.performance_cores, cpu.usable_cores) == (
        "Apple M2 Ultra",
        24,
        16,
        16,
    )
    assert cpu.features == ("neon", "fp16", "dotprod", "i8mm", "bf16")


def test_the_whole_probe_of_a_mac(mac, tmp_path):
    mac(M2_ULTRA)
    (tmp_path / "empty").mkdir()
    machine = probe(system="Darwin", root=tmp_path / "empty")
    assert machine.system == "Darwin"
    assert machine.unified
    assert machine.capacity_mib == 192 * 1024
    assert machine.nvidia is None
    assert not machine.wsl
    assert "KNB101" not in {note.id for note in machine.notes}


def test_a_program_that_hangs_is_given_up(tmp_path, monkeypatch):
    from kimi_nb.machine.read import output

    script = tmp_path / "sleepy"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    assert output([str(script)], timeout_s=0.2) is None
    assert output([str(tmp_path / "missing")]) is None
    monkeypatch.setenv("PATH", os.devnull)
    assert output(["sysctl"]) is None
