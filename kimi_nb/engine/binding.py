"""llama.cpp inside this process, through llama-cpp-python, on the libraries that we built."""

from __future__ import annotations

import os
import re
import shlex
import sys
from ctypes import c_char_p
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.build import ensure_build
from kimi_nb.engine.sdist import COMMIT, VERSION
from kimi_nb.errors import BuildError

if TYPE_CHECKING:
    from types import ModuleType

    from kimi_nb.engine.build import Build

__all__ = ["load_llama_cpp", "why_no_binding"]


def why_no_binding() -> BuildError | None:
    """Return what to tell somebody who has no llama-cpp-python; None where it is installed.

    An installation from a wheel does without it: the package holds no binary, so pip would compile for
    minutes a llama.cpp that is never loaded here.
    """
    if find_spec("llama_cpp") is not None:
        return None
    return BuildError(
        "KNB222",
        "llama.cpp cannot be used inside this Python",
        why="llama-cpp-python is not installed",
        fix="Without a llama.cpp of its own it comes in a minute: CMAKE_ARGS=-DLLAMA_BUILD=OFF "
        f"{shlex.quote(sys.executable)} -m pip install llama-cpp-python=={VERSION}",
    )


def load_llama_cpp(build: Build | None = None) -> ModuleType:
    """Import ``llama_cpp`` on the libraries of ``build``, and check that it runs on these and no others.

    Args:
        build: The build; the one of :func:`~kimi_nb.engine.build.ensure_build` when not given.

    Raises:
        BuildError: ``llama_cpp`` already runs on another library (KNB217); its library does not load or
            is of a version that it was not made for (KNB218); or it is not installed (KNB222).
    """
    if (missing := why_no_binding()) is not None:
        raise missing
    build = build or ensure_build()
    _require_commit(build)
    if "llama_cpp" not in sys.modules:
        os.environ["LLAMA_CPP_LIB_PATH"] = str(build.bin)
        os.environ["MTMD_CPP_LIB"] = str(build.bin)
    try:
        module = import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # what ctypes and the binding raise
        raise _unusable(build, str(error)) from error
    library = module.llama_cpp._lib  # noqa: SLF001 - the binding does not publish the library it loaded
    loaded = Path(library._name).resolve()  # noqa: SLF001 - as above
    if loaded.parent != build.bin.resolve():
        raise BuildError(
            "KNB217",
            "llama_cpp was already imported in this process, on another library",
            why=f"it runs on {loaded}, and the build is in {build.bin}",
            fix="Restart the kernel (or Python) and import it through kimi_nb.engine.load_llama_cpp first.",
        )
    commit = _asks(library, "ggml_commit")
    if _known(commit) and _known(_commit_of(build)) and not _same(commit, _commit_of(build)):
        # Libraries are looked up by name: LD_LIBRARY_PATH, or one that was loaded before, can come between.
        raise _unusable(
            build, f"the ggml it found is of commit {commit}, and the build of {_commit_of(build)}"
        )
    return module


def _require_commit(build: Build) -> None:
    commit = _commit_of(build)
    if _known(commit) and not _same(commit, COMMIT):
        raise _unusable(
            build,
            f"the build is llama.cpp commit {commit}, llama-cpp-python is made for {COMMIT[:9]}, "
            "and their data structures may differ",
        )


def _commit_of(build: Build) -> str:
    match = re.search(r"\b([0-9a-f]{7,40})\)", build.version)
    return match[1] if match else "unknown"


def _known(commit: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{7,40}", commit) is not None


def _same(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _asks(library: object, name: str) -> str:
    function = getattr(library, name)
    function.restype = c_char_p
    return str((function() or b"").decode(errors="replace"))


def _unusable(build: Build, why: str) -> BuildError:
    return BuildError(
        "KNB218",
        f"llama_cpp cannot be used on the libraries in {build.bin}",
        why=why,
        fix="Use the pinned build (kimi-nb build, with KIMI_NB_LLAMA_CPP unset) and the locked "
        "llama-cpp-python (make setup), in a fresh Python.",
    )
