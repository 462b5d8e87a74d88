# ruff: noqa: N802 - the functions bear NVML's own names
"""NVIDIA GPUs: a module that speaks NVML's names and raises its real errors, and a real library that pynvml loads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from kimi_nb.machine.nvidia import read_nvidia

GIB = 1024**3


class Card:
    """One GPU, or with ``slices`` one in MIG mode; ``raises`` maps a function's name to the error it raises."""

    def __init__(self, name="NVIDIA GeForce RTX 3090", *, gib=24, free=23, uuid="", raises=None, **facts):
        self.name, self.total, self.free = name, gib * GIB, free * GIB
        self.uuid = uuid
        self.raises = raises or {}
        self.slices = facts.get("slices")
        self.pcie = facts.get("pcie", (1, 4, 16, 16))
        self.capability = facts.get("capability", (8, 6))
        self.bits, self.clock = facts.get("bits", 384), facts.get("clock", 9751)


class Nvml:
    """Answers as NVML does; everything else (constants, error classes) is pynvml's own."""

    def __init__(self, *cards, init=None, driver="580.65.06", cuda=13000):
        self.cards, self.init, self.driver, self.cuda = cards, init, driver, cuda
        self.open = 0

    def __getattr__(self, name):
        if name.startswith("NVML_"):
            return getattr(pynvml, name)

        def call(card, *args):
            if name in card.raises:
                raise card.raises[name]
            return getattr(self, f"on_{name}")(card, *args)

        return call

    def nvmlInit(self):
        if self.init:
            raise self.init
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self):
        return self.cuda

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        card = self.cards[index]
        if "nvmlDeviceGetHandleByIndex" in card.raises:
            raise card.raises["nvmlDeviceGetHandleByIndex"]
        return card

    def on_nvmlDeviceGetName(self, card):
        return card.name

    def on_nvmlDeviceGetUUID(self, card):
        return card.uuid

    def on_nvmlDeviceGetMemoryInfo(self, card):
        return SimpleNamespace(total=card.total, free=card.free, used=card.total - card.free)

    def on_nvmlDeviceGetMigMode(self, card):
        if card.slices is None:
            raise pynvml.NVMLError_NotSupported
        return [1, 1]

    def on_nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7 if card.slices is not None else 0

    def on_nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        if index >= len(card.slices):
            raise pynvml.NVMLError_NotFound
        return card.slices[index]

    def on_nvmlDeviceGetCudaComputeCapability(self, card):
        return card.capability

    def on_nvmlDeviceGetCurrPcieLinkGeneration(self, card):
        return card.pcie[0]

    def on_nvmlDeviceGetMaxPcieLinkGeneration(self, card):
        return card.pcie[1]

    def on_nvmlDeviceGetCurrPcieLinkWidth(self, card):
        return card.pcie[2]

    def on_nvmlDeviceGetMaxPcieLinkWidth(self, card):
        return card.pcie[3]

    def on_nvmlDeviceGetMemoryBusWidth(self, card):
        return card.bits

    def on_nvmlDeviceGetMaxClockInfo(self, card, kind):
        assert kind == pynvml.NVML_CLOCK_MEM
        return card.clock


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


def bus(tmp_path, gpus: int) -> Path:
    for number in range(gpus):
        device = tmp_path / f"sys/bus/pci/devices/0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    return tmp_path


def test_a_healthy_card_is_told_in_full(tmp_path):
    nvml = Nvml(Card(uuid="GPU-1"))
    gpus, driver, notes = read_nvidia(tmp_path, nvml=nvml)
    (gpu,) = gpus
    assert (gpu.name, gpu.total_mib, gpu.free_mib) == ("NVIDIA GeForce RTX 3090", 24576, 23552)
    assert (gpu.kind, gpu.mig, gpu.guess, gpu.compute_capability) == ("cuda", False, False, "8.6")
    assert (gpu.pcie_generation, gpu.pcie_generation_max, gpu.pcie_width, gpu.pcie_width_max) == (
        1,
        4,
        16,
        16,
    )
    assert gpu.memory_bandwidth_gb_s == 936.1  # 384 bits x 9751 MHz x 2: the maker says 936 GB/s
    assert (driver.version, driver.cuda) == ("580.65.06", "13.0")
    assert notes == []
    assert nvml.open == 0, "NVML was opened and must be closed"


