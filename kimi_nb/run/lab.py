"""How JupyterLab is started on the notebooks."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["lab_command"]

#: JupyterLab's announcements ask the user about news and look for updates over the network: not in our name.
_CONFIG = Path(__file__).with_name("lab_config")


def lab_command(folder: Path, arguments: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Return JupyterLab's command line and environment.

    It listens on 127.0.0.1 and asks for a token, which JupyterLab makes anew and prints with its address:
    what runs in JupyterLab can do all that its owner can. ``arguments`` come last and may say otherwise.

    Args:
        folder: The notebooks.
        arguments: Passed on to JupyterLab.

    Raises:
        RunError: JupyterLab is not installed, or there is no folder it could write its state to.
    """
    if find_spec("jupyterlab") is None:
        raise RunError(
            "KNB722", "JupyterLab cannot be started", why=f"it is not installed for {sys.executable}",
            fix="Run make setup in a clone, or install kimi-nb again with pip.",
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
