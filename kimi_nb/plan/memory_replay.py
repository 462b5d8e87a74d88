"""How much memory a trace needs, played with sizes.

The second of two steps, after ``ggml_dyn_tallocr`` in ``ggml/src/ggml-alloc.c``: memory is taken from the
gap that fits best, else from the end. The layers of a model repeat the same events, so of a long run of
alike layers a few are traced, and one of them is played again and again: until it leaves things as it
found them, or as often as there are layers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from kimi_nb.plan.memory_allocator import Copied

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from kimi_nb.plan.memory_allocator import Trace
    from kimi_nb.plan.memory_symbols import Dimensions, Polynomial

__all__ = ["TRACED", "Loop", "Peak", "Program", "compile_trace", "share_traces"]

TRACED = 5
"""How many layers of a long run are traced: the first, two alike, and two on the way to other layers."""

_ENDLESS = 1 << 62


@dataclass(frozen=True)
class Loop:
    """A layer that is played several times.

    Attributes:
        start: Its first event.
        end: The event after its last.
        before: The slots that the layer before took, in order.
        slots: The slots that it takes, in order; they stand for ``before`` the next time.
        run: Which run of layers it belongs to.
        copies: Of these slots those that hold copies of weights: the one before, the one now, and its role.
    """

    start: int
    end: int
    before: tuple[int, ...]
    slots: tuple[int, ...]
    run: int
    copies: tuple[tuple[int, int, str], ...]


class Peak(NamedTuple):
    """The end of the memory that is ever used.

    Attributes:
        n_bytes: Where it is.
        holds: For each loop, for how many layers at least and at most this is so: once a layer leaves things
            as it found them, any number of them does.
    """

    n_bytes: int
    holds: tuple[tuple[int, int], ...]

    def holds_for(self, counts: Sequence[int]) -> bool:
        """Whether the same comes of so many layers in each loop."""
        return all(least <= n <= most for n, (least, most) in zip(counts, self.holds, strict=True))


@dataclass(frozen=True, eq=False)
class Program:
    """The events of one backend, with the layers that repeat.

    Attributes:
        trace: The events.
        loops: The layers.
    """

    trace: Trace
    loops: tuple[Loop, ...]

    def peak(
        self,
        at: Dimensions,
        alignment: int,
        traced: Sequence[Mapping[str, int]],
        repeated: Sequence[Sequence[Mapping[str, int]]],
    ) -> Peak:
        """Play it all.

        Args:
            at: The dimensions.
            alignment: What sizes are rounded up to.
            traced: For each layer that was traced, what a copy of each of its weights takes here.
            repeated: For each loop likewise the layer before it, its own, and those that it stands for.
                Layers whose weights are of the same types share one object.
        """
        memory = _Memory(self.trace.bytes_at(at, alignment, traced))
        events = self.trace.events
        done = 0
        holds = []
        for loop, layers in zip(self.loops, repeated, strict=True):
            memory.play(events[done : loop.start])
            done = loop.end
            holds.append(memory.repeat(loop, events[loop.start : loop.end], layers))
        memory.play(events[done:])
        return Peak(memory.top, tuple(holds))


class _Memory:
    """The state of one allocator."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.where = [0] * len(sizes)
        # The gaps, in order of their place; the last has no end.
        self.starts = [0]
        self.lengths = [_ENDLESS]
        self.top = 0

    def repeat(self, loop: Loop, events: list[int], layers: Sequence[Mapping[str, int]]) -> tuple[int, int]:
        """Play a layer for all layers but the one before, or until what comes of it is known.

        Returns:
            For how many layers, all of them like these, the same comes of it.
        """
        done, last = 0, len(layers) - 1
        holds = len(layers), len(layers)
        while done < last:
            alike = last if not loop.copies else _alike(layers, done)
            seen = {self._state(loop.slots if done else loop.before): done}
            while done < alike:
                done += 1
                self._layer(loop, events, layers, done)
                first = seen.setdefault(self._state(loop.slots), done)
                if first != done:
                    period = done - first
                    if period == 1 and alike == last:
                        holds = done + 1, _ENDLESS
                    done = alike - (alike - done) % period  # whole periods change nothing
            if done < last:  # its weights are of other types
                done += 1
                self._layer(loop, events, layers, done)
        return holds

    def _layer(self, loop: Loop, events: list[int], layers: Sequence[Mapping[str, int]], number: int) -> None:
        """Play a layer: its own events first, and then the same for another layer after it."""
        if number > 1:
            where, sizes = self.where, self.sizes
            for old, new in zip(loop.before, loop.slots, strict=True):
                where[old] = where[new]
            for old, new, role in loop.copies:
                sizes[old] = sizes[new]
                sizes[new] = layers[number][role]
        self.play(events)

    def _state(self, slots: Sequence[int]) -> tuple[object, ...]:
        return tuple(self.starts), tuple(self.lengths), tuple(self.where[slot] for slot in slots)

    def play(self, events: list[int]) -> None:
        """Take and give back memory as the events say."""
        sizes, where, starts, lengths, top = self.sizes, self.where, self.starts, self.lengths, self.top
        for event in events:
            if event > 0:
                size = sizes[event]
                best, fit = -1, _ENDLESS
                for i, length in enumerate(lengths):
                    if size <= length <= fit:
                        best, fit = i, length
                start = where[event] = starts[best]
                end = start + size
                if lengths[best] == size:
                    del starts[best], lengths[best]
                else:
                    starts[best] = end
                    lengths[best] -= size
                if end > top:  # noqa: PLR1730 - max() takes three times as long here
                    top = end
            else:
                _give_back(starts, lengths, where[-event], sizes[-event])
        self.top = top


