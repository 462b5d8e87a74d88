"""Run a command that dies with its owner, even when the owner is killed with -9.

Started as a script (``python -I -S guardian.py OWNER_PID COMMAND ...``), so it must stay free of imports from this
package. It is the owner's direct child and the command's direct parent:

- owner gone: our parent process id changes, which we look at five times a second; the command's whole process group
  gets SIGTERM, and SIGKILL two seconds later;
- guardian killed with -9: on Linux the command carries a parent-death signal. It is tied to the thread that forked,
  which is why the owner does not set it itself: a notebook may start a server from a worker thread that ends;
- command gone: we exit as it did.

SIGTERM and SIGINT sent to the guardian are passed on to the command.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

LOOK_EVERY_S = 0.2
GRACE_S = 2.0
PR_SET_PDEATHSIG = 1


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent went between fork and prctl
            os._exit(1)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _end(child: "subprocess.Popen[bytes]") -> None:
    _signal_group(child.pid, signal.SIGTERM)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def main(owner: int, command: list[str]) -> int:
    """Run ``command`` until it ends or the process ``owner`` is gone; return its exit code as a shell would."""
    pending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: pending.append(received))
    guardian = os.getpid()
    if os.getppid() != owner:
        return 1
    try:
        # The guardian has one thread, so a function between fork and exec is safe here.
        child = subprocess.Popen(  # noqa: S603
            command,
            start_new_session=True,
            preexec_fn=lambda: _die_with_parent(guardian),  # noqa: PLW1509
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127
    while True:
        try:
            code = child.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            _signal_group(child.pid, signal.SIGKILL)  # nothing the command forked may outlive it
            return code if code >= 0 else 128 - code
        while pending:
            child.send_signal(pending.pop(0))
        if os.getppid() != owner:
            _end(child)
            return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
