"""A machine as data: to JSON and back, strict about what comes in, and the profiles that ship."""

import copy
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kimi_nb.machine
from kimi_nb.errors import UsageError, troubles
from kimi_nb.machine import (
    Cpu,
    Disk,
    Gpu,
    HostMemory,
    JupyterFacts,
    Machine,
    Note,
    NumaNode,
    NvidiaDriver,
    first_look,
    load_profile,
    machine_named,
    probe,
    profiles,
)
from kimi_nb.machine.cpu import _ARM, _X86
from kimi_nb.model.catalog import catalog

COUNT = st.integers(0, 2**40)
TEXT = st.text(max_size=20)


def optional(strategy):
    return st.none() | strategy


@st.composite
def pair(draw):
    """A total and a part of it."""
    total = draw(COUNT)
    return total, draw(st.integers(0, total))


@st.composite
def gpus(draw):
    total, free = draw(pair())
    return Gpu(
        index=draw(COUNT),
        kind=draw(st.sampled_from(["cuda", "metal"])),
        name=draw(TEXT),
        total_mib=total,
        free_mib=free,
        guess=draw(st.booleans()),
        mig=draw(st.booleans()),
        compute_capability=draw(optional(TEXT)),
        pcie_generation=draw(optional(COUNT)),
        pcie_generation_max=draw(optional(COUNT)),
        pcie_width=draw(optional(COUNT)),
        pcie_width_max=draw(optional(COUNT)),
        memory_bandwidth_gb_s=draw(optional(st.floats(0, 1e9))),
    )


@st.composite
def memories(draw):
    physical, total = draw(pair())
    swap, swap_free = draw(pair())
    return HostMemory(
        total_mib=total,
        available_mib=draw(st.integers(0, total)),
        physical_mib=physical,
        limit_mib=draw(optional(COUNT)),
        limit_source=draw(optional(TEXT)),
        swap_total_mib=swap,
        swap_free_mib=swap_free,
    )


CORES = st.integers(1, 4096)
CPUS = st.builds(
    Cpu,
    model=TEXT,
    architecture=TEXT,
    sockets=CORES,
    physical_cores=CORES,
    logical_cores=CORES,
    performance_cores=optional(CORES),
    allowed_physical=CORES,
    allowed_logical=CORES,
    quota_cores=optional(st.floats(0, 4096)),
    features=st.lists(TEXT, max_size=3).map(tuple),
)
NODES = st.builds(NumaNode, index=COUNT, cpus=TEXT, logical_cores=COUNT, total_mib=COUNT, free_mib=COUNT)
DISKS = st.builds(
    Disk,
    path=TEXT,
    filesystem=TEXT,
    total_mib=COUNT,
    free_mib=COUNT,
    network=st.booleans(),
    sparse=optional(st.booleans()),
    max_file_mib=optional(COUNT),
    rotational=optional(st.booleans()),
    writable=st.booleans(),
)
NOTES = st.builds(Note, id=TEXT, severity=st.sampled_from(["info", "warning"]), what=TEXT, why=TEXT, fix=TEXT)
JUPYTER = st.builds(
    JupyterFacts,
    python=TEXT,
    kernel=TEXT,
    in_kernel=st.booleans(),
    same_environment=optional(st.booleans()),
    **{
        n: optional(TEXT)
        for n in ("kernel_python", "jupyterlab", "ipykernel", "ipywidgets", "jupyterlab_widgets")
    },
)
MACHINES = st.builds(
    Machine,
    name=TEXT,
    origin=st.sampled_from(["probe", "profile"]),
    about=TEXT,
    system=TEXT,
    release=TEXT,
    wsl=st.booleans(),
    gpus=st.lists(gpus(), max_size=3).map(tuple),
    nvidia=optional(st.builds(NvidiaDriver, version=TEXT, cuda=optional(TEXT))),
    memory=memories(),
    cpu=CPUS,
    numa=st.lists(NODES, max_size=2).map(tuple),
    disk=optional(DISKS),
    shm_mib=optional(COUNT),
    jupyter=optional(JUPYTER),
    notes=st.lists(NOTES, max_size=2).map(tuple),
)


