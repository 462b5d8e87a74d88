"""From the times of a few slices to the cost of each part of the model.

A step of a slice takes the sum of its parts: the step itself, its dense layers, its layers of experts, its
output. Slices with other numbers of each give the costs by least squares on relative errors, none below
zero. Where too few slices were run to tell parts apart, a weak assumption decides: that a part takes what
its share of bytes and its share of layers say, in the middle between both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

from kimi_nb.plan.profile import Cost, StepCost
from kimi_nb.plan.profile_lookup import CostTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kimi_nb.plan.profile import Measurement, Part, ProfileModel, Way

__all__ = ["fit_costs", "way_of"]

_PARTS: tuple[Part, ...] = ("fixed", "dense", "moe", "head")
_OFFLOAD_FROM = 32
_PRIOR_WEIGHT = 0.02
_TINY_MS = 1e-4
_ENOUGH = 5
_SETTLED = 3


@dataclass(frozen=True)
class _Key:
    """What costs are told apart by; ``n_expert`` is 0 for slices without experts."""

    way: Way
    threads: int
    tokens: int
    kv_type: str
    n_expert: int


@dataclass(frozen=True)
class _Row:
    """How often each part is in a slice's step, and what the step took."""

    counts: tuple[float, ...]
    ms: Cost


def way_of(measured: Measurement) -> Way:
    """Return where a slice was computed."""
    settings = measured.settings
    if settings.get("n_gpu_layers") == 0:
        return "cpu"
    if not settings.get("cpu_moe"):
        return "gpu"
    alone = measured.prompt_tokens < _OFFLOAD_FROM or settings.get("op_offload") is False
    return "experts_cpu" if alone else "experts_offload"


def fit_costs(measurements: Sequence[Measurement], model: ProfileModel) -> tuple[StepCost, ...]:
    """Return what each part of ``model`` costs.

    A slice may have fewer experts than the model. Writing does not notice. In a prompt more tokens would then
    share an expert; so what was measured with a part of the experts stands for a step that is longer by the
    same factor, in which each expert of the whole model has as many tokens as each had in the slice.

    Args:
        measurements: What was measured, each with prompts of one step.
        model: The model that the slices are of.
    """
    deep = _depth_costs(measurements)
    table = CostTable(deep)
    measurements = [_without_attention(one, table) for one in measurements if not one.depth]
    solved: dict[_Key, dict[Part, Cost]] = {}
    heads: dict[tuple[Way, int], Cost] = {}
    for key, group in _groups(measurements):
        solved[key] = _solve_experts(key, group, model, solved) or _solve(key, group, model, heads)
        if key.tokens == 1 and "head" in solved[key]:
            heads.setdefault((key.way, key.threads), solved[key]["head"])
    costs: dict[StepCost, None] = {}
    for key, parts in solved.items():
        for part, cost in parts.items():
            tokens = key.tokens
            ms = cost
            if part == "moe" and key.tokens > 1 and key.n_expert < model.n_expert:
                tokens = round(key.tokens * model.n_expert / key.n_expert)
                ms = _all_experts(key, cost, tokens, solved, model)
            costs[
                StepCost(
                    part=part, way=key.way, threads=key.threads, tokens=tokens, kv_type=key.kv_type, ms=ms
                )
            ] = None
    return (*_without_doubles(costs), *deep)


