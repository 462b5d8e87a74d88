"""Which backend llama.cpp is built for, chosen from what is on this machine, and why."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from kimi_nb.engine.toolchain import says
from kimi_nb.errors import BuildError, UsageError

__all__ = ["BACKENDS", "Backend", "Cuda", "choose_backend", "find_cuda", "gpu_capabilities"]

BACKENDS = ("cpu", "cuda", "metal", "vulkan")

_ARCHITECTURES = re.compile(
    r"(\d{2,3}[af]?(-real|-virtual)?)([;,]\d{2,3}[af]?(-real|-virtual)?)*|native|all-major"
)


@dataclass(frozen=True)
class Backend:
    """The backend chosen.

    Attributes:
        name: One of :data:`BACKENDS`.
        why: One line for people.
        flags: CMake's definitions for it.
        toolkit: Version of the toolkit it is compiled with, where it has one.
    """

    name: str
    why: str
    flags: tuple[str, ...]
    toolkit: str = ""


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit: its compiler, its version, and the architectures (``"90"``) that it can compile for."""

    nvcc: Path
    version: str
    architectures: frozenset[str]


def find_cuda() -> Cuda | None:
    """Return the CUDA toolkit that the environment or the usual folders lead to.

    That is the first nvcc that answers of: ``CUDACXX``; below ``CUDA_HOME`` and ``CUDA_PATH``; on ``PATH``;
    below ``/usr/local/cuda``, ``/opt/cuda`` and ``/usr/local/cuda-*``, the newest first.
    """
    homes = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    newest_first = sorted(Path("/usr/local").glob("cuda-*/bin"), key=_numbers, reverse=True)
    folders = [Path("/usr/local/cuda/bin"), Path("/opt/cuda/bin"), *newest_first]
    candidates = [
        os.environ.get("CUDACXX"),
        *(shutil.which("nvcc", path=str(folder)) for folder in homes),
        shutil.which("nvcc"),
        *(shutil.which("nvcc", path=str(folder)) for folder in folders),
    ]
    for nvcc in filter(None, candidates):
        match = re.search(r"release [\d.]+, V([\d.]+)", says(nvcc, "--version") or "")
        if match:
            known = re.findall(r"compute_(\d+)", says(nvcc, "--list-gpu-arch") or "")
            return Cuda(Path(nvcc), match[1], frozenset(known))
    return None


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def gpu_capabilities() -> list[str]:
    """Return the compute capability of each NVIDIA GPU, as ``"9.0"``; empty where no driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            pairs = [pynvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
            return [f"{major}.{minor}" for major, minor in pairs]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        smi = shutil.which("nvidia-smi") or "/usr/lib/wsl/lib/nvidia-smi"
        return re.findall(
            r"^(\d+\.\d+)\s*$",
            says(smi, "--query-gpu=compute_cap", "--format=csv,noheader") or "",
            re.MULTILINE,
        )


def choose_backend(wanted: str | None = None, cuda_arch: str | None = None) -> Backend:
    """Choose the backend.

    Args:
        wanted: One of :data:`BACKENDS`; None chooses from what is on the machine.
        cuda_arch: Architectures as CMake's ``CMAKE_CUDA_ARCHITECTURES`` takes them (``"90"``, ``"86;89"``,
            ``"native"``); by default those of the GPUs present.

    Raises:
        UsageError: A name or an architecture that does not exist.
        BuildError: The backend asked for cannot be built here.
    """
    if wanted is not None and wanted not in BACKENDS:
        raise UsageError(
            "KNB207",
            f"there is no backend {wanted!r}",
            why=f"there are {', '.join(BACKENDS)}",
            fix="Name one of them.",
        )
    if cuda_arch is not None and not _ARCHITECTURES.fullmatch(cuda_arch):
        raise UsageError(
            "KNB207",
            f"{cuda_arch!r} is not a CUDA architecture",
            why="an architecture is a compute capability without its point, as 90 for an H100",
            fix='Give one such as 90, or several such as "86;89".',
        )
    if cuda_arch is not None and wanted not in {None, "cuda"}:
        raise UsageError(
            "KNB207",
            f"--cuda-arch does not go with the {wanted} backend",
            why="it says which NVIDIA GPUs to build for",
            fix="Leave one of the two out.",
        )
    if wanted == "cuda" or (wanted is None and cuda_arch is not None):
        return _cuda(cuda_arch)
    if wanted == "metal":
        return _metal()
    if wanted == "vulkan":
        return _vulkan()
    if wanted == "cpu":
        return _cpu("as asked")
    return _from_what_is_there()


def _from_what_is_there() -> Backend:
    if platform.system() == "Darwin":
        return _metal() if platform.machine() == "arm64" else _cpu("this Mac has no Apple GPU")
    gpus, toolkit = gpu_capabilities(), find_cuda()
    why = "no GPU with its toolkit is here"
    if gpus and toolkit:
        try:
            return _cuda(None)
        except BuildError as error:  # a toolkit that does not know the GPU
            why = f"{error.what}: {error.why}"
    elif gpus:
        why = "an NVIDIA GPU is here, but no CUDA toolkit (nvcc) to build for it"
    elif toolkit:
        why = "a CUDA toolkit is here, but no NVIDIA GPU answers"
    if _glslc() and _vulkan_header() and any(Path("/dev/dri").glob("renderD*")):
        return _vulkan()
    return _cpu(why)


def _cpu(why: str) -> Backend:
    return Backend("cpu", why, ("-DGGML_METAL=OFF",) if platform.system() == "Darwin" else ())


def _cuda(architectures: str | None) -> Backend:
    toolkit = find_cuda()
    if toolkit is None:
        raise _impossible(
            "cuda", "no CUDA toolkit (nvcc) is on this machine", "Install NVIDIA's CUDA toolkit"
        )
    why = "as asked"
    if architectures is None:
        gpus = sorted({gpu.replace(".", "") for gpu in gpu_capabilities()}, key=int)
        if not gpus:
            raise _impossible(
                "cuda", "no NVIDIA GPU answers, so its architecture is not known", "Give --cuda-arch"
            )
        known = [gpu for gpu in gpus if gpu in toolkit.architectures]
        if not known:
            raise BuildError(
                "KNB214",
                f"CUDA {toolkit.version} cannot compile for this machine's GPU",
                why=f"the GPU is architecture {', '.join(gpus)}, and this toolkit knows "
                f"{', '.join(sorted(toolkit.architectures, key=int))}",
                fix="Install a CUDA toolkit that knows it (12.x for old GPUs, the newest for new ones), "
                "or build with --backend cpu.",
            )
        architectures = ";".join(known)
        why = f"an NVIDIA GPU of architecture {architectures} and CUDA {toolkit.version} are here"
    flags = (
        "-DGGML_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={toolkit.nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={architectures.replace(',', ';')}",
        # The driver's library is only where a GPU is. While a container is made, the toolkit's stub stands
        # in for it, under a name that the linker does not look for when it comes to the programs.
        "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
        *_where_libraries_are(toolkit.nvcc),
    )
    return Backend("cuda", why, flags, toolkit.version)


def _where_libraries_are(nvcc: Path) -> tuple[str, ...]:
    """Return the definition that lets our libraries find the toolkit's, if that has a folder for them.

    CMake leaves the toolkit's folders out of a library's search path, for to nvcc they are the system's; to
    the loader they are only where an administrator made them so.
    """
    top = nvcc.resolve().parents[1]
    places = (top / "lib64", *sorted(top.glob("targets/*/lib")), top / "lib")
    for place in places:
        if any(place.glob("libcudart.so*")):
            return (f"-DCMAKE_INSTALL_RPATH=$ORIGIN;{place}",)
    return ()


def _metal() -> Backend:
    if platform.system() != "Darwin":
        raise _impossible("metal", "Metal exists on macOS only", "Use a Mac")
    return Backend("metal", "this is a Mac", ("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"))


def _vulkan() -> Backend:
    glslc = _glslc()
    if glslc is None or not _vulkan_header():
        lacking = "compiler (glslc)" if glslc is None else "headers (vulkan/vulkan.h)"
        raise _impossible(
            "vulkan",
            f"Vulkan's {lacking} is not on this machine",
            "Install the Vulkan SDK (libvulkan-dev and glslc)",
        )
    version = (says(glslc, "--version") or "").split("\n", 1)[0]
    return Backend("vulkan", "the Vulkan SDK and a GPU are here", ("-DGGML_VULKAN=ON",), version)


def _glslc() -> str | None:
    sdk = os.environ.get("VULKAN_SDK")
    return (shutil.which("glslc", path=f"{sdk}/bin") if sdk else None) or shutil.which("glslc")


def _vulkan_header() -> bool:
    roots = [os.environ.get("VULKAN_SDK", ""), "/usr", "/usr/local", "/opt/homebrew"]
    return any(Path(root, "include/vulkan/vulkan.h").is_file() for root in roots if root)


def _impossible(name: str, why: str, fix: str) -> BuildError:
    return BuildError(
        "KNB207",
        f"the {name} backend cannot be built here",
        why=why,
        fix=f"{fix}, or build with --backend cpu.",
    )
