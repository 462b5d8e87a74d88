"""What tests look at outside themselves: processes, ports, and things that take their time."""

import socket
import time

import psutil


def wait_until(condition, otherwise="it did not happen", *, within_s=60.0):
    """Wait until ``condition()`` is true, and return what it says.

    The limit is only there so that a test ends: on a busy machine everything takes longer.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{otherwise} within {within_s:g} s"
        time.sleep(0.02)
    return value


def alive(pid):
    """Whether a process still does something: a zombie that nobody has collected yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(*pids):
    """Wait until none of them is alive."""
    return wait_until(lambda: not any(map(alive, pids)), "they did not end")


def words_of(process):
    """Return the command line of a process; empty if it has ended and nobody has asked for its exit code yet."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def free(port):
    """Whether a server could bind the port now, with the option that every server sets."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
