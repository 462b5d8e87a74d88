"""Configure llama.cpp with CMake and compile it with Ninja; interrupted, the next call continues."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_nb.engine.compile_errors import explain_compile, explain_configure, out_of_memory
from kimi_nb.engine.logged import run_logged
from kimi_nb.engine.storage import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

    from kimi_nb.engine.storage import Progress
    from kimi_nb.engine.toolchain import BuildTools, Compiler

__all__ = ["FLAGS", "PROGRAMS", "Compilation"]

PROGRAMS = (
    "llama-server",
    "llama-fit-params",
    "llama-bench",
    "llama-batched-bench",
    "llama-quantize",
    "llama-gguf-split",
    "llama-perplexity",
    "llama-imatrix",
    "llama-tokenize",
    "llama-mtmd-cli",
)

#: CMake's definitions for every backend.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    # Libraries are found beside the program that wants them, so that the finished folder can be moved; those
    # of CUDA where they are. (CMake's path for use in the build folder would end in an empty entry, which
    # means the current folder: any libstdc++.so.6 in it would be loaded.)
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    f"-DCMAKE_INSTALL_RPATH={'@loader_path' if platform.system() == 'Darwin' else '$ORIGIN'}",
    "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",  # llama.cpp never downloads for us
)

_STATUS = re.compile(r"\[(\d+)/(\d+)\] ")
_GONE_S = 10.0
_KILLED = 128 + 9  # Ninja itself, by the kernel


@dataclass(frozen=True)
class Compilation:
    """One tree of llama.cpp, compiled in one work folder.

    Attributes:
        tree: llama.cpp's source.
        work: Holds everything that can be thrown away; ``work/build`` is CMake's folder.
        flags: CMake's definitions.
        compiler: The compiler to use.
        tools: CMake and Ninja.
        log: Everything that they say is appended here.
        report: Told how far it is.
    """

    tree: Path
    work: Path
    flags: tuple[str, ...]
    compiler: Compiler
    tools: BuildTools
    log: Path
    report: Progress

    @property
    def build(self) -> Path:
        """CMake's folder; programs and libraries appear in its ``bin``."""
        return self.work / "build"

    def configure(self) -> None:
        """Run CMake, unless it has already succeeded here."""
        done = self.work / "configured"
        if done.exists():
            return
        shutil.rmtree(
            self.build, ignore_errors=True
        )  # nothing is compiled yet, and half a configuration is worth less
        self.report("preparing the build with CMake", None)
        command: list[str | Path] = [
            *(self.tools.cmake, "-S", self.tree, "-B", self.build, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={self.tools.ninja}",
            *self.flags,
        ]
        start = self._log_size()
        if self._run(command):
            raise explain_configure(self._log_from(start), self.log, self.work)
        with storage_errors(self.work):
            done.touch()

    def compile(self, jobs: int) -> None:
        """Run Ninja, with fewer jobs where memory runs out."""
        while True:
            start = self._log_size()
            command: list[str | Path] = [self.tools.ninja, "-C", self.build, "-j", str(jobs), *PROGRAMS]
            code = self._run(command, counted=True)
            if code == 0:
                return
            said = self._log_from(start) + ("Killed\n" if code == _KILLED else "")
            if jobs == 1 or not out_of_memory(said):
                raise explain_compile(said, self.log, self.work, compiler=self.compiler.version, jobs=jobs)
            jobs //= 2
            self.report(f"memory ran out; continuing with {jobs} compiler(s) at once", None)

    def _run(self, command: list[str | Path], *, counted: bool = False) -> int:
        temporary = self.work / "tmp"
        _wait_for_predecessor(self.work)
        env = os.environ | {
            "CC": self.compiler.c,
            "CXX": self.compiler.cxx,
            "NINJA_STATUS": "[%f/%t] ",
            "TMPDIR": str(
                temporary
            ),  # compilers' own files: gone with the work folder, and counted with its disk
            "LC_ALL": "C.UTF-8",  # messages that we can recognise
        }
        if not self.compiler.c:
            del env["CC"]
        with storage_errors(self.work):
            temporary.mkdir(parents=True, exist_ok=True)
            return run_logged(
                command,
                log=self.log,
                env=env,
                on_line=_Counter(self.report) if counted else None,
                on_start=self._note_running,
            )

    def _note_running(self, pid: int) -> None:
        (self.work / "running").write_text(str(pid))

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _log_from(self, start: int) -> str:
        with self.log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")


class _Counter:
    """Turns Ninja's ``[12/240]`` into progress with the time left."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        match = _STATUS.match(line)
        if not match:
            return
        done, total = int(match[1]), int(match[2])
        passed = time.monotonic() - self._started
        # Measured on llama.cpp: the counter runs evenly with time. The first steps are too few to judge by.
        left = f", {_duration(passed / done * (total - done))} left" if done >= 10 and done < total else ""  # noqa: PLR2004
        self._report(f"compiling llama.cpp: {done} of {total}{left}", done / total)


def _duration(seconds: float) -> str:
    return f"about {round(seconds / 60)} min" if seconds >= 90 else f"about {round(seconds)} s"  # noqa: PLR2004


def _wait_for_predecessor(work: Path) -> None:
    """Wait until the last program that ran here is gone: ``kill -9`` of its owner leaves it two seconds."""
    import psutil

    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((work / "running").read_text()))
        if any(str(work) in word for word in process.cmdline()):
            process.wait(_GONE_S)
