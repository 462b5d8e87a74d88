"""The standard streams, made safe: closed ones are filled, and an output that nobody takes is given up."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["drop_output", "fill_closed_streams", "output_is_lost"]


def fill_closed_streams() -> None:
    """Put the null device where a standard stream is closed, so that no file of ours takes its number.

    Else a file that happens to be opened under number 1 or 2 would receive what a program of ours prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it is closed; the null device takes its number, as the lowest one that is free
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - it knows no keywords
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def output_is_lost() -> bool:
    """Return whether standard output no longer takes what is written, as on a full disk."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def drop_output() -> None:
    """Send what is left of standard output nowhere: Python would try once more at its end, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