def _give_back(starts: list[int], lengths: list[int], start: int, size: int) -> None:
    """Add a gap, and join it with its neighbours."""
    after = bisect_left(starts, start)
    end = start + size
    if after and starts[after - 1] + lengths[after - 1] == start:
        lengths[after - 1] += size
        if end == starts[after]:
            lengths[after - 1] += lengths[after]
            del starts[after], lengths[after]
    elif end == starts[after]:
        starts[after] = start
        lengths[after] += size
    else:
        starts.insert(after, start)
        lengths.insert(after, size)


def _alike(layers: Sequence[Mapping[str, int]], at: int) -> int:
    """Return the last layer that, with all in between, has weights of the same types as the one at ``at``."""
    while at + 1 < len(layers) and layers[at + 1] is layers[at]:
        at += 1
    return at


def compile_trace(trace: Trace, runs: Sequence[tuple[int, int]]) -> Program | None:
    """Find the layers of a trace that can stand for others.

    Args:
        trace: The trace, with ``TRACED`` layers for each run that is to be looped.
        runs: Number of the run, and which layer of the trace is its first.

    Returns:
        The program; None where two layers of a run are not alike after all.
    """
    loops = []
    for run, first in runs:
        loop = _loop(trace, run, first)
        if loop is None:
            return None
        if loop.start < loop.end:  # otherwise these layers are of other backends
            loops.append(loop)
    return Program(trace, tuple(loops))


def share_traces(programs: Sequence[Program]) -> list[Program]:
    """Return the programs with one trace for those that are alike: GPUs in the middle of a model are."""
    first: dict[Hashable, Trace] = {}
    found = []
    for program in programs:
        loops = tuple((loop.start, loop.end, loop.before, loop.slots) for loop in program.loops)
        key = (tuple(program.trace.events), tuple(program.trace.sizes), loops)
        found.append(replace(program, trace=first.setdefault(key, program.trace)))
    return found


def _loop(trace: Trace, run: int, first: int) -> Loop | None:
    """Return the loop over the third layer of a run, if the second does the same."""
    start, middle, end = trace.cuts[first + 1 : first + 4]
    one, two = trace.events[start:middle], trace.events[middle:end]
    before = tuple(event for event in one if event > 0)
    slots = tuple(event for event in two if event > 0)
    if len(one) != len(two) or len(before) != len(slots):
        return None
    number = {slot: i for i, slot in enumerate(slots)}
    earlier = {slot: i for i, slot in enumerate(before)}
    for a, b in zip(one, two, strict=True):
        if (a > 0) != (b > 0) or not _same(trace.sizes[abs(a) - 1], trace.sizes[abs(b) - 1]):
            return None
        # What is given back was taken by this layer or by the one before, and in both layers alike.
        if a < 0 and (number.get(-b, -1) != earlier.get(-a, -1) or (-b not in number and -b not in earlier)):
            return None
    freed = {-event for event in (*one, *two) if event < 0}
    if not freed.issuperset(before):
        return None
    copies = tuple(
        (old, new, size.role)
        for old, new in zip(before, slots, strict=True)
        if isinstance(size := trace.sizes[new - 1], Copied)
    )
    return Loop(middle, end, before, slots, run, copies)


def _same(one: Polynomial | Copied, other: Polynomial | Copied) -> bool:
    """Whether two slots of layers that are alike have the same size, types of weights aside."""
    if isinstance(one, Copied) and isinstance(other, Copied):
        return one.role == other.role
    return one == other