def _without_attention(measured: Measurement, deep: CostTable) -> Measurement:
    """Take off what the tokens of a prompt cost each other: it grows with the square of the step.

    On average a token finds half of its own step in the cache. The forecast adds that again for its own step;
    where nothing was measured with a filled cache, both are left out.
    """
    tokens, key = measured.prompt_tokens, _key(measured)
    way: Way = "cpu" if key.way == "cpu" else "gpu"
    if not tokens or not deep.has("depth", way, tokens=tokens):
        return measured
    found = deep.find("depth", way, threads=key.threads, tokens=tokens, kv_type=key.kv_type)
    off = (measured.n_dense + measured.n_moe) * found.expected * (tokens // 2 / 1024) if found else 0.0
    return replace(measured, samples_ms=tuple(max(ms - off, ms / 10) for ms in measured.samples_ms))


def _groups(measurements: Sequence[Measurement]) -> list[tuple[_Key, list[Measurement]]]:
    """Return what is solved together, writing first: it has the head.

    Slices without experts run alike wherever experts would be, and belong to every group of the same device.
    """
    flat = [measured for measured in measurements if not measured.depth]
    groups: dict[_Key, list[Measurement]] = {}
    for measured in flat:
        groups.setdefault(_key(measured), []).append(measured)
    for key, group in groups.items():
        if key.n_expert:
            group += [
                other
                for other in flat
                if not other.n_moe
                and _same_place(_key(other), key)
                and (other.prompt_tokens or 1, _key(other).kv_type) == (key.tokens, key.kv_type)
            ]
    return sorted(groups.items(), key=lambda item: (item[0].tokens, item[0].way != "gpu", -item[0].n_expert))


def _same_place(bare: _Key, key: _Key) -> bool:
    if key.way == "cpu":
        return (bare.way, bare.threads) == ("cpu", key.threads)
    return bare.way == "gpu"


def _without_doubles(costs: Iterable[StepCost]) -> list[StepCost]:
    """Return one cost for each part and key: that of the largest group, which comes first."""
    found: dict[tuple[str, str, int, int, str], StepCost] = {}
    for cost in costs:
        found.setdefault((cost.part, cost.way, cost.threads, cost.tokens, cost.kv_type), cost)
    return list(found.values())


def _all_experts(
    key: _Key, moe: Cost, tokens: int, solved: dict[_Key, dict[Part, Cost]], model: ProfileModel
) -> Cost:
    """Return a layer's cost in a longer step with all experts, from a shorter step with some of them."""
    times = tokens / key.tokens
    bare = next(
        parts
        for other, parts in solved.items()
        if "fixed" in parts and other.tokens == key.tokens and _same_place(other, key)
    )
    here = _rest(bare, model)
    longer = [
        parts
        for other, parts in solved.items()
        if "fixed" in parts and other.tokens == tokens and _same_place(other, key)
    ]
    there = _rest(longer[0], model) if longer else here * times
    routed = Cost(
        low=max(moe.low - here.expected, 0.0),
        expected=max(moe.expected - here.expected, 0.0),
        high=max(moe.high - here.expected, 0.0),
    )
    return routed * times + there


def _rest(parts: dict[Part, Cost], model: ProfileModel) -> Cost:
    """Return what a layer of experts costs without them: its attention and what every token shares.

    In a prompt the step itself is mostly one layer's attention; the shared part is a piece of a dense layer.
    """
    attention, dense = parts["fixed"], parts["dense"]
    piece = (model.rest_bytes - model.attention_bytes) / ((model.dense_bytes - model.attention_bytes) or 1.0)
    shared = max(dense.expected - attention.expected, 0.0) * max(min(piece, 1.0), 0.0)
    return attention + Cost(low=shared, expected=shared, high=shared)


def _key(measured: Measurement) -> _Key:
    way = way_of(measured)
    threads = 0 if way in {"gpu", "experts_offload"} else int(measured.settings.get("threads", 0))
    kind = str(measured.settings.get("cache_type_k", "f16"))
    return _Key(way, threads, measured.prompt_tokens or 1, kind, measured.n_expert if measured.n_moe else 0)


def settled_ms(measured: Measurement) -> tuple[float, ...]:
    """Return the samples that count: the last ones of so many that the program had to settle first."""
    return measured.samples_ms[-_SETTLED:] if len(measured.samples_ms) > _ENOUGH else measured.samples_ms


def _step_ms(measured: Measurement) -> Cost:
    steps = measured.written_tokens or 1
    samples = sorted(sample / steps for sample in settled_ms(measured))
    inner = samples[1:-1] if len(samples) >= _ENOUGH else samples  # one stray sample is no spread
    return Cost(low=inner[0], expected=median(samples), high=inner[-1])


def _counts(measured: Measurement, model: ProfileModel) -> tuple[float, float, float, float]:
    """Return how much of each part is in one step of a slice.

    While a prompt is read, the last layer only computes its attention for all tokens: what follows is done
    for the last token, whose answer alone is wanted. So one layer less counts, and its attention is a part
    of the step itself.
    """
    dense, moe = float(measured.n_dense), float(measured.n_moe)
    if measured.prompt_tokens:
        dense, moe = (dense, moe - 1) if moe else (max(dense - 1, 0.0), 0.0)
    return 1.0, dense, moe * _heavier(measured, model), measured.n_vocab / model.n_vocab


def _heavier(measured: Measurement, model: ProfileModel) -> float:
    """Return how many of the model's usual layers of experts one of the slice counts as."""
    return measured.moe_bytes / ((model.rest_bytes + model.used_bytes) or 1.0) or 1.0


def _solve(
    key: _Key, group: Sequence[Measurement], model: ProfileModel, heads: dict[tuple[Way, int], Cost]
) -> dict[Part, Cost]:
    rows = [_Row(_counts(measured, model), _step_ms(measured)) for measured in group]
    places = [0, 1, 2, 3] if any(measured.n_moe for measured in group) else [0, 1, 3]
    if key.tokens > 1:  # the one token's output is known from writing
        head = _near_head(key, heads)
        rows = [_Row(row.counts, _less(row.ms, head.expected * row.counts[3])) for row in rows]
        places.remove(3)
    parts = [_PARTS[place] for place in places]
    rows = [_Row(tuple(row.counts[place] for place in places), row.ms) for row in rows]
    prior = _prior(rows, parts, model, key.tokens)
    middle = _least_squares([(row.counts, row.ms.expected) for row in rows], prior)
    spread = [0.0] * len(parts)
    for number, row in enumerate(rows):
        for bound in (row.ms.low, row.ms.high):
            shifted = [
                (other.counts, bound if place == number else other.ms.expected)
                for place, other in enumerate(rows)
            ]
            for part, value in enumerate(_least_squares(shifted, prior)):
                spread[part] += (value - middle[part]) ** 2 / 2
    return {
        part: Cost(
            low=max(middle[n] - spread[n] ** 0.5, 0.0), expected=middle[n], high=middle[n] + spread[n] ** 0.5
        )
        for n, part in enumerate(parts)
    }


def _solve_experts(
    key: _Key, group: Sequence[Measurement], model: ProfileModel, solved: dict[_Key, dict[Part, Cost]]
) -> dict[Part, Cost] | None:
    """Return what a layer costs whose experts alone are not on the GPU; the rest is known already."""
    if key.way not in {"experts_cpu", "experts_offload"}:
        return None
    on_gpu = next(
        (parts for other, parts in solved.items() if (other.way, other.tokens) == ("gpu", key.tokens)), None
    )
    rows = [measured for measured in group if measured.n_moe > (1 if key.tokens > 1 else 0)]
    if on_gpu is None or not rows:
        return None
    # Where one program wrote for much longer than another, the other had not settled yet.
    longest = max(map(_steps, rows))
    found = []
    for measured in (one for one in rows if _steps(one) * 2 >= longest):
        counts = dict(zip(_PARTS, _counts(measured, model), strict=True))
        bare = sum(
            on_gpu[part].expected * counts[part] for part in ("fixed", "dense", "head") if part in on_gpu
        )
        if key.tokens > 1:
            bare += _last_experts(measured, model, solved)
        found.append(_less(_step_ms(measured), bare) * (1 / counts["moe"]))
    return {
        "moe": Cost(
            low=min(cost.low for cost in found),
            expected=median(cost.expected for cost in found),
            high=max(cost.high for cost in found),
        )
    }


def _steps(measured: Measurement) -> int:
    return (measured.written_tokens or 1) * len(measured.samples_ms)


def _last_experts(measured: Measurement, model: ProfileModel, solved: dict[_Key, dict[Part, Cost]]) -> float:
    """Return the milliseconds of the last layer's experts in a prompt's step: those of one token.

    One token's answer is wanted, too few to send experts to a GPU for: where they are in main memory, the
    processor computes them. What a GPU would take for that token is a part of the step's own cost.
    """
    threads = int(measured.settings.get("threads", 0))
    written = {
        key: parts["moe"].expected for key, parts in solved.items() if key.tokens == 1 and "moe" in parts
    }
    on_gpu = next((ms for key, ms in written.items() if key.way == "gpu"), 0.0)
    there = next(
        (ms for key, ms in written.items() if (key.way, key.threads) == ("experts_cpu", threads)), on_gpu
    )
    return max(there - on_gpu, 0.0) * _heavier(measured, model)


def _near_head(key: _Key, heads: dict[tuple[Way, int], Cost]) -> Cost:
    way: Way = "cpu" if key.way == "cpu" else "gpu"
    nearest: tuple[tuple[Way, int], ...] = ((key.way, key.threads), (way, key.threads), (way, 0))
    for wanted in nearest:
        if wanted in heads:
            return heads[wanted]
    return next((cost for (at, _), cost in heads.items() if at == way), Cost(low=0, expected=0, high=0))


def _less(ms: Cost, by: float) -> Cost:
    low, expected, high = (max(x - by, _TINY_MS) for x in (ms.low, ms.expected, ms.high))
    return Cost(low=low, expected=expected, high=high)


def _prior(rows: Sequence[_Row], parts: Sequence[Part], model: ProfileModel, tokens: int) -> list[float]:
    """Return what each part would cost by its share of the largest slice's bytes and layers."""
    largest = max(rows, key=lambda row: row.ms.expected)
    n_bytes: dict[Part, float] = {
        "fixed": model.attention_bytes if tokens > 1 else 0.0,
        "dense": model.dense_bytes,
        "moe": model.rest_bytes + model.used_bytes,
        "head": model.head_bytes,
    }
    counted = [count * n_bytes[part] for part, count in zip(parts, largest.counts, strict=True)]
    layers = sum(count for part, count in zip(parts, largest.counts, strict=True) if n_bytes[part])
    time = largest.ms.expected
    return [
        time
        * (n_bytes[part] / max(sum(counted), n_bytes[part], 1.0) + bool(n_bytes[part]) / max(layers, 1.0))
        / 2
        for part in parts
    ]


def _least_squares(rows: Sequence[tuple[Sequence[float], float]], prior: Sequence[float]) -> list[float]:
    """Return the costs, none below zero, that come nearest to all times relative to each.

    The assumption about each part enters as one more row of little weight.
    """
    n = len(prior)
    lines = [([count / time for count in counts], 1.0) for counts, time in rows]
    for number, value in enumerate(prior):
        if not value:
            continue  # nothing is assumed
        scale = _PRIOR_WEIGHT / value
        lines.append(([scale if place == number else 0.0 for place in range(n)], scale * value))
    best: tuple[float, list[float]] | None = None
    for size in range(n, 0, -1):
        for used in combinations(range(n), size):
            found = _normal(lines, used, n)
            if found is None or min(found) < 0:
                continue
            error = sum((sum(a * x for a, x in zip(row, found, strict=True)) - y) ** 2 for row, y in lines)
            if best is None or error < best[0]:
                best = error, found
    return best[1] if best else [0.0] * n


def _normal(
    lines: Sequence[tuple[Sequence[float], float]], used: Iterable[int], n: int
) -> list[float] | None:
    """Solve the normal equations for some of the unknowns; the others are 0."""
    at = list(used)
    table = [
        [sum(row[i] * row[j] for row, _ in lines) for j in at] + [sum(row[i] * y for row, y in lines)]
        for i in at
    ]
    size = len(at)
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(table[k][i]))
        if abs(table[pivot][i]) < 1e-300:  # noqa: PLR2004 - a column of zeros
            return None
        table[i], table[pivot] = table[pivot], table[i]
        for k in range(size):
            if k != i:
                factor = table[k][i] / table[i][i]
                table[k] = [x - factor * y for x, y in zip(table[k], table[i], strict=True)]
    found = [0.0] * n
    for i, place in enumerate(at):
        found[place] = table[i][size] / table[i][i]
    return found


def _depth_costs(measurements: Sequence[Measurement]) -> list[StepCost]:
    """Return what 1024 cached tokens cost a layer: a slice's step with them against the same without."""
    costs = []
    for deep in measurements:
        if not deep.depth:
            continue
        key = _key(deep)
        flat = [
            measured
            for measured in measurements
            if not measured.depth
            and (_key(measured).way, _key(measured).threads, _key(measured).tokens)
            == (key.way, key.threads, key.tokens)
            and (measured.n_dense, measured.n_moe) == (deep.n_dense, deep.n_moe)
        ]
        if not flat:
            continue
        flat.sort(key=lambda measured: _key(measured).kv_type != key.kv_type)
        with_, without = _step_ms(deep), _step_ms(flat[0])
        units = (deep.n_dense + deep.n_moe) * deep.depth / 1024
        middle = max(with_.expected - without.expected, 0.0) / units
        cost = Cost(
            low=min(max(with_.low - without.high, 0.0) / units, middle),
            expected=middle,
            high=max((with_.high - without.low) / units, middle),
        )
        costs.append(
            StepCost(
                part="depth",
                way=key.way,
                threads=key.threads,
                tokens=key.tokens,
                kv_type=key.kv_type,
                ms=cost,
            )
        )
    return costs
