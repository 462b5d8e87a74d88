"""The rehearsal: measure on this machine what the parts of a model cost, without having the model."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from kimi_nb.errors import RehearsalError, UsageError
from kimi_nb.plan.profile import Measurement, Profile
from kimi_nb.plan.profile_fit import fit_costs, settled_ms, way_of
from kimi_nb.plan.profile_model import profile_model
from kimi_nb.rehearse.bench import run_bench
from kimi_nb.rehearse.disk_speed import disk_read_mib_s
from kimi_nb.rehearse.private_folder import private_folder
from kimi_nb.rehearse.program import choose_slices, stages
from kimi_nb.rehearse.quiet import Others
from kimi_nb.rehearse.saved import machine_key
from kimi_nb.rehearse.slices import moe_bytes, write_slice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kimi_nb.engine import Build
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.profile import ProfileModel
    from kimi_nb.rehearse.bench import BenchRow, BenchTests
    from kimi_nb.rehearse.program import Slices, Stage
    from kimi_nb.rehearse.slices import Slice

    Progress = Callable[[str, float], None]
    """Called with a line of text and the fraction of the time that has passed."""

__all__ = ["rehearse"]

_LEAST_BUDGET_S = 5.0
_BUSY = 0.1
_SPREAD = 0.3
_TRIES = 2
_COLD = 2
_SETTLING_MS = 1000.0
_MOST_WRITTEN = 64


@dataclass
class _Run:
    """One rehearsal under way."""

    model: Model
    build: Build
    slices: Slices
    folder: Path
    start: float
    budget_s: float
    progress: Progress
    cancelled: Callable[[], bool] | None
    results: dict[Stage, list[Measurement]] = field(default_factory=dict)
    disturbed: dict[Stage, int] = field(default_factory=dict)
    written: dict[Slice, Path] = field(default_factory=dict)

    @property
    def measured(self) -> list[Measurement]:
        """All that was measured."""
        return [measured for rows in self.results.values() for measured in rows]

    def fraction(self) -> float:
        """Return how much of the time has passed."""
        return min((time.monotonic() - self.start) / self.budget_s, 1.0)

    def path(self, part: Slice) -> Path:
        """Return a slice's file, written at the first call."""
        if part not in self.written:
            number = len(self.written)
            self.progress(f"writing slice {number + 1}", self.fraction())
            try:
                self.written[part] = write_slice(
                    self.model,
                    part,
                    self.folder / f"slice-{number}.gguf",
                    holes=self.slices.holes,
                    progress=lambda _: self.stop_if_cancelled(),
                )
            except OSError as error:
                raise RehearsalError(
                    "KNB846",
                    "a slice of the model could not be written",
                    why=f"{error.strerror or error} in {self.folder.parent}",
                    fix="Free some space there, or set KIMI_NB_CACHE to a folder on another disk.",
                ) from error
        return self.written[part]

    def stop_if_cancelled(self) -> None:
        """Leave, where the caller wants it."""
        if self.cancelled is not None and self.cancelled():
            raise KeyboardInterrupt

    def do(self, stage: Stage) -> None:
        """Run one stage, as far as the time goes."""
        self.stop_if_cancelled()
        deadline = self.start + self.budget_s * stage.patience
        if time.monotonic() > deadline:
            return
        path = self.path(stage.part)
        self.progress(stage.about, self.fraction())
        others = Others()
        tests = self._long_enough(stage) if stage.settles else stage.tests
        rows = run_bench(self.build, path, stage.settings, tests, deadline=deadline, cancelled=self.cancelled)
        with closing(rows):  # ends llama-bench at once, whatever happens here
            found = [self._measurement(stage, row) for row in rows]
        self._keep(stage, found, others.processors())
        self.stop_if_cancelled()

    def _long_enough(self, stage: Stage) -> BenchTests:
        """Return a stage's tests with samples of a second each, by what the same took before."""
        like = (stage.part, stage.settings, stage.tests.threads)
        before = [
            median(one.samples_ms) / one.written_tokens
            for other, rows in self.results.items()
            if (other.part, other.settings, other.tests.threads) == like
            for one in rows
            if one.written_tokens
        ]
        least = stage.tests.writes[0]
        written = round(_SETTLING_MS / before[0]) if before else least
        return replace(stage.tests, writes=(max(min(written, _MOST_WRITTEN), least),))

    def _measurement(self, stage: Stage, row: BenchRow) -> Measurement:
        return Measurement(
            n_dense=stage.part.n_dense,
            n_moe=stage.part.n_moe,
            n_expert=stage.part.n_expert,
            n_vocab=stage.part.n_vocab,
            moe_bytes=moe_bytes(self.model, stage.part),
            settings={**stage.settings.to_dict(), "threads": row.threads},
            prompt_tokens=row.prompt_tokens,
            written_tokens=row.written_tokens,
            depth=row.depth,
            samples_ms=row.samples_ms,
        )

    def _keep(self, stage: Stage, found: list[Measurement], others: float) -> None:
        """Keep what was measured, or what was before if that was faster: other programs only slow down."""
        before = self.results.get(stage, [])
        if len(found) < len(before) or (before and _total_ms(found) >= _total_ms(before)):
            found = before
        if found:
            self.results[stage] = found
        threads = stage.tests.threads[0]
        left = max((os.cpu_count() or 1) - threads, 0)
        spread = max(map(_spread, found), default=0.0)
        if found and (others > left + _BUSY * threads or spread > _SPREAD):
            self.disturbed[stage] = self.disturbed.get(stage, 0) + 1
        else:
            self.disturbed.pop(stage, None)

    def again(self) -> None:
        """Measure once more where other programs disturbed, as long as there is time."""
        for _ in range(_TRIES):
            for stage in [stage for stage, times in self.disturbed.items() if times <= _TRIES]:
                if self.fraction() < 1.0:
                    self.do(stage)


