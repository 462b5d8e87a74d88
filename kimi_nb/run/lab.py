"""How JupyterLab is started on the notebooks."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.errors import RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["lab_command", "notebooks_folder"]

#: JupyterLab's announcements ask the user about news and look for updates over the network: not in our name.
_CONFIG = Path(__file__).with_name("lab_config")


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
        RunError: JupyterLab is not installed, or there is no folder it could write its state to.
    """
    folder = notebooks_folder(start)
    if find_spec("jupyterlab") is None:
        raise RunError(
            "KNB722", "JupyterLab cannot be started", why=f"it is not installed for {sys.executable}",
            fix="Run make setup in the clone.",
        )  # fmt: skip
    _prove_state_folder()
    command = [
        sys.executable,
        "-P",
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.allow_remote_access=False",
        "--LabApp.default_url=/lab/tree/01_setup.ipynb",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container there is often nobody else
    configs = os.pathsep.join(filter(None, [os.environ.get("JUPYTER_CONFIG_PATH"), str(_CONFIG)]))
    # The kernels of this environment, and not one of the same name that was installed for the user.
    ours = {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_CONFIG_PATH": configs}
    return [*command, *arguments], {**os.environ, **ours}


def _prove_state_folder() -> None:
    from jupyter_core.paths import jupyter_runtime_dir

    folder = Path(jupyter_runtime_dir())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise RunError(
            "KNB722", "JupyterLab cannot be started",
            why=f"its folder {folder} cannot be written: {error.strerror or error}",
            fix="Set HOME to a folder you may write to.",
        ) from None  # fmt: skip
