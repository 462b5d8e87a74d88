"""What would make a model run, or run from memory, where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_nb.plan.limits import Limits
from kimi_nb.plan.reasons import gb, gib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kimi_nb.machine import Machine
    from kimi_nb.model.candidates import Candidate
    from kimi_nb.plan.planner import Planning

__all__ = ["what_would_fit"]

_SHORTER = (65536, 32768, 16384, 8192, 4096)
_STEP_GIB = 8
_MOST_GIB = 4096
_PROFILES = 2


def what_would_fit(
    planning: Planning, candidates: Sequence[Candidate], others: Sequence[Candidate] = ()
) -> tuple[str, ...]:
    """Return what to change, the cheapest first: context, quant, disk, memory, another machine, the API."""
    small = min(candidates, key=lambda one: one.model.file_bytes)
    found = [
        *_shorter(planning, small),
        *_smaller(planning, small, others),
        *_disk(planning, small),
        *_memory(planning, small),
        *_elsewhere(planning, small),
    ]
    if small.key is not None and small.key != "nano":
        found.append(
            "Moonshot's API runs the released weights on its own machines; the notebooks speak to it as well."
        )
        found.append("nano runs the whole path on this machine today: `kimi-nb plan --model nano`.")
    return tuple(found)


def _runs(planning: Planning, candidate: Candidate, machine: Machine, ctx_size: int | None) -> bool:
    """Whether a candidate runs from memory, with the margins that are wanted and no less than the usual."""
    limits = planning.limits
    if machine is not planning.machine:
        usual = Limits.usual(machine).host_keep_free_mib
        limits = replace(limits, host_keep_free_mib=max(limits.host_keep_free_mib, usual))
    other = type(planning)(machine, planning.objective, ctx_size, limits, None, planning.parallel)
    choice = other.quickly(candidate)
    return choice is not None and not choice.option.paged


def _shorter(planning: Planning, candidate: Candidate) -> Iterator[str]:
    asked = planning.ctx_size or 0
    for ctx_size in (n for n in _SHORTER if n < asked):
        if _runs(planning, candidate, planning.machine, ctx_size):
            yield f"Less context: {candidate.label} runs with {ctx_size:,} tokens."
            return


def _smaller(planning: Planning, candidate: Candidate, others: Sequence[Candidate]) -> Iterator[str]:
    smaller = [one for one in others if one.model.file_bytes < candidate.model.file_bytes]
    for other in sorted(smaller, key=lambda one: -one.model.file_bytes):
        if planning.disk_lacks(other) <= 0 and _runs(planning, other, planning.machine, planning.ctx_size):
            yield f"A smaller quant: {other.label} ({gb(other.model.file_bytes)}) runs from memory."
            return


def _disk(planning: Planning, candidate: Candidate) -> Iterator[str]:
    lacks = planning.disk_lacks(candidate)
    if lacks > 0:
        yield f"{gib(lacks)} more on the disk that models are downloaded to, for {candidate.label}."


def _memory(planning: Planning, candidate: Candidate) -> Iterator[str]:
    machine = planning.machine
    low, high = 0, _MOST_GIB // _STEP_GIB

    def runs(steps: int) -> bool:
        return _runs(planning, candidate, _with_more(machine, steps * _STEP_GIB), planning.ctx_size)

    if runs(low) or not runs(high):
        return
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (low, middle) if runs(middle) else (middle, high)
    more = f"{high * _STEP_GIB} GiB more"
    # Apple's memory cannot grow.
    what = f"A machine with {more} memory" if machine.unified else f"{more} main memory"
    yield f"{what}: then {candidate.label} runs from memory alone."


def _with_more(machine: Machine, gib_more: int) -> Machine:
    mib = gib_more * 1024
    memory = machine.memory
    more = replace(
        memory,
        total_mib=memory.total_mib + mib,
        available_mib=memory.available_mib + mib,
        physical_mib=memory.physical_mib + mib,
    )
    return replace(machine, memory=more)


def _elsewhere(planning: Planning, candidate: Candidate) -> Iterator[str]:
    from kimi_nb.machine import profiles

    fitting = [
        (machine.capacity_mib, name)
        for name, machine in profiles().items()
        if _runs(planning, candidate, machine, planning.ctx_size)
    ]
    names = [name for _, name in sorted(fitting)[:_PROFILES]]
    if names:
        what = f" --model {candidate.key}" if candidate.key else ""
        yield (
            f"A machine such as {' or '.join(names)}: `kimi-nb plan{what} --machine {names[0]}` says what it"
            f" would do with {candidate.label}."
        )
