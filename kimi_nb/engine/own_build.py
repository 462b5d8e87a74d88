"""A person's own build of llama.cpp, named by ``KIMI_NB_LLAMA_CPP``, in place of ours."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from typing import TYPE_CHECKING

from kimi_nb.errors import BuildError
from kimi_nb.files import at_home

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VARIABLE", "backend_of", "own_folder", "version_of"]

VARIABLE = "KIMI_NB_LLAMA_CPP"


def own_folder() -> Path | None:
    """Return the folder of programs that ``KIMI_NB_LLAMA_CPP`` leads to; None where it is not set.

    It may name that folder, or one whose ``bin`` or ``build/bin`` it is.

    Raises:
        BuildError: There is no llama-server (KNB216).
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    top = at_home(named).absolute()
    for folder in (top, top / "bin", top / "build/bin"):
        if os.access(folder / "llama-server", os.X_OK):
            return folder
    raise BuildError(
        "KNB216",
        f"{VARIABLE} names {top}, which is no build of llama.cpp",
        why="there is no llama-server that can be run in it",
        fix=f"Correct {VARIABLE}, or unset it to use kimi-nb's own build.",
    )


def backend_of(folder: Path) -> str:
    """Tell the backend of a build from the libraries in it."""
    names = [path.name for path in folder.glob("libggml-*")]
    return next((kind for kind in ("cuda", "metal", "vulkan") if any(kind in name for name in names)), "cpu")


def version_of(folder: Path) -> str:
    """Return what ``llama-server --version`` says, such as ``0.5.0-dev (build 1, commit 0c1e570)``.

    Raises:
        BuildError: It does not run (KNB221).
    """
    program = folder / "llama-server"
    return _version(program, program.stat().st_mtime_ns)


@cache
def _version(program: Path, changed_ns: int) -> str:  # noqa: ARG001 - part of the cache's key: a new file is asked anew
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
            errors="replace",
        )
        said = done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    match = re.search(r"^version: (.+)$", said, re.MULTILINE)
    if match is None:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise BuildError(
            "KNB221",
            f"{program} does not run",
            why=last[0],
            fix="Run it with --version to see; a missing library or another processor is the usual cause.",
        )
    return match[1].strip()