@settings(max_examples=150)
@given(MACHINES)
def test_any_machine_comes_back_from_json_as_it_was(machine):
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | TEXT, lambda x: st.lists(x) | st.dictionaries(TEXT, x)
    )
)
def test_whatever_else_is_refused_with_one_line(value):
    with pytest.raises(UsageError) as caught:
        Machine.from_json(value)
    assert caught.value.id == "KNB132"
    assert "\n" not in str(caught.value)


GOOD = load_profile("rtx3090x2-256gb").to_json()


def changed(path: str, value) -> dict:
    """A good machine with one thing changed; ``...`` takes it out."""
    machine = copy.deepcopy(GOOD)
    *folders, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = machine
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return machine


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("gpus", ..., "gpus is missing"),
        ("gpus/1/total_mib", ..., "gpus[1].total_mib is missing"),
        ("gpus/0/name", 7, "gpus[0].name must be a string, but is a whole number"),
        ("gpus/0/total_mib", "24576", "gpus[0].total_mib must be a whole number, but is a string"),
        ("gpus/0/total_mib", 24576.0, "gpus[0].total_mib must be a whole number, but is a number"),
        ("gpus/0/total_mib", True, "gpus[0].total_mib must be a whole number, but is true or false"),
        ("gpus/0/total_mib", None, "gpus[0].total_mib must be a whole number, but is null"),
        ("gpus/0/total_mib", -1, "gpus[0].total_mib must be a number from 0"),
        ("gpus/0/total_mib", 2**63, "gpus[0].total_mib must be a number from 0"),
        ("gpus/0/free_mib", 24577, "gpus[0].free_mib is more than total_mib (24576)"),
        ("gpus/0/kind", "rocm", "gpus[0].kind must be one of cuda, metal, but is 'rocm'"),
        ("gpus/0/kind", ["cuda"], "gpus[0].kind must be one of cuda, metal"),
        ("gpus/0/memory_bandwidth_gb_s", math.nan, "gpus[0].memory_bandwidth_gb_s must be a number from 0"),
        ("gpus/0/memory_bandwidth_gb_s", math.inf, "gpus[0].memory_bandwidth_gb_s must be a number from 0"),
        ("gpus/0/memory_bandwidth_gb_s", -0.5, "gpus[0].memory_bandwidth_gb_s must be a number from 0"),
        ("gpus/0/mig", 0, "gpus[0].mig must be true or false, but is a whole number"),
        ("gpus/0/vram", 1, "gpus[0].vram is not a key this version knows"),
        ("gpus/0/total_mb", 1, "did you mean total_mib?"),
        ("gpus", {"0": {}}, "gpus must be a list, but is an object"),
        ("gpus", [3], "gpus[0] must be an object, but is a whole number"),
        ("memory", None, "memory must be an object, but is null"),
        ("memory/total_mib", -5, "memory.total_mib must be a number from 0"),
        ("memory/available_mib", 2**40, "memory.available_mib is more than total_mib"),
        ("memory/total_mib", 2**40, "memory.total_mib is more than physical_mib"),
        ("memory/swap_free_mib", 1, "memory.swap_free_mib exceeds swap_total_mib (0)"),
        ("cpu/features", "avx2", "cpu.features must be a list, but is a string"),
        ("cpu/features", ["avx2", 512], "cpu.features[1] must be a string, but is a whole number"),
        ("cpu/physical_cores", 0, "cpu.physical_cores must be at least 1"),
        ("numa/0/cpus", [0, 1], "numa[0].cpus must be a string, but is a list"),
        ("format", 2, "format must be 1, but is 2"),
        ("format", ..., "format must be 1, but is None"),
        ("format", True, "format must be 1, but is True"),
    ],
)
def test_the_wrong_key_is_named(path, value, says):
    with pytest.raises(UsageError) as caught:
        Machine.from_json(changed(path, value), source="rig.json")
    assert caught.value.id == "KNB132"
    assert caught.value.exit_code == 2
    assert says in str(caught.value)
    assert str(caught.value).startswith("KNB132: rig.json is not a machine")


