"""What a run was: the record that ``run.json`` holds."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Failure", "NotebookRun", "NotebookStatus", "Run", "RunStatus"]

RunStatus = Literal["succeeded", "failed", "interrupted"]
NotebookStatus = Literal["succeeded", "failed", "interrupted", "not_run"]


@dataclass(frozen=True)
class Failure:
    """Why a notebook did not succeed.

    Attributes:
        id: ``KNB7xx``, or the id of the error of ours that the failing cell raised.
        kind: The exception's class name, such as ``ZeroDivisionError``, ``CellTimeoutError`` or
            ``DeadKernelError``.
        message: What the exception said, without colours and without secrets.
        cell: The failing cell's index in the notebook as given, from 0; None when no cell was running.
        line: The first line of that cell's source.
        fix: What to do about it.
    """

    id: str
    kind: str
    message: str
    cell: int | None
    line: str | None
    fix: str

    def __str__(self) -> str:
        where = "" if self.line is None else f" in the cell that begins `{self.line}`"
        return " ".join(f"{self.id}: {self.kind}{where}: {self.message}. {self.fix}".split())

    def to_html(self) -> str:
        """Return what :func:`str` gives, with the cell's line as code."""
        return re.sub(r"`(.*)`", r"<code>\1</code>", html.escape(str(self), quote=False), count=1)

    def to_json(self) -> dict[str, Any]:
        """Return the failure as ``run.json`` holds it."""
        cell = None if self.cell is None else {"index": self.cell, "line": self.line}
        return {"id": self.id, "class": self.kind, "message": self.message, "cell": cell, "fix": self.fix}


@dataclass(frozen=True)
class NotebookRun:
    """What became of one notebook.

    Attributes:
        name: The notebook's file name without its suffix; unique within the run.
        status: What happened; ``not_run`` when the run was interrupted before this notebook began.
        seconds: From the start of its process to the end of it.
        error: Why it did not succeed.
        parameters: What it was given, secrets masked.
        cells: How many cells of code it has.
        cells_run: How many of them ran to their end.
        kernel_peak_mib: The kernel's largest resident size, in MiB.
        peak_mib: The largest resident size of the kernel and everything it had started together, in MiB,
            looked at four times a second; memory that they share is counted for each of them.
        oom_kills: How many processes the system killed in this container for want of memory during the run;
            None where the system does not tell.
        attempts: 2 when the kernel lost the race for its ports at the first start.
        masked: How many times a secret was found and replaced in what the notebook left.
        executed: The executed notebook's file name in the run's folder, as far as the notebook ran.
        log: The log's path within the run's folder.
        source: The notebook as given; it is not part of the record.
    """

    name: str
    status: NotebookStatus
    seconds: float = 0.0
    error: Failure | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cells: int = 0
    cells_run: int = 0
    kernel_peak_mib: float | None = None
    peak_mib: float | None = None
    oom_kills: int | None = None
    attempts: int = 1
    masked: int = 0
    executed: str | None = None
    log: str | None = None
    source: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the notebook's part of ``run.json``."""
        return {
            "name": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "error": None if self.error is None else self.error.to_json(),
            "parameters": dict(self.parameters),
            "cells": self.cells,
            "cells_run": self.cells_run,
            "kernel_peak_mib": self.kernel_peak_mib,
            "peak_mib": self.peak_mib,
            "oom_kills": self.oom_kills,
            "attempts": self.attempts,
            "masked": self.masked,
            "executed": self.executed,
            "log": self.log,
        }


@dataclass(frozen=True)
class Run:
    """One headless execution of notebooks.

    Attributes:
        status: ``succeeded`` only if every notebook ran to its end without an error.
        notebooks: One entry a notebook, in the order they were given.
        out: The run's folder.
        started: When it began, in UTC, as ISO 8601.
        seconds: How long it took.
        versions: Python, this package, the packages that matter to a run, and llama.cpp where there is a
            build.
        interrupted_by: The signal that stopped the run, such as ``SIGINT`` for Ctrl-C.
    """

    status: RunStatus
    notebooks: tuple[NotebookRun, ...]
    out: Path
    started: str
    seconds: float
    versions: Mapping[str, str]
    interrupted_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the run as ``run.json`` holds it: it names no place outside the run's folder."""
        return {
            "status": self.status,
            "interrupted_by": self.interrupted_by,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "notebooks": [notebook.to_json() for notebook in self.notebooks],
            "versions": dict(self.versions),
        }
