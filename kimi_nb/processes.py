"""Start programs that never outlive this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OwnedProcess", "spawn"]

_GUARDIAN = str(Path(__file__).with_name("guardian.py"))

OwnedProcess = subprocess.Popen[bytes]


def spawn(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> OwnedProcess:
    """Start ``command`` under a guardian, so that it ends when this process ends, however that happens.

    Args:
        command: Program and arguments; no shell is involved.
        env: The whole environment of the program; this process's own when not given.
        cwd: Its working folder.
        stdout: As for :class:`subprocess.Popen`.
        stderr: As for :class:`subprocess.Popen`.

    Returns:
        The guardian. Signals sent to it reach the program, and its exit code is the program's, with a death by
        signal N told as 128 + N. The program leads a process group of its own.
    """
    argv = [sys.executable, "-I", "-S", _GUARDIAN, str(os.getpid()), *map(os.fspath, command)]
    return subprocess.Popen(
        argv,
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        # Ctrl-C in a terminal reaches this process only; it decides what becomes of its children.
        start_new_session=True,
    )
