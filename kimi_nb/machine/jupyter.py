"""Which Python a notebook would run, and whether its widgets can show."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kimi_nb.machine.machine import JupyterFacts, Note
from kimi_nb.machine.read import text

__all__ = ["KERNEL", "read_jupyter"]

KERNEL = "python3"
"""The kernel our notebooks ask for."""

_FRONTEND = {"7": "1", "8": "3"}
"""The major version of jupyterlab_widgets that shows each major version of ipywidgets."""


def read_jupyter() -> tuple[JupyterFacts, list[Note]]:
    """Look at this environment's notebook packages and at the kernel that a notebook would start."""
    kernel_python = _kernel_python()
    facts = JupyterFacts(
        python=sys.executable,
        in_kernel="ipykernel.kernelapp" in sys.modules,
        kernel=KERNEL,
        kernel_python=kernel_python,
        same_environment=None if kernel_python is None else _folder(kernel_python) == _folder(sys.executable),
        jupyterlab=_version("jupyterlab"),
        ipykernel=_version("ipykernel"),
        ipywidgets=_version("ipywidgets"),
        jupyterlab_widgets=_version("jupyterlab_widgets"),
    )
    return facts, _notes(facts)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _folder(program: str) -> str:
    """Return the real folder of a program: bin/python of an environment is a link to a Python elsewhere."""
    return os.path.realpath(Path(program).parent)


def _kernel_python() -> str | None:
    """Find the kernel as jupyter_client does, but without IPython, which writes to the home folder."""
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:
        return None
    for folder in jupyter_path("kernels"):
        found = text(Path(folder) / KERNEL / "kernel.json")
        if found is not None:
            return _program(found)
    # Where no kernel of this name is installed, Jupyter offers ipykernel's own, which runs Jupyter's Python.
    return sys.executable if _version("ipykernel") else None


def _program(kernel: str) -> str | None:
    try:
        name = json.loads(kernel)["argv"][0]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    # jupyter_client starts its own Python where a kernel names only "python".
    return sys.executable if re.fullmatch(r"python[\d.]*", str(name)) else str(name)


def _notes(facts: JupyterFacts) -> list[Note]:
    notes = []
    if facts.kernel_python is None:
        notes.append(
            Note(
                id="KNB117",
                severity="warning",
                what=f"notebooks find no kernel named {facts.kernel}",
                why="ipykernel is not installed here, or its kernel.json cannot be read",
                fix=f"{facts.python} -m ipykernel install --sys-prefix",
            )
        )
    elif not facts.same_environment:
        notes.append(
            Note(
                id="KNB117",
                severity="warning",
                what=f"notebooks would run {facts.kernel_python}, not {facts.python}",
                why=f"a kernel named {facts.kernel} of another environment comes first, and what is "
                "installed here is missing there",
                fix=f"{facts.python} -m ipykernel install --sys-prefix, or remove the other "
                f"(jupyter kernelspec remove {facts.kernel}).",
            )
        )
    wanted = _FRONTEND.get((facts.ipywidgets or "").split(".", maxsplit=1)[0])
    if facts.ipywidgets and wanted and (facts.jupyterlab_widgets or "").split(".", maxsplit=1)[0] != wanted:
        notes.append(
            Note(
                id="KNB118",
                severity="warning",
                what="widgets will not show in notebooks",
                why=f"ipywidgets {facts.ipywidgets} needs jupyterlab_widgets {wanted}, "
                f"and here is {facts.jupyterlab_widgets or 'none'}",
                fix=f'{facts.python} -m pip install "jupyterlab_widgets=={wanted}.*"',
            )
        )
    return notes
