"""How JupyterLab is started on the notebooks."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.errors import RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["lab_command", "notebooks_folder"]


def notebooks_folder(start: Path | None = None) -> Path:
    """Return the folder with the notebooks: of the clone around ``start``, else around this package.

    Raises:
        UsageError: There is none.
    """
    here = (start or Path.cwd()).absolute()
    package = Path(__file__).parents[2]
    for folder in [here, *here.parents, package]:
        notebooks = folder / "notebooks"
        if (notebooks / "01_setup.ipynb").is_file():
            return notebooks
    raise UsageError(
        "KNB721",
        "the notebooks folder was not found",
        why=f"neither {here} nor a folder above it is a clone of this repository",
        fix="Go into the clone and call it again.",
    )


def lab_command(
    arguments: Sequence[str] = (), *, start: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return JupyterLab's command line and environment.

    It listens on 127.0.0.1 and asks for a token, which JupyterLab makes anew and prints with its address:
    what runs in JupyterLab can do all that its owner can. ``arguments`` come last and may say otherwise.

    Args:
        arguments: Passed on to JupyterLab.
        start: Where to look for the notebooks from; the current folder when not given.

    Raises:
        UsageError: The notebooks were not found.
        RunError: JupyterLab is not installed.
    """
    folder = notebooks_folder(start)
    if find_spec("jupyterlab") is None:
        raise RunError(
            "KNB722", "JupyterLab cannot be started", why=f"it is not installed for {sys.executable}",
            fix="Run make setup in the clone.",
        )  # fmt: skip
    command = [
        sys.executable,
        "-P",
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.allow_remote_access=False",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container there is often nobody else
    # The kernels of this environment, and not one of the same name that was installed for the user.
    return [*command, *arguments], {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"}
