"""Run a command that dies with its owner, even when the owner is killed with -9.

Started as a script (``python -I -S guardian.py OWNER_PID REPORT_FD COMMAND ...``), so it must stay free of
imports from this package. It is the owner's direct child and the command's direct parent:

- owner gone: our parent process id changes; everything below us gets SIGTERM, and SIGKILL two seconds later;
- guardian killed with -9: on Linux the command carries a parent-death signal. It is tied to the thread that
  forked, so the owner cannot set it itself: a notebook may start a server from a thread that ends;
- command gone: what it left behind is killed, and we exit as it did, a death by signal N as 128 + N.

SIGTERM, SIGINT and SIGHUP are passed on to the command's process group, as a terminal would do it; SIGUSR1
kills everything below us at once. On Linux we are a "child subreaper": a process that the command orphaned
becomes our child, so none is lost, not even one with a session of its own. Elsewhere we reach the command's
process group.

A process that is meant to outlive its starter has :data:`DETACHED` in its environment with a value of its
own: a guardian spares every process whose value is not also the guardian's.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

DETACHED = "KIMI_NB_DETACHED"
GRACE_S = 2.0
LOOK_EVERY_S = 0.2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _die_with_parent(parent: int) -> None:
    """Prepare the command, between fork and exec; the guardian has one thread, so this is safe."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent went between fork and prctl
        os._exit(1)
    # When memory runs out, the kernel should take the program we started, not the notebook that started it.
    with suppress(OSError):
        scores = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(scores, b"500")
        os.close(scores)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - importing pathlib would cost a third of our start
        return file.read()


def _parents() -> dict[int, int]:
    """Return the parent of every process, by process id."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc") if LINUX else []:  # noqa: PTH208 - as above
        # "PID (NAME) STATE PPID ...": the name may itself hold spaces and parentheses.
        with suppress(OSError, ValueError, IndexError):
            found[int(name)] = int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[1])
    return found


def _spared(pid: int) -> bool:
    mark = DETACHED.encode() + b"="
    try:
        entries = _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False
    value = next((entry.removeprefix(mark) for entry in entries if entry.startswith(mark)), b"")
    return value not in {b"", os.environb.get(DETACHED.encode(), b"")}


def _below(root: int) -> list[int]:
    """Return the descendants of ``root``, without those that are meant to outlive us."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    look = [root]
    while look:
        fresh = [pid for pid in children.get(look.pop(), []) if not _spared(pid)]
        found += fresh
        look += fresh
    return found


class Guardian:
    """One command and everything that it starts."""

    def __init__(self, command: list[str]) -> None:
        guardian = os.getpid()
        self._process = subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=lambda: _die_with_parent(guardian),  # noqa: PLW1509 - one thread, see there
        )
        self.pid = self._process.pid

    def reap(self) -> int | None:
        """Collect every child that has ended; return the command's exit code once it has one."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode

    def signal_group(self, number: int) -> None:
        """Signal the command and those of its children that stayed in its process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def signal_all(self, number: int) -> int:
        """Signal everything below us; return how many there were beside the command."""
        self.signal_group(number)
        others = [pid for pid in _below(os.getpid()) if pid != self.pid]
        for pid in others:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return len(others)

    def end(self, *, grace_s: float = 0.0) -> int:
        """End everything below us and return the command's exit code."""
        if grace_s:
            self.signal_all(signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while self.reap() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        deadline = time.monotonic() + GRACE_S
        # One that was about to fork may have left another: look again until there is none. The time limit is
        # for a process that is stuck in the kernel, where no signal reaches it.
        while (self.signal_all(signal.SIGKILL) or self.reap() is None) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.01)
        code = self.reap()
        return -signal.SIGKILL if code is None else code


class _Events:
    """What can happen to us: a signal, a child's end, our owner's end."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._signals: list[int] = []
        self._wake, waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the owner's thread may have blocked some
        self._look = [self._wake]
        self._every_s = LOOK_EVERY_S
        with suppress(
            AttributeError, OSError
        ):  # a descriptor that becomes readable when the owner ends: no polling
            self._look.append(os.pidfd_open(owner))
            self._every_s = 5.0  # only against surprises

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def owner_gone(self) -> bool:
        return os.getppid() != self._owner

    def signals(self) -> list[int]:
        taken = self._signals[:]
        del self._signals[: len(taken)]
        return taken

    def wait(self) -> None:
        if not self._signals:
            select.select(self._look, [], [], self._every_s)
        with suppress(BlockingIOError):
            os.read(self._wake, 4096)


def main(owner: int, report: int, command: list[str]) -> int:
    """Run ``command`` until it ends or the process ``owner`` is gone; return its exit code as a shell would.

    The descriptor ``report`` gets one line: ``started PID`` or ``failed ERRNO``.
    """
    events = _Events(owner)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if events.owner_gone():
        return 1
    try:
        guarded = Guardian(command)
    except OSError as error:
        os.write(report, b"failed %d\n" % (error.errno or 0))
        return 127
    with suppress(BrokenPipeError):  # then the owner has just gone, which the loop sees
        os.write(report, b"started %d\n" % guarded.pid)
    os.close(report)
    while guarded.reap() is None:
        if events.owner_gone():
            guarded.end(grace_s=GRACE_S)
            return 1
        for number in events.signals():
            if number in PASSED_ON:
                guarded.signal_group(number)
            elif number == signal.SIGUSR1:
                guarded.end()
        if guarded.reap() is None:
            events.wait()
    code = guarded.end()  # nothing that the command left may outlive it
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