def test_an_old_driver_that_knows_fewer_functions(tmp_path):
    missing = {
        name: pynvml.NVMLError_FunctionNotFound()
        for name in (
            "nvmlDeviceGetMigMode",
            "nvmlDeviceGetMemoryBusWidth",
            "nvmlDeviceGetCudaComputeCapability",
        )
    }
    gpus, driver, notes = read_nvidia(tmp_path, nvml=Nvml(Card(raises=missing), cuda=12040))
    assert gpus[0].total_mib == 24576
    assert gpus[0].memory_bandwidth_gb_s is None
    assert gpus[0].compute_capability is None
    assert driver.cuda == "12.4"
    assert notes == []


@pytest.mark.parametrize(
    ("error", "on_bus", "id_", "says"),
    [
        (pynvml.NVMLError_LibraryNotFound, 0, "KNB101", "no NVIDIA GPU"),
        (pynvml.NVMLError_LibraryNotFound, 2, "KNB102", "2 NVIDIA GPU(s) show on the PCI bus"),
        (pynvml.NVMLError_DriverNotLoaded, 1, "KNB102", "kernel module is not loaded"),
        (pynvml.NVMLError_DriverNotLoaded, 0, "KNB102", "library is installed, but"),
        (pynvml.NVMLError_LibRmVersionMismatch, 1, "KNB103", "Driver/library version mismatch"),
        (pynvml.NVMLError_NoPermission, 1, "KNB104", "Insufficient Permissions"),
        (pynvml.NVMLError_Unknown, 1, "KNB105", "Unknown Error"),
        (pynvml.NVMLError_GpuIsLost, 1, "KNB105", "GPU is lost"),
        (pynvml.NVMLError_FunctionNotFound, 1, "KNB105", "Function Not Found"),
    ],
)
def test_no_driver_or_a_broken_one_is_one_clear_note(tmp_path, error, on_bus, id_, says):
    gpus, driver, notes = read_nvidia(bus(tmp_path, on_bus), nvml=Nvml(init=error()))
    assert gpus == ()
    assert driver is None
    assert [note.id for note in notes] == [id_]
    assert says in str(notes[0])
    assert "\n" not in str(notes[0])
    assert (notes[0].severity == "info") == (id_ == "KNB101")


def test_a_driver_without_gpus_says_so(tmp_path):
    gpus, driver, notes = read_nvidia(tmp_path, nvml=Nvml())
    assert gpus == ()
    assert driver is not None
    assert [note.id for note in notes] == ["KNB102"]


@pytest.mark.parametrize(
    ("where", "error", "id_"),
    [
        ("nvmlDeviceGetHandleByIndex", pynvml.NVMLError_NoPermission, "KNB104"),
        ("nvmlDeviceGetHandleByIndex", pynvml.NVMLError_GpuIsLost, "KNB105"),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVMLError_NotSupported, "KNB105"),
        ("nvmlDeviceGetName", pynvml.NVMLError_Unknown, "KNB105"),
    ],
)
def test_one_bad_card_does_not_hide_the_others(tmp_path, where, error, id_):
    gpus, _, notes = read_nvidia(tmp_path, nvml=Nvml(Card(), Card(raises={where: error()}), Card()))
    assert [gpu.index for gpu in gpus] == [0, 2]
    assert [note.id for note in notes] == [id_]
    assert "GPU 1" in notes[0].what


def test_a_mig_slice_counts_and_its_parent_does_not(tmp_path):
    slices = [
        Card("NVIDIA H100 80GB HBM3 MIG 3g.40gb", gib=39, free=38),
        Card("NVIDIA H100 80GB HBM3 MIG 1g.10gb", gib=9, free=9),
    ]
    refused = {"nvmlDeviceGetMemoryInfo": pynvml.NVMLError_NoPermission()}
    card = Card(
        "NVIDIA H100 80GB HBM3", slices=slices, raises=refused, capability=(9, 0), pcie=(5, 5, 16, 16)
    )
    gpus, _, notes = read_nvidia(tmp_path, nvml=Nvml(card))
    assert [(gpu.name[-7:], gpu.total_mib, gpu.mig) for gpu in gpus] == [
        ("3g.40gb", 39 * 1024, True),
        ("1g.10gb", 9 * 1024, True),
    ]
    assert {(gpu.index, gpu.compute_capability, gpu.pcie_width) for gpu in gpus} == {(0, "9.0", 16)}
    assert {gpu.memory_bandwidth_gb_s for gpu in gpus} == {None}
    assert [note.id for note in notes] == ["KNB106"]
    assert "2 MIG slice(s)" in notes[0].what