def rehearse(
    model: Model,
    machine: Machine,
    *,
    budget_s: float = 60.0,
    build: Build | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    max_slice_mib: float | None = None,
) -> Profile:
    """Measure on this machine what the parts of a model cost.

    Slices of the model (its true width and types, a few layers, random weights) are run with the real
    llama-bench, the most telling settings first, until the time is over.

    Args:
        model: The model, from its header.
        machine: This machine, as probed.
        budget_s: Seconds it may take, more or less: for what no profile can do without, up to twice as long.
        build: llama.cpp; the finished build if not given.
        progress: Called with what is being done and the fraction of time that has passed.
        cancelled: Asked now and then; once it says yes, everything ends with ``KeyboardInterrupt``.
        max_slice_mib: The largest slice; by the machine's free memory if not given.

    Returns:
        The profile; nothing is saved.

    Raises:
        UsageError: The time is too short to measure anything (KNB847), or the model cannot be cut (KNB843).
        RehearsalError: A slice cannot be written (KNB846), llama-bench fails (KNB844), or there is no
            finished build (KNB849).
        BuildError: There is no place for the slices (KNB840).
        ModelFileError: KNB371, the model is not covered.
    """
    if not budget_s >= _LEAST_BUDGET_S:
        raise UsageError(
            "KNB847",
            f"a rehearsal cannot be made in {budget_s:g} seconds",
            why=f"starting llama.cpp and measuring anything takes {_LEAST_BUDGET_S:g}",
            fix="Give --budget 60, or at least 20.",
        )
    facts = profile_model(model)
    build = build or _build()
    start = time.monotonic()
    with private_folder("slice") as folder:
        free_mib = shutil.disk_usage(folder).free / 2**20
        slices = choose_slices(model, machine, disk_mib=free_mib, max_mib=max_slice_mib)
        run = _Run(
            model, build, slices, folder, start, budget_s, progress or (lambda _text, _done: None), cancelled
        )
        planned = stages(model, machine, slices)
        for stage in planned:
            run.do(stage)
        run.again()
        disk = disk_read_mib_s(folder, size_mib=min(256, int(free_mib / 4)))
    if not any(measured.n_moe and measured.written_tokens for measured in run.measured):
        raise UsageError(
            "KNB847",
            f"nothing was measured in {budget_s:g} seconds",
            why="this machine needs longer for the first slice alone",
            fix=f"Give --budget {max(60, round(4 * budget_s))}.",
        )
    return Profile(
        machine=machine.name,
        machine_key=machine_key(machine),
        build=build.version,
        backend=build.backend,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        model=facts,
        costs=fit_costs(run.measured, facts),
        measurements=tuple(run.measured),
        disk_read_mib_s=disk,
        limits=_limits(facts, slices, run, len(planned)),
    )


def _build() -> Build:
    from kimi_nb.engine import find_build

    if found := find_build():
        return found
    raise RehearsalError(
        "KNB849",
        "there is no llama.cpp to rehearse with",
        why="no finished build was found",
        fix="Make one with `kimi-nb build`.",
    )


def _spread(measured: Measurement) -> float:
    """Return how far samples lie apart, as a share of the shortest.

    A GPU prepares itself in the first one, which took up to 1.8 times as long as the others on an H200.
    """
    told = settled_ms(measured)
    if way_of(measured) != "cpu" and len(told) > _COLD:
        told = told[1:]
    return max(told) / min(told) - 1


def _total_ms(measured: list[Measurement]) -> float:
    return sum(median(settled_ms(one)) for one in measured)


def _limits(facts: ProfileModel, slices: Slices, run: _Run, planned: int) -> tuple[str, ...]:
    """Return what the measurement cannot show."""
    said = [
        "Reading weights again from disk, where they exceed main memory, was not part of it: see the disk's.",
        f"The output was measured with {slices.head.n_vocab} of {facts.n_vocab} tokens and scaled.",
        "Weights were random, so experts were used evenly; real text favours some, which helps a little.",
    ]
    if slices.moe.n_expert < facts.n_expert:
        said.append(
            f"Slices had {slices.moe.n_expert} of {facts.n_expert} experts in a layer; prompts were shorter "
            "by the same factor, so that an expert had as many tokens as in the model."
        )
    if any(m.settings.get("load_mode") == "none" for m in run.measured):
        said.append("Weights in main memory were loaded with --load-mode none; mapped files may be slower.")
    if slices.holes:
        said.append("For want of disk the experts were zeros; prefill may be off by 20 %.")
    if len(run.results) < planned:
        said.append(
            "The time was over before all was measured: what is missing is worked out, within wide bounds."
        )
    if run.disturbed:
        said.append(
            f"Other programs disturbed {len(run.disturbed)} of {len(run.results)} measurements: what is true "
            "may be faster. Close them and rehearse again."
        )
    return tuple(said)
