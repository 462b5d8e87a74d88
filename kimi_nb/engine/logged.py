"""Run one step of the build: its whole output goes to a log, each line also to a listener."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from kimi_nb.processes import spawn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["run_logged"]

_STOP_S = 5.0


def run_logged(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> int:
    """Run ``command`` and return its exit code; it ends when this process ends, or when it is interrupted.

    Args:
        command: Program and arguments.
        log: Standard output and error are appended here, together.
        env: The whole environment; this process's own when not given.
        on_line: Called with each line as it comes.
        on_start: Called once with the process id.

    Raises:
        OSError: The program could not be started, or the log not written.
    """
    with (
        log.open("ab", buffering=0) as file,  # whole even when this process is killed
        spawn(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        try:
            if on_start:
                on_start(process.command_pid)
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for; this tells the type checker
            for raw in process.stdout:
                file.write(raw)
                if on_line:
                    on_line(raw.decode(errors="replace").rstrip())
            return process.wait()
        finally:
            if process.poll() is None:
                # As Ctrl-C in a terminal would: Ninja then removes the outputs that were not finished.
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_S)
                if process.poll() is None:
                    process.kill()