def test_whole_numbers_do_for_rates():
    machine = Machine.from_json(changed("gpus/0/memory_bandwidth_gb_s", 936))
    assert machine.gpus[0].memory_bandwidth_gb_s == 936.0
    assert isinstance(machine.gpus[0].memory_bandwidth_gb_s, float)


def test_saving_and_loading(tmp_path):
    machine = probe()
    machine.save(tmp_path / "deep/er/rig.json")
    assert Machine.load(tmp_path / "deep/er/rig.json") == machine
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["rig.json"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not hold JSON"),
        (b"{", "does not hold JSON"),
        (b"\xff\xfe\x00", "does not hold JSON"),
        (b"[" * 200_000, "does not hold JSON"),
        (b"1" * 5000, "does not hold JSON"),
        (b" " * (4 * 1024 * 1024 + 1), "far too large"),
    ],
)
def test_files_that_are_no_machine_files(tmp_path, content, why):
    (tmp_path / "rig.json").write_bytes(content)
    with pytest.raises(UsageError, match="KNB131") as caught:
        Machine.load(tmp_path / "rig.json")
    assert why in str(caught.value)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    whole = json.dumps(GOOD)
    (tmp_path / "rig.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="KNB131"):
        Machine.load(tmp_path / "rig.json")


def test_a_missing_file_a_folder_and_a_device_are_refused_at_once(tmp_path):
    for path, why in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "ordinary file"),
        ("/dev/zero", "ordinary file"),
    ):
        with pytest.raises(UsageError, match="KNB131") as caught:
            Machine.load(Path(path))
        assert why in str(caught.value)


def test_saving_where_one_cannot(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path, tmp_path / "file/rig.json", Path("/proc/rig.json")):
        with pytest.raises(UsageError, match="KNB134"):
            load_profile("cpu-512gb").save(target)
    assert (tmp_path / "file").read_text() == ""


# ---------------------------------------------------------------- profiles


