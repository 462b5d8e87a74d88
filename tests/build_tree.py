"""A small tree laid out as llama.cpp's: the same targets, compiled by the real CMake, Ninja and compiler in seconds."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

from kimi_nb.engine.compile import PROGRAMS

REPOSITORY = Path(__file__).parents[1]

_CMAKE = """\
cmake_minimum_required(VERSION 3.14)
project(tree C CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set_property(GLOBAL PROPERTY RULE_LAUNCH_COMPILE "\\"${CMAKE_SOURCE_DIR}/launch.sh\\"")
add_library(llama SHARED src/llama.cpp)
set_target_properties(llama PROPERTIES VERSION 0.0.1 SOVERSION 0)
"""
_TARGET = """\
add_executable({name} tools/{name}.cpp)
target_link_libraries({name} llama)
"""
_PROGRAM = """\
#include <cstdio>
const char * version();
int main() {{ std::printf("version: %s\\n", version()); return 0; }}  // {name}
"""
VERSION = "9.9.9 (build 7, commit abc1234)"


def make_tree(folder: Path, *, seconds_each: float = 0.0) -> Path:
    """Write the tree; each of its 11 files takes ``seconds_each`` longer to compile than it must."""
    for name in ("src", "tools", "include"):
        (folder / name).mkdir(parents=True)
    (folder / "include/llama.h").touch()
    (folder / "CMakeLists.txt").write_text(_CMAKE + "".join(_TARGET.format(name=name) for name in PROGRAMS))
    (folder / "src/llama.cpp").write_text(f'const char * version() {{ return "{VERSION}"; }}\n')
    for name in PROGRAMS:
        (folder / f"tools/{name}.cpp").write_text(_PROGRAM.format(name=name))
    set_launcher(folder, f"sleep {seconds_each}" if seconds_each else "")
    return folder


def set_launcher(folder: Path, lines: str) -> None:
    """Have ``lines`` of shell run before each compilation."""
    path = folder / "launch.sh"
    path.write_text(f'#!/bin/sh\n{textwrap.dedent(lines)}\nexec "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def start(code: str, cache: Path, **env: str) -> subprocess.Popen[str]:
    """Run Python ``code`` in a process of its own, with ``cache`` as the cache folder."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"KIMI_NB_CACHE": str(cache)} | env,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_build(tree: Path, cache: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    """Run ``kimi-nb build --source TREE`` in a process of its own."""
    words = ["build", "--backend", "cpu", "--source", str(tree), *options]
    return start(f"import sys; from kimi_nb.cli import main; sys.exit(main({words!r}))", cache, **env)


def log_of(cache: Path) -> str:
    """Return what the logs of all builds say."""
    return "".join(path.read_text() for path in sorted(cache.glob("engine/logs/*.log")))


def at_work(folder: Path) -> list[str]:
    """Return the commands of all running processes that name ``folder`` or work in it, other than this one."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if process.pid != os.getpid() and (
                any(str(folder) in word for word in command) or process.cwd().startswith(str(folder))
            ):
                found.append(" ".join(command))
        except psutil.Error:
            continue
    return found


def search_paths(program: Path) -> list[str]:
    """Return where the loader looks for the libraries of ``program``, as it was linked (ELF only)."""
    listed = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    found = [line.partition("[")[2].rstrip("]") for line in listed.splitlines() if "PATH)" in line]
    return [entry for text in found for entry in text.split(":")]
