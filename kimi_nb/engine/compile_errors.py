"""What a failed configuration or compilation means, read from its log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kimi_nb.engine.storage import disk_full
from kimi_nb.engine.toolchain import package_advice
from kimi_nb.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["explain_compile", "explain_configure", "out_of_memory"]

_DISK_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|File size limit exceeded", re.IGNORECASE
)
_MEMORY = re.compile(
    r"Killed signal terminated program|virtual memory exhausted|out of memory allocating|std::bad_alloc"
    r"|LLVM ERROR: out of memory|failed to map segment"
    r"|Cannot allocate memory|^Killed$|unable to execute command: Killed",
    re.MULTILINE,
)
_HOST_COMPILER = re.compile(r"unsupported (GNU|clang|Microsoft)[^\n]*version![^\n]*", re.IGNORECASE)
_UNKNOWN_GPU = re.compile(r"Unsupported gpu architecture '?([\w]+)'?", re.IGNORECASE)
_BROKEN_COMPILER = re.compile(
    r"is not able to compile a\s+simple test program|No CMAKE_C(XX)?_COMPILER could be found"
)
_ERROR_LINE = re.compile(
    r"error\b|undefined reference|cannot find -l|Error \d|multiple definition", re.IGNORECASE
)
_STATUS = re.compile(r"\[\d+/\d+\] ")
_OLD_GNU = 9


def out_of_memory(log: str) -> bool:
    """Tell whether a compiler in this log was ended for want of memory."""
    return _MEMORY.search(log) is not None


def explain_configure(log: str, path: Path, folder: Path) -> BuildError:
    """Return the error for a failed CMake configuration.

    Args:
        log: What CMake said.
        path: The file that has it.
        folder: Where the build is made.
    """
    if known := _known(log, path, folder):
        return known
    if _BROKEN_COMPILER.search(log):
        return BuildError(
            "KNB206",
            "the C or C++ compiler here cannot compile even a small program",
            why=_first_errors(log) or "CMake's trial of it failed",
            fix=f"Repair or install it: {package_advice()}. The whole log: {path}",
        )
    blocks = re.findall(r"^CMake Error[^\n]*:\n((?:  [^\n]*\n|\n)*)", log, re.MULTILINE)
    why = " ".join(blocks[0].split()) if blocks else _last_line(log)
    cublas = "Install the toolkit's libraries too (cuBLAS is missing), or build with --backend cpu. "
    return BuildError(
        "KNB210",
        "CMake could not prepare the build",
        why=_short(why),
        fix=f"{cublas if 'cublas' in why.lower() else ''}The whole log: {path}",
    )


def explain_compile(log: str, path: Path, folder: Path, *, compiler: str, jobs: int) -> BuildError:
    """Return the error for a failed Ninja run.

    Args:
        log: What Ninja said, this time.
        path: The file that has it.
        folder: Where the build is made.
        compiler: The compiler's own version line.
        jobs: How many ran at once.
    """
    if known := _known(log, path, folder):
        return known
    if out_of_memory(log):
        fewer = (
            f"Run it again with --jobs {max(1, jobs // 2)}" if jobs > 1 else "Free some memory or add swap"
        )
        return BuildError(
            "KNB211",
            "a compiler ran out of memory",
            why=f"{jobs} compiler(s) at once need more than is free",
            fix=f"{fewer}; what is compiled is kept. The whole log: {path}",
        )
    version = re.search(r"\) (\d+)\.\d", compiler)
    old = version is not None and "clang" not in compiler and int(version[1]) < _OLD_GNU
    fix = (
        f"This compiler is old ({compiler}): install g++ 11 or newer and set CXX and CC to it. "
        if old
        else ""
    )
    return BuildError(
        "KNB209",
        "llama.cpp did not compile",
        why=_first_errors(log) or _last_line(log),
        fix=f"{fix}The whole log: {path}",
    )


def _known(log: str, path: Path, folder: Path) -> BuildError | None:
    if _DISK_FULL.search(log):
        return disk_full(folder)
    if match := _HOST_COMPILER.search(log):
        return BuildError(
            "KNB213",
            "this CUDA toolkit does not work with this C++ compiler",
            why=match[0],
            fix="Install an older g++ beside it and set CUDAHOSTCXX, CXX and CC to it, or install a newer "
            f"CUDA toolkit. The whole log: {path}",
        )
    if match := _UNKNOWN_GPU.search(log):
        return BuildError(
            "KNB214",
            "this CUDA toolkit cannot compile for that GPU",
            why=match[0],
            fix="Install a toolkit that knows it (12.x for old GPUs, the newest for new ones), "
            f"or give another --cuda-arch. The whole log: {path}",
        )
    return None


def _first_errors(log: str) -> str:
    """Return the first lines of the first failure that name an error (or just its first lines), joined.

    Ninja prints what one command said in one piece, after ``FAILED:`` and the command itself; what other
    jobs say later is not the cause.
    """
    lines = [line.strip() for line in log.splitlines()]
    start = next((number for number, line in enumerate(lines) if line.startswith("FAILED: ")), None)
    block = lines
    if start is not None:
        after = lines[start + 2 :]
        end = next((number for number, line in enumerate(after) if _STATUS.match(line)), len(after))
        block = after[:end]
    errors = [line for line in block if _ERROR_LINE.search(line)]
    return _short(" | ".join((errors or [line for line in block if line and start is not None])[:3]))


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return _short(lines[-1]) if lines else "it said nothing"


def _short(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
