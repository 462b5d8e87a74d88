"""What a stage is, and how its rows are got: in parallel where that disturbs nothing, within a time limit."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ledger import Ledger

    from kimi_nb.engine import Build
    from kimi_nb.machine import Machine

__all__ = ["Figure", "OutOfTime", "Proof", "Stage", "run_stage"]

Row = dict[str, Any]


class OutOfTime(Exception):  # noqa: N818 - it is no error: the next call goes on
    """The stage's time is up; what was begun is given up."""


@dataclass(frozen=True)
class Proof:
    """What every stage works with.

    Attributes:
        build: The llama.cpp that is asked.
        machine: The machine, as probed; without its GPUs where the backend is the processor.
        folder: For files that a stage makes, such as a model to run.
        options: Numbers of rows and the like, from the command line.
        deadline: When the stage that runs must end, on :func:`time.monotonic`'s clock.
    """

    build: Build
    machine: Machine
    folder: Path
    options: dict[str, int]
    deadline: float = math.inf

    def left_s(self) -> float:
        """Return the seconds that are left.

        Raises:
            OutOfTime: None are.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, what was aimed at."""

    what: str
    measured: str
    target: str
    met: bool | None


@dataclass(frozen=True)
class Stage:
    """A part of the proof.

    Attributes:
        name: On the command line and in file names.
        title: In the report.
        tasks: Gives key and call of each row; a call returns the row.
        figures: Sums the rows up.
        columns: Which of a row's entries the report lists.
        workers: How many calls may run at once.
    """

    name: str
    title: str
    tasks: Callable[[Proof], Iterable[tuple[str, Callable[[], Row]]]]
    figures: Callable[[Sequence[Row]], list[Figure]]
    columns: tuple[str, ...]
    workers: int = 1
    setup: Callable[[Proof], None] = field(default=lambda _proof: None)


def run_stage(stage: Stage, proof: Proof, ledger: Ledger, limit_s: float) -> bool:
    """Get the rows that are missing; return whether all are there now.

    A row that ended in an error is tried again by the next call. What runs when the time is up is ended, and
    begun again by the next call; only a file that is being written is written to its end.
    """
    proof = replace(proof, deadline=time.monotonic() + limit_s)
    done = {key for key, row in ledger.rows(stage.name).items() if "error" not in row}
    stage.setup(proof)
    todo = [(key, call) for key, call in stage.tasks(proof) if key not in done]
    print(f"{stage.name}: {len(done)} rows there, {len(todo)} to get", flush=True)

    def get(key: str, call: Callable[[], Row]) -> None:
        if time.monotonic() > proof.deadline:
            return
        started = time.monotonic()
        try:
            row = call()
        except OutOfTime:
            return
        except Exception as error:  # noqa: BLE001 - nobody is there: one row must not cost the others
            row = {"error": f"{type(error).__name__}: {error}"}
        seconds = time.monotonic() - started
        ledger.add(stage.name, key, {**row, "seconds": round(seconds, 2)})
        told = row.get("error") or row.get("told", "")
        print(f"  {stage.name} {key}: {told} ({seconds:.1f} s)", flush=True)

    with ThreadPoolExecutor(stage.workers) as pool:
        tasks = [pool.submit(get, key, call) for key, call in todo]
        try:
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
    good = {key for key, row in ledger.rows(stage.name).items() if "error" not in row}
    missing = sum(key not in good for key, _ in todo)
    if missing:
        print(f"{stage.name}: {missing} rows are missing; the same command continues", flush=True)
    return not missing
