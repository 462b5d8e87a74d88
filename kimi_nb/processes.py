"""Start programs that never outlive this process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OwnedProcess", "spawn"]

_GUARDIAN = str(Path(__file__).with_name("guardian.py"))


class OwnedProcess(subprocess.Popen[bytes]):
    """A program under its guardian, as :func:`spawn` returns it.

    It is the guardian that this object starts, signals and waits for: signals sent to it reach the program's
    process group, and its exit code is the program's, with a death by signal N told as 128 + N. A negative
    code means that the guardian itself was killed; the program went with it.
    """

    #: Process id of the program itself; it leads a session and a process group of its own.
    command_pid: int = 0

    def poll(self) -> int | None:
        """Return the exit code, or None while the program runs."""
        return self._ended(super().poll())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: The program still runs after ``timeout`` seconds.
        """
        code = super().wait(timeout)
        self._ended(code)
        return code

    def kill(self) -> None:
        """Kill the program and everything that it started, at once."""
        # SIGKILL would take the guardian only and, on macOS, leave the program: the guardian is asked for it.
        self.send_signal(signal.SIGUSR1)

    def _ended(self, code: int | None) -> int | None:
        if code is not None and code < 0 and self.command_pid:
            group, self.command_pid = self.command_pid, 0
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        return code


def spawn(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> OwnedProcess:
    """Start ``command`` under a guardian, so that it ends when this process ends, however that happens.

    It may be called from any thread, and the program does not depend on that thread's life. Ctrl-C in a
    terminal reaches this process only; it decides what becomes of its children.

    Args:
        command: Program and arguments; no shell is involved.
        env: The whole environment of the program; this process's own when not given.
        cwd: Its working folder.
        stdin: As for :class:`subprocess.Popen`; nothing by default.
        stdout: As for :class:`subprocess.Popen`.
        stderr: As for :class:`subprocess.Popen`.

    Returns:
        The running program; everything that it starts in turn ends with it.

    Raises:
        OSError: The program could not be started (``FileNotFoundError``, ``PermissionError`` and so on).
    """
    words = [os.fspath(word) for word in command]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as report:
        try:
            process = OwnedProcess(
                [sys.executable, "-I", "-S", _GUARDIAN, str(os.getpid()), str(writing), *words],
                env=None if env is None else dict(env),
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            outcome, _, number = report.readline().decode().strip().partition(" ")
        except BaseException:  # such as Ctrl-C: nobody holds the process yet
            process.kill()
            process.wait()
            raise
    if outcome == "started":
        process.command_pid = int(number)
        return process
    with process:  # closes its pipes and waits for it
        code = int(number or 0) or errno.ECHILD
    raise OSError(code, os.strerror(code), words[0])
