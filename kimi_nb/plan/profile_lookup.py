"""A measured cost for numbers of threads and of tokens that were not measured, with a band that says so."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from kimi_nb.plan.profile import Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kimi_nb.plan.profile import Part, StepCost, Way

__all__ = ["CostTable", "cost_table"]

_Point = tuple[float, Cost]
_TREND = 0.8  # how far below a trend a longer step may come out


class CostTable:
    """The costs of a profile, looked up between and beyond what was measured.

    Between two measured points costs are interpolated. Beyond them the band opens: for more threads, from no
    gain at all to a gain in full; for longer steps, from the trend of the last two points to no saving.
    """

    def __init__(self, costs: Sequence[StepCost]) -> None:
        self._costs: dict[tuple[Part, Way], list[StepCost]] = {}
        for cost in costs:
            self._costs.setdefault((cost.part, cost.way), []).append(cost)

    def has(self, part: Part, way: Way, *, tokens: int = 1) -> bool:
        """Whether anything was measured for this part and way, in steps of the same kind."""
        return any((cost.tokens > 1) == (tokens > 1) for cost in self._costs.get((part, way), ()))

    def find(self, part: Part, way: Way, *, threads: int, tokens: int, kv_type: str = "f16") -> Cost | None:
        """Return what a part costs in one step; None where nothing like it was measured.

        Args:
            part: Which part.
            way: Where it is computed.
            threads: Processor threads.
            tokens: Tokens in the step.
            kv_type: Type of the cache.
        """
        known = self._costs.get((part, way), [])
        same = [cost for cost in known if cost.kv_type == kv_type] or known
        if not same:
            return None
        by_tokens: dict[int, list[StepCost]] = {}
        for cost in same:
            by_tokens.setdefault(cost.tokens, []).append(cost)
        points = [(float(n), _at_threads(costs, threads)) for n, costs in sorted(by_tokens.items())]
        return _at(points, float(tokens), _with_tokens if part == "depth" else _beyond_tokens)


@lru_cache(maxsize=16)
def cost_table(costs: tuple[StepCost, ...]) -> CostTable:
    """Return the table of a profile's costs."""
    return CostTable(costs)


def _at_threads(costs: Sequence[StepCost], threads: int) -> Cost:
    """Return the cost for a number of threads; time falls with their reciprocal."""
    if free := [cost.ms for cost in costs if not cost.threads]:
        return free[0]  # on a GPU they do not matter
    points = sorted(((1.0 / cost.threads, cost.ms) for cost in costs), key=lambda point: point[0])
    merged = [point for n, point in enumerate(points) if n == 0 or point[0] != points[n - 1][0]]
    return _at(merged, 1.0 / max(threads, 1), _beyond_threads)


def _at(points: Sequence[_Point], x: float, beyond: Callable[[Sequence[_Point], float], Cost]) -> Cost:
    for (x0, low), (x1, high) in pairwise(points):
        if x0 <= x <= x1:
            share = (x - x0) / (x1 - x0)
            return low * (1 - share) + high * share
    nearest = min(points, key=lambda point: abs(point[0] - x))
    if nearest[0] == x or nearest[1].high == 0:
        return nearest[1]
    return beyond(points, x)


def _beyond_threads(points: Sequence[_Point], x: float) -> Cost:
    """Fewer threads than measured take longer in proportion; more may help in proportion, or not at all."""
    end, cost = points[0] if x < points[0][0] else points[-1]
    full = cost * (x / end)
    middle = (cost.expected + full.expected) / 2 if x < end else full.expected
    if len(points) > 1:
        middle = max(_line(points[:2] if x < end else points[-2:], x), min(cost.expected, full.expected))
    bounds = (cost.low, cost.high, full.low, full.high)
    return Cost(low=min(*bounds, middle), expected=middle, high=max(*bounds, middle))


def _beyond_tokens(points: Sequence[_Point], x: float) -> Cost:
    """Longer steps cost at most in proportion; shorter ones at most as much."""
    end, cost = points[0] if x < points[0][0] else points[-1]
    full = cost * (x / end)
    if x < end:
        return Cost(low=full.low, expected=cost.expected, high=cost.high)
    line = _line(points[-2:], x) if len(points) > 1 else (cost.expected + full.expected) / 2
    middle = min(max(line, cost.expected), full.expected)
    low = middle * _TREND if len(points) > 1 else min(cost.low, middle)
    return Cost(low=low, expected=middle, high=full.high)


def _with_tokens(points: Sequence[_Point], x: float) -> Cost:
    """Attention to the cache is work for each token, or less for each where there are more of them."""
    end, cost = points[0] if x < points[0][0] else points[-1]
    full = cost * (x / end)
    return Cost(low=min(full.low, (cost.low + full.low) / 2), expected=full.expected, high=full.high)


def _line(points: Sequence[_Point], x: float) -> float:
    (x0, first), (x1, second) = points
    return first.expected + (second.expected - first.expected) * (x - x0) / (x1 - x0)