def test_mig_mode_without_a_slice_for_us(tmp_path):
    gpus, _, notes = read_nvidia(tmp_path, nvml=Nvml(Card("NVIDIA A100", slices=[])))
    assert gpus == ()
    assert [(note.id, note.severity) for note in notes] == [("KNB107", "warning")]


def test_a_card_in_a_narrow_slot(tmp_path):
    _, _, notes = read_nvidia(tmp_path, nvml=Nvml(Card(), Card(pcie=(4, 4, 4, 16))))
    assert [note.id for note in notes] == ["KNB108"]
    assert "GPU 1 has 4 of 16" in notes[0].what


def test_an_idle_card_in_a_low_generation_is_no_reason_for_a_note(tmp_path):
    assert read_nvidia(tmp_path, nvml=Nvml(Card(pcie=(1, 5, 16, 16))))[2] == []


FOUR = [Card(uuid=f"GPU-{letter * 8}-0000") for letter in "abcd"]


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        ("0,1,2,3", [0, 1, 2, 3]),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,9,2", [1]),  # CUDA stops at the first name that fits nothing
        ("1,1", [1]),
        ("GPU-cccc", [2]),
        ("GPU-dddddddd-0000,GPU-aaaaaaaa", [3, 0]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(tmp_path, monkeypatch, visible, left):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus, _, notes = read_nvidia(tmp_path, nvml=Nvml(*FOUR))
    assert [gpu.index for gpu in gpus] == left
    assert [note.id for note in notes] == ([] if len(left) == 4 else ["KNB109"])


def test_unlike_cards_are_numbered_otherwise_by_cuda(tmp_path, monkeypatch):
    nvml = Nvml(Card("NVIDIA T400"), Card("NVIDIA GeForce RTX 4090"))
    assert "CUDA_DEVICE_ORDER" in read_nvidia(tmp_path, nvml=nvml, visible="0")[2][0].why
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert "CUDA_DEVICE_ORDER" not in read_nvidia(tmp_path, nvml=nvml, visible="0")[2][0].why


def test_a_slice_is_chosen_by_its_own_name(tmp_path):
    slices = [Card("MIG a", gib=9, free=9, uuid="MIG-1111"), Card("MIG b", gib=9, free=9, uuid="MIG-2222")]
    gpus, _, _ = read_nvidia(tmp_path, nvml=Nvml(Card(slices=slices)), visible="MIG-2222")
    assert [gpu.name for gpu in gpus] == ["MIG b"]


# A library of NVIDIA's name, for the real pynvml to load: an early driver with one card, or an error.
LIBRARY = """
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
static int start(void) { const char *code = getenv("STUB_INIT"); return code ? atoi(code) : 0; }
int nvmlInitWithFlags(unsigned flags) { return start(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "stub"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "470.1", size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 11040; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)1; return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { strncpy(text, "Stub GPU", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 8589934592ull; memory->free = 4294967296ull; memory->used = 4294967296ull; return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "stub.c").write_text(LIBRARY)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "a C compiler is needed, as for building llama.cpp"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", folder / "stub.c"], check=True
    )
    return folder


def ask(library, **env):
    code = (
        "from kimi_nb.machine.nvidia import read_nvidia\ngpus, driver, notes = read_nvidia()\n"
        "print([(g.name, g.total_mib, g.free_mib) for g in gpus], driver, [n.id for n in notes])\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library), **env}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_real_pynvml_with_an_early_driver(library):
    said = ask(library)
    assert "[('Stub GPU', 8192, 4096)]" in said
    assert "version='470.1', cuda='11.4'" in said
    assert said.endswith("[]\n")


@pytest.mark.parametrize(
    ("code", "id_"), [("18", "KNB103"), ("9", "KNB102"), ("4", "KNB104"), ("999", "KNB105"), ("77", "KNB105")]
)
def test_the_real_pynvml_with_a_driver_that_fails(library, code, id_):
    said = ask(library, STUB_INIT=code)
    assert said.startswith("[] None")
    assert id_ in said


def test_the_real_pynvml_with_a_library_that_is_none(library, tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("this is no library")
    assert "KNB10" in ask(tmp_path)