def test_the_profiles_that_ship():
    assert list(profiles()) == sorted(profiles())
    facts = {
        name: ([gpu.total_mib for gpu in m.gpus], m.memory.total_mib // 1024)
        for name, m in profiles().items()
    }
    assert facts == {
        "cpu-512gb": ([], 503),
        "h100-80gb": ([81559], 251),
        "h100x8": ([81559] * 8, 2015),
        "h200x8": ([143771] * 8, 2015),
        "m2-ultra-192gb": ([147456], 192),
        "rtx3090x2-256gb": ([24576] * 2, 251),
        "rtx4090-256gb": ([24564], 251),
    }


@pytest.mark.parametrize(
    "name",
    ["cpu-512gb", "h100-80gb", "h100x8", "h200x8", "m2-ultra-192gb", "rtx3090x2-256gb", "rtx4090-256gb"],
)
def test_a_profile_says_that_it_is_one_and_is_whole(name):
    machine = load_profile(name)
    assert machine.origin == "profile"
    assert "not measured on one machine" in machine.about
    assert machine.disk is None
    assert machine.jupyter is None
    assert machine.notes == ()
    assert machine.cpu.features
    assert set(machine.cpu.features) <= {*_X86, *_ARM.values()}
    if machine.numa:
        assert sum(node.logical_cores for node in machine.numa) == machine.cpu.logical_cores
        assert sum(node.total_mib for node in machine.numa) == machine.memory.total_mib
    assert all(gpu.guess == (gpu.kind == "metal") for gpu in machine.gpus)


def test_a_misspelt_profile_gets_the_nearest_names():
    with pytest.raises(UsageError) as caught:
        load_profile("rtx4090-256")
    assert caught.value.id == "KNB133"
    assert "rtx4090-256gb" in caught.value.fix


def test_a_machine_is_named_by_profile_or_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    load_profile("h100-80gb").save(path)
    assert machine_named(str(path)) == machine_named("h100-80gb") == load_profile("h100-80gb")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine_named("~/mine.json") == load_profile("h100-80gb")
    with pytest.raises(UsageError, match="KNB133"):
        machine_named(str(tmp_path / "other.json"))


# ---------------------------------------------------------------- what follows from the facts


def test_mig_slices_are_used_one_at_a_time():
    machine = load_profile("rtx3090x2-256gb")
    sliced = dataclasses.replace(
        machine, gpus=tuple(dataclasses.replace(gpu, mig=True) for gpu in machine.gpus)
    )
    assert sliced.usable_gpus == sliced.gpus[:1]
    assert sliced.capacity_mib == machine.capacity_mib - 24576


def test_apple_memory_is_counted_once():
    machine = load_profile("m2-ultra-192gb")
    assert machine.unified
    assert machine.capacity_mib == 192 * 1024
    assert machine.gpu_mib == 144 * 1024


@pytest.mark.parametrize(
    ("profile", "in_memory", "on_gpus"),
    [
        ("rtx4090-256gb", {"UD-TQ1_0", "UD-IQ1_S"}, set()),
        ("cpu-512gb", {"UD-TQ1_0", "UD-IQ1_S", "UD-IQ1_M", "UD-Q2_K_XL", "Q3_K_S", "UD-Q3_K_XL"}, None),
        ("m2-ultra-192gb", set(), set()),
        (
            "h100x8",
            None,
            {
                "UD-TQ1_0",
                "UD-IQ1_S",
                "UD-IQ1_M",
                "UD-Q2_K_XL",
                "Q3_K_S",
                "UD-Q3_K_XL",
                "Q4_K_M",
                "UD-Q4_K_XL",
            },
        ),
    ],
)
def test_the_first_look(profile, in_memory, on_gpus):
    look = first_look(load_profile(profile), catalog().model("kimi-k2.5"))
    own = [one for one in look.quants if one.quant.publisher == "unsloth"]
    if in_memory is not None:
        assert {one.quant.name for one in own if one.fits_memory} == in_memory
    if on_gpus is None:
        assert {one.fits_gpu for one in own} == {None}
    else:
        assert {one.quant.name for one in own if one.fits_gpu} == on_gpus
    assert {one.fits_disk for one in look.quants} == {None}


def test_a_quant_of_unknown_size_is_not_judged():
    look = first_look(load_profile("h200x8"), catalog().model("kimi-k2.5"))
    assert "UD-IQ3_XXS" not in {one.quant.name for one in look.quants}


def test_one_byte_decides():
    model = catalog().model("kimi-k2.5")
    size = -(-374_764_330_144 // 1024**2)
    machine = load_profile("cpu-512gb")
    for total, fits in ((size, True), (size - 1, False)):
        memory = dataclasses.replace(machine.memory, total_mib=total)
        look = first_look(dataclasses.replace(machine, memory=memory), model)
        assert {one.fits_memory for one in look.quants if one.quant.name == "UD-Q2_K_XL"} == {fits}


# ---------------------------------------------------------------- the probe as a whole


def test_the_probe_of_this_machine():
    machine = probe()
    assert machine.origin == "probe"
    assert machine.memory.total_mib > 0
    assert machine.cpu.physical_cores >= 1
    assert machine.disk is not None
    assert machine.jupyter is not None
    assert machine.jupyter.ipywidgets
    assert "KNB125" not in {note.id for note in machine.notes}


def test_probing_leaves_nothing_behind(tmp_path):
    machine = probe(models=tmp_path / "models")
    assert machine.disk.path == str(tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_wsl_is_recognised(tmp_path):
    for name, content in {
        "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    machine = probe(root=tmp_path)
    assert machine.wsl
    assert "KNB122" in {note.id for note in machine.notes}


def test_every_note_and_error_of_ours_is_explained():
    """Each id in the sources has an entry, and no entry is without a use."""
    sources = Path(kimi_nb.machine.__file__).parent.glob("*.py")
    used = {id_ for source in sources for id_ in re.findall(r"KNB1\d\d", source.read_text(encoding="utf-8"))}
    assert used == {id_ for id_ in troubles() if id_.startswith("KNB1")}


def test_the_public_names_are_all_there_in_any_order():
    """No submodule may bear an exported name: importing it would put the module in the name's place."""
    for name in kimi_nb.machine.__all__:
        assert not isinstance(getattr(kimi_nb.machine, name), type(kimi_nb.machine)), name
    assert sorted(kimi_nb.machine.__all__) == list(kimi_nb.machine.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kimi_nb.machine.no_such_name
