"""What processes are called, whatever state they are in."""

import psutil


def words_of(process):
    """The command line of a process; empty if it has ended and nobody has asked for its exit code yet.

    Such a one, left behind by a test of another file in the same process, failed two tests of interrupted runs.
    """
    try:
        return process.cmdline()
    except psutil.Error:
        return []
