"""Which backend is chosen and why, what names a build, and how many compilers run at once."""

import re
import tomllib
from pathlib import Path

import psutil
import pytest

from kimi_nb.engine import backend, jobs
from kimi_nb.engine.backend import choose_backend, find_cuda
from kimi_nb.engine.source import pinned_source
from kimi_nb.engine.target import Target, choose_target
from kimi_nb.engine.toolchain import Compiler, find_compiler, package_advice
from kimi_nb.errors import BuildError, UsageError, troubles

PACKAGE = Path(backend.__file__).parents[1]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A Linux machine whose GPUs and toolkits the test chooses; the programs are scripts that answer as the real ones."""
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "VULKAN_SDK", "CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(backend.platform, "system", lambda: "Linux")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")

    def has(*, gpus=(), nvcc=None, knows="75 80 86 89 90 120"):
        monkeypatch.setattr(backend, "gpu_capabilities", lambda: list(gpus))
        path = folder / "nvcc"
        if nvcc is None:
            monkeypatch.setattr(backend, "find_cuda", lambda: None)
            return
        listed = "".join(f"echo compute_{number}\n" for number in knows.split())
        path.write_text(
            '#!/bin/sh\nif [ "$1" = --version ]; then\n'
            f'echo "Cuda compilation tools, release {nvcc[:4]}, V{nvcc}"\nelse\n{listed}fi\n'
        )
        path.chmod(0o755)

    return has


def test_cuda_is_chosen_where_both_toolkit_and_gpu_are(machine):
    machine(gpus=["9.0", "9.0"], nvcc="13.0.88")
    chosen = choose_backend()
    assert (chosen.name, chosen.toolkit) == ("cuda", "13.0.88")
    assert "-DGGML_CUDA=ON" in chosen.flags
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in chosen.flags
    assert any(flag.startswith("-DCMAKE_CUDA_COMPILER=/") for flag in chosen.flags)
    assert chosen.why == "an NVIDIA GPU of architecture 90 and CUDA 13.0.88 are here"


def test_programs_are_linked_where_there_is_no_driver(machine):
    """Compiled for an H200 on a machine without a GPU, the last step failed: undefined reference to `cuMemCreate'."""
    machine(nvcc="13.0.88")
    chosen = choose_backend("cuda", cuda_arch="90")
    assert "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined" in chosen.flags


@pytest.mark.parametrize("place", ["lib64", "targets/x86_64-linux/lib", "lib"])
def test_the_toolkits_libraries_are_found_wherever_it_is(machine, tmp_path, place):
    """Of a toolkit that is not in the loader's own list: "libcublas.so.13: cannot open shared object file"."""
    machine(nvcc="13.0.88")
    named, real = tmp_path / "bin/nvcc", tmp_path / "cuda/bin/nvcc"
    real.parent.mkdir(parents=True)
    named.rename(real)
    named.symlink_to(real)
    library = tmp_path / "cuda" / place / "libcudart.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    paths = [flag for flag in choose_backend("cuda", cuda_arch="90").flags if "RPATH" in flag]
    assert paths == [f"-DCMAKE_INSTALL_RPATH=$ORIGIN;{library.parent}"]


def test_a_toolkit_among_the_systems_libraries_needs_no_path(machine):
    machine(nvcc="13.0.88")
    assert not [flag for flag in choose_backend("cuda", cuda_arch="90").flags if "RPATH" in flag]


def test_unlike_gpus_are_all_compiled_for(machine):
    machine(gpus=["12.0", "8.6", "8.6"], nvcc="12.8.1")
    assert "-DCMAKE_CUDA_ARCHITECTURES=86;120" in choose_backend().flags


@pytest.mark.parametrize(
    ("gpus", "nvcc", "why"),
    [
        ([], None, "no GPU with its toolkit is here"),
        (["8.9"], None, "an NVIDIA GPU is here, but no CUDA toolkit (nvcc) to build for it"),
        ([], "13.0.88", "a CUDA toolkit is here, but no NVIDIA GPU answers"),
        (
            ["6.1"],
            "13.0.88",
            "CUDA 13.0.88 cannot compile for this machine's GPU: the GPU is architecture 61",
        ),
    ],
)
def test_otherwise_the_processor_is_chosen_and_the_reason_said(machine, gpus, nvcc, why, monkeypatch):
    monkeypatch.setattr(backend, "_glslc", lambda: None)
    machine(gpus=gpus, nvcc=nvcc)
    chosen = choose_backend()
    assert chosen.name == "cpu"
    assert chosen.why.startswith(why)
    assert chosen.flags == ()


def test_what_is_asked_for_and_cannot_be_is_an_error(machine):
    machine(gpus=["6.1"], nvcc="13.0.88")
    with pytest.raises(
        BuildError, match=r"KNB214: .*architecture 61, and this toolkit knows 75, 80, .*--backend cpu"
    ):
        choose_backend("cuda")
    machine(gpus=[], nvcc="13.0.88")
    with pytest.raises(BuildError, match=r"KNB207: .*no NVIDIA GPU answers.*--cuda-arch"):
        choose_backend("cuda")
    with pytest.raises(BuildError, match=r"KNB207: .*Metal exists on macOS only"):
        choose_backend("metal")
    machine()
    with pytest.raises(BuildError, match=r"KNB207: .*no CUDA toolkit"):
        choose_backend("cuda")


def test_an_architecture_asked_for_stands_in_for_the_gpu(machine):
    machine(gpus=[], nvcc="12.8.1")
    assert "-DCMAKE_CUDA_ARCHITECTURES=86;89-real" in choose_backend("cuda", "86,89-real").flags
    assert choose_backend(None, "120a").name == "cuda"
    for wrong in ("", "sm_90", "90;", "9.0", "90 --x", "nativ"):
        with pytest.raises(UsageError, match="KNB207"):
            choose_backend(None, wrong)


def test_nvcc_is_found_below_cuda_home_before_path(machine, tmp_path, monkeypatch):
    machine(nvcc="12.8.1", gpus=[])
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    other = home / "bin/nvcc"
    other.write_text((tmp_path / "bin/nvcc").read_text().replace("12.8.1", "13.1.2"))
    other.chmod(0o755)
    assert find_cuda().version == "12.8.1"
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert (find_cuda().nvcc, find_cuda().version) == (other, "13.1.2")
    other.write_text("#!/bin/sh\nexit 1\n")  # a toolkit whose nvcc does not run is none
    assert find_cuda().version == "12.8.1"


def test_vulkan_needs_its_compiler_and_its_headers(machine, tmp_path, monkeypatch):
    machine()
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path))
    with pytest.raises(BuildError, match="KNB207: the vulkan backend cannot be built here"):
        choose_backend("vulkan")
    (tmp_path / "include/vulkan").mkdir(parents=True)
    (tmp_path / "include/vulkan/vulkan.h").touch()
    (tmp_path / "bin/glslc").write_text("#!/bin/sh\necho shaderc v2024\n")
    (tmp_path / "bin/glslc").chmod(0o755)
    assert choose_backend("vulkan").flags == ("-DGGML_VULKAN=ON",)


@pytest.mark.parametrize(("processor", "name"), [("arm64", "metal"), ("x86_64", "cpu")])
def test_a_mac(machine, monkeypatch, processor, name):
    machine()
    monkeypatch.setattr(backend.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(backend.platform, "machine", lambda: processor)
    chosen = choose_backend()
    assert chosen.name == name
    assert ("-DGGML_METAL=OFF" in chosen.flags) == (name == "cpu")


def test_the_key_differs_where_the_programs_would(monkeypatch):
    monkeypatch.delenv("KIMI_NB_LLAMA_CPP", raising=False)
    target = choose_target(backend="cpu")
    assert re.fullmatch(r"cpu-[0-9a-f]{12}", target.key)
    assert choose_target(backend="cpu").key == target.key
    others = [
        Target(target.source, target.backend, target.compiler, "another processor"),
        Target(target.source, target.backend, Compiler("cc", "c++", "another compiler"), target.cpu),
        Target(
            target.source, choose_backend("cpu").__class__("cpu", "", ("-DX=1",)), target.compiler, target.cpu
        ),
    ]
    assert len({other.key for other in others} | {target.key}) == 4
    assert "-DLLAMA_BUILD_COMMIT=0c1e57098" in target.flags
    assert pinned_source().commit in repr(target.source)


def test_the_compiler_is_the_one_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("CXX", "c++ -std=gnu++17")
    monkeypatch.setenv("CC", "cc -O1")
    found = find_compiler()
    assert (found.c, found.cxx) == ("cc -O1", "c++ -std=gnu++17")


@pytest.mark.parametrize(
    ("release", "says"),
    [
        ({"ID": "debian"}, "sudo apt-get install -y build-essential"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "sudo apt-get install -y build-essential"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "sudo dnf install -y gcc-c++"),
        ({"ID": "alpine"}, "sudo apk add build-base"),
        ({"ID": "plan9"}, "install g++ or clang++ with your system's package manager"),
    ],
)
def test_the_advice_fits_the_system(release, says, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert package_advice() == says


def groups(tmp_path, monkeypatch, table: str, files: dict[str, str]) -> None:
    """Lay out control groups as the kernel shows them."""
    own = tmp_path / "own"
    own.write_text(table)
    monkeypatch.setattr(jobs, "_OWN", own)
    monkeypatch.setattr(jobs, "_CGROUPS", tmp_path / "cgroup")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_container_s_memory_limit_counts_and_the_file_cache_does_not(tmp_path, monkeypatch):
    gib = 1 << 30
    files = {
        "memory.max": "max\n",
        "box/memory.max": f"{4 * gib}\n",
        "box/memory.current": f"{3 * gib}\n",
        "box/memory.stat": f"anon 5\ninactive_file {2 * gib}\nactive_file 7\n",
        "box/cpu.max": "150000 100000\n",
    }
    groups(tmp_path, monkeypatch, "0::/box\n", files)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * gib}))
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert jobs.memory_mib() == 3 * 1024
    assert jobs.processors() == 2
    assert jobs.default_jobs(1500) == 2
    assert jobs.default_jobs(2500) == 1
    assert jobs.default_jobs(9000) == 1


def test_control_groups_of_version_1_count_too(tmp_path, monkeypatch):
    gib = 1 << 30
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/job/memory.limit_in_bytes": f"{2 * gib}\n",
        "memory/job/memory.usage_in_bytes": f"{gib}\n",
        "cpu/job/cpu.cfs_quota_us": "400000\n",
        "cpu/job/cpu.cfs_period_us": "100000\n",
    }
    groups(tmp_path, monkeypatch, "4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n", files)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * gib}))
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert jobs.memory_mib() == 1024
    assert jobs.processors() == 4


def test_a_machine_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_OWN", tmp_path / "none")
    assert 0 < jobs.memory_mib() <= psutil.virtual_memory().total >> 20
    assert jobs.processors() >= 1


def test_every_trouble_of_a_build_is_explained():
    raised = {
        id_
        for path in [*PACKAGE.glob("engine/*.py"), PACKAGE / "commands/build.py"]
        for id_ in re.findall(r"\bKNB2\d\d\b", path.read_text())
    }
    explained = tomllib.loads((PACKAGE / "troubles/2_build.toml").read_text())
    assert raised == set(explained)
    assert raised <= set(troubles())
    for entry in explained.values():
        assert entry["title"]
        assert 2 <= len(re.findall(r"[.!?](?=\s|$)", entry["explanation"])) <= 6
