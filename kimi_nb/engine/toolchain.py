"""The programs that a build needs: a C++ compiler from the machine; CMake and Ninja from it or from PyPI."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.logged import run_logged
from kimi_nb.engine.storage import disk_full, engine_home, require_folder, storage_errors
from kimi_nb.errors import BuildError
from kimi_nb.files import sha256_file

if TYPE_CHECKING:
    from kimi_nb.engine.storage import Progress

__all__ = ["BuildTools", "Compiler", "ensure_tools", "find_compiler", "no_compiler", "package_advice", "says"]

#: CMake 3.18 introduced CUDA architectures. Ninja before 1.11 can take an object file that an interruption
#: cut short for a finished one.
LEAST = {"cmake": (3, 18), "ninja": (1, 11)}
_PINNED = Path(__file__).with_name("build-tools.txt")

_COMPILERS = [
    *(("cc", "c++"), ("gcc", "g++"), ("clang", "clang++")),
    *((f"gcc-{n}", f"g++-{n}") for n in range(16, 9, -1)),
    *((f"clang-{n}", f"clang++-{n}") for n in range(22, 12, -1)),
]

# What to type for a C++ compiler, by the ids of /etc/os-release (its ID, then its ID_LIKE).
_INSTALL = {
    "debian": "sudo apt-get install -y build-essential",
    "ubuntu": "sudo apt-get install -y build-essential",
    "fedora": "sudo dnf install -y gcc-c++",
    "rhel": "sudo dnf install -y gcc-c++",
    "amzn": "sudo dnf install -y gcc-c++",
    "suse": "sudo zypper install -y gcc-c++",
    "arch": "sudo pacman -S --needed base-devel",
    "alpine": "sudo apk add build-base",
    "void": "sudo xbps-install base-devel",
}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that answers, with its C half; both as ``CC`` and ``CXX`` take them."""

    c: str
    cxx: str
    version: str


@dataclass(frozen=True)
class BuildTools:
    """CMake and Ninja, new enough."""

    cmake: Path
    ninja: Path


def says(*command: str | os.PathLike[str]) -> str | None:
    """Return the standard output of a short command, or None if it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def find_compiler() -> Compiler | None:
    """Return the C++ compiler to use: ``CXX`` and ``CC`` where they are set, else the first that answers."""
    cxx = os.environ.get("CXX")
    candidates = [(os.environ.get("CC", ""), cxx)] if cxx else _COMPILERS
    for c, candidate in candidates:
        words = shlex.split(candidate)
        # macOS has a c++ that only offers to install one; so it must answer, not just be there.
        version = says(*words, "--version") if words and shutil.which(words[0]) else None
        if version:
            return Compiler(os.environ.get("CC") or c, candidate, version.splitlines()[0])
    return None


def package_advice() -> str:
    """Return the command that installs a C++ compiler on this system."""
    if platform.system() == "Darwin":
        return "xcode-select --install"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    for name in [release.get("ID", ""), *release.get("ID_LIKE", "").split()]:
        if name in _INSTALL:
            return _INSTALL[name]
    return "install g++ or clang++ with your system's package manager"


def no_compiler() -> BuildError:
    """Return the error for a machine without a C++ compiler."""
    cxx = os.environ.get("CXX")
    why = (
        f"CXX says {cxx!r}, which does not run"
        if cxx
        else "none of c++, g++ and clang++ runs on this machine"
    )
    fix = "Correct or unset CXX." if cxx else f"Install one: {package_advice()}"
    return BuildError("KNB206", "llama.cpp needs a C++ compiler to be built", why=why, fix=fix)


def ensure_tools(log: Path, report: Progress) -> BuildTools:
    """Return CMake and Ninja: the machine's own where new enough, else pinned wheels in a private folder.

    Args:
        log: pip's output is appended here.
        report: Told what happens.

    Raises:
        BuildError: They are missing and cannot be fetched (KNB215).
    """
    own = {name: _on_path(name) for name in LEAST}
    missing = [name for name, path in own.items() if path is None]
    private = _private_tools(missing, log, report) if missing else {}
    found = {name: path or private[name] for name, path in own.items()}
    return BuildTools(found["cmake"], found["ninja"])


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found and _new_enough(name, Path(found)) else None


def _new_enough(name: str, program: Path) -> bool:
    match = re.search(r"(\d+)\.(\d+)", says(program, "--version") or "")
    return match is not None and (int(match[1]), int(match[2])) >= LEAST[name]


def _private_tools(missing: list[str], log: Path, report: Progress) -> dict[str, Path]:
    folder = engine_home() / "tools" / sha256_file(_PINNED)[:12]
    inside = {"cmake": folder / "cmake/data/bin/cmake", "ninja": folder / "bin/ninja"}
    if all(_new_enough(name, inside[name]) for name in missing):
        return inside
    report(f"fetching {' and '.join(missing)} with pip: this machine has none that is new enough", None)
    require_folder(folder.parent)
    lines: list[str] = []
    with storage_errors(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
        target = Path(name) / "tools"
        command: list[str | Path] = [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
            ),
            *("--requirement", _PINNED, "--target", target, "--no-input", "--disable-pip-version-check"),
        ]
        code = run_logged(command, log=log, env=os.environ | {"TMPDIR": name}, on_line=lines.append)
        if code == 0:
            shutil.rmtree(folder, ignore_errors=True)
            target.replace(folder)
    if all(_new_enough(name, inside[name]) for name in missing):
        return inside
    if any("No space left on device" in line for line in lines):
        raise disk_full(folder)
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    raise BuildError(
        "KNB215",
        f"no {' and no '.join(missing)} is new enough (cmake 3.18, ninja 1.11), and pip fetched none",
        why=errors[0] if errors else "what pip installed does not run here",
        fix=f"Install it with your system's package manager, or check pip's settings. pip's log: {log}",
    )
