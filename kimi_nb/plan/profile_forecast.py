"""From measured costs to tokens per second, for any settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError
from kimi_nb.plan.memory_placement import place
from kimi_nb.plan.memory_verdict import memory_report, rooms
from kimi_nb.plan.memory_weights import weights_of
from kimi_nb.plan.profile import Cost
from kimi_nb.plan.profile_lookup import cost_table
from kimi_nb.plan.profile_model import layer_loads, mismatch
from kimi_nb.plan.speed import Band, Forecast
from kimi_nb.plan.speed_guess import guess

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.memory_placement import Placement
    from kimi_nb.plan.memory_verdict import MemoryReport
    from kimi_nb.plan.memory_weights import ModelWeights
    from kimi_nb.plan.profile import Part, Profile, Way
    from kimi_nb.plan.profile_lookup import CostTable
    from kimi_nb.plan.settings import Settings

__all__ = ["PROMPT_TOKENS", "forecast_from", "step_costs"]

PROMPT_TOKENS = 2048
"""Length of the prompt that the forecast is for, as llama-bench's pp2048."""

_OFFLOAD_FROM = 32
_DEFAULT_UBATCH = 512
_DEFAULT_BATCH = 2048
_DECODE_MARGIN = 0.05
_SPLIT_DECODE_MARGIN = 0.10
_PREFILL_MARGIN = 0.10
"""What a slice leaves open beside the spread of its measurements; see ``benchmarks/bench_forecast.py``.

Where processor and GPU take turns it is more: 2 to 9 % on an H200 (``scripts/gpu_proof``).
"""

_UNMEASURED_DISK = Cost(low=500.0, expected=2000.0, high=6000.0)  # MiB/s
_FEWER_MISSES = 0.45  # the system keeps what is used often: of the reads that miss by size, this part at best
_WORKED_OUT = 1.8  # how far a way that was not measured itself may be off
_GAIN = 0.25  # threads that bring less than this part of their number are waiting for memory
_NOTHING = Cost(low=0.0, expected=0.0, high=0.0)


@dataclass
class _Sum:
    """Milliseconds of one step, by what they go to."""

    parts: dict[str, Cost] = field(default_factory=dict)

    def add(self, what: str, cost: Cost) -> None:
        self.parts[what] = self.parts.get(what, _NOTHING) + cost

    @property
    def total(self) -> Cost:
        total = _NOTHING
        for cost in self.parts.values():
            total = total + cost
        return total


@dataclass(frozen=True)
class _Here:
    """What a forecast needs of profile, model, machine and settings."""

    profile: Profile
    table: CostTable
    weights: ModelWeights
    placement: Placement
    settings: Settings
    cores: int
    missing: float
    notes: dict[str, None] = field(default_factory=dict)
    layers: dict[tuple[bool, bool], dict[tuple[str, Part, Way], float]] = field(default_factory=dict)
    costs: dict[tuple[Part, Way, int], Cost] = field(default_factory=dict)

    def threads(self, tokens: int) -> int:
        """Return the processor threads of a step."""
        wanted = self.settings.threads or self.cores
        return (self.settings.threads_batch or wanted) if tokens > 1 else wanted

    def cost(self, part: Part, way: Way, tokens: int) -> Cost:
        """Return a part's cost; where its way was not measured, worked out from one that was."""
        if (part, way, tokens) not in self.costs:
            kind = self.settings.cache_type_k or "f16"
            found = self.table.find(part, way, threads=self.threads(tokens), tokens=tokens, kv_type=kind)
            if found is None or not (self.table.has(part, way, tokens=tokens) or part == "depth"):
                found = self._worked_out(part, way, tokens)
            self.costs[part, way, tokens] = found
        return self.costs[part, way, tokens]

    def _worked_out(self, part: Part, way: Way, tokens: int) -> Cost:
        kind, threads = self.settings.cache_type_k or "f16", self.threads(tokens)
        others: dict[Way, tuple[Way, ...]] = {
            "gpu": ("experts_offload", "experts_cpu", "cpu"),
            "cpu": ("experts_cpu", "experts_offload", "gpu"),
            "experts_cpu": ("cpu", "experts_offload", "gpu"),
            "experts_offload": ("experts_cpu", "cpu", "gpu"),
        }
        for other in others[way]:
            if self.table.has(part, other, tokens=tokens):
                found = self.table.find(part, other, threads=threads, tokens=tokens, kv_type=kind) or _NOTHING
                self.notes[f"{part} on {way} was not measured; worked out from {other}"] = None
                return Cost(
                    low=found.low / _WORKED_OUT, expected=found.expected, high=found.high * _WORKED_OUT
                )
        if part in {"depth", "head"}:
            return _NOTHING
        raise UsageError(
            "KNB842",
            f"the profile of {self.profile.made[:10]} does not cover these settings",
            why=f"nothing was measured from which the cost of {part} on {way} would follow",
            fix="Measure again with `kimi-nb rehearse` and a larger --budget.",
        )


def forecast_from(
    profile: Profile,
    model: Model,
    settings: Settings,
    machine: Machine,
    *,
    depth: int = 0,
    prompt_tokens: int = PROMPT_TOKENS,
    report: MemoryReport | None = None,
) -> Forecast:
    """Return how fast a model will be; see :func:`kimi_nb.plan.profile.forecast_from`.

    Args:
        profile: What was measured.
        model: The model, from its header.
        settings: How it is run.
        machine: Where.
        depth: Tokens that are in the cache already.
        prompt_tokens: Length of the prompt that is read.
        report: What it takes there, if that is known already.
    """
    if why := mismatch(profile, model):
        raise UsageError(
            "KNB842",
            f"the profile of {profile.model.name} {profile.model.quant} says nothing of {model.name}",
            why=why,
            fix="Measure this one with `kimi-nb rehearse`.",
        )
    report = report or memory_report(model, settings, machine)
    here = _here(profile, model, settings, machine, report)
    decode = _step(here, 1, depth)
    repacked = any(one.settings.get("repack") is not False for one in profile.measurements)
    if profile.measurements and here.placement.n_gpus == 0 and repacked == (settings.repack is False):
        with_ = "with" if repacked else "without"
        here.notes[
            f"measured {with_} weights rearranged for the processor (--repack); asked about otherwise"
        ] = None
    if any(cost.tokens > 1 for cost in profile.costs):
        prompt, prefill = _prompt(here, depth, prompt_tokens)
        reading = _rate(prompt, prefill.total, _PREFILL_MARGIN)
        reading_bound = _bound(here, prefill, _ubatch(settings, here.weights))
    else:
        estimated = guess(model, settings, machine, report)
        reading, reading_bound = estimated.prefill_tok_s, estimated.prefill_bound
        here.notes["reading a prompt was not measured, but estimated, within a wide band"] = None
    return Forecast(
        decode_tok_s=_rate(1, decode.total, _SPLIT_DECODE_MARGIN if _split(decode) else _DECODE_MARGIN),
        prefill_tok_s=reading,
        decode_bound=_bound(here, decode, 1),
        prefill_bound=reading_bound,
        source="measured",
        notes=(f"measured on {profile.machine} on {profile.made[:10]}", *here.notes),
    )


def step_costs(
    profile: Profile, model: Model, settings: Settings, machine: Machine, *, tokens: int = 1, depth: int = 0
) -> dict[str, Cost]:
    """Return what one step costs by what it goes to: ``cpu``, ``gpu``, ``pcie``, ``disk``; in milliseconds.

    The arguments and errors are those of :func:`forecast_from`.
    """
    report = memory_report(model, settings, machine)
    return _step(_here(profile, model, settings, machine, report), tokens, depth).parts


def _here(
    profile: Profile, model: Model, settings: Settings, machine: Machine, report: MemoryReport
) -> _Here:
    weights = weights_of(model)
    return _Here(
        profile=profile,
        table=cost_table(profile.costs),
        weights=weights,
        placement=place(weights, settings, [(room.name, room.free_mib) for room in rooms(machine)]),
        settings=settings,
        cores=machine.cpu.usable_cores,
        missing=report.host.paged_mib / report.host.model_mib if report.host.model_mib else 0.0,
    )


def _ubatch(settings: Settings, weights: ModelWeights) -> int:
    context = settings.ctx_size or weights.context_length
    return max(
        min(context, settings.batch_size or _DEFAULT_BATCH, settings.ubatch_size or _DEFAULT_UBATCH), 1
    )


def _prompt(here: _Here, depth: int, prompt_tokens: int) -> tuple[int, _Sum]:
    """Return the tokens of a prompt and what all its steps cost."""
    tokens = _ubatch(here.settings, here.weights)
    prompt = max(min(prompt_tokens, here.settings.ctx_size or prompt_tokens), 1)
    tokens = min(tokens, prompt)
    steps = ceil(prompt / tokens)
    total = _Sum()
    # The last step may be shorter; every other one finds the ones before it in the cache.
    for number in range(steps):
        size = min(tokens, prompt - number * tokens)
        for what, cost in _step(here, size, depth + number * tokens, last=number == steps - 1).parts.items():
            total.add(what, cost)
    return prompt, total


def _step(here: _Here, tokens: int, depth: int, *, last: bool = True) -> _Sum:
    """Return what one step costs; ``last`` says whether an answer is wanted from it."""
    found, host = _Sum(), here.placement.n_gpus
    on_gpu = any(device != host for device in here.placement.layers)
    offload = on_gpu and tokens >= _OFFLOAD_FROM and here.settings.op_offload is not False
    base: Way = "gpu" if on_gpu else "cpu"
    found.add(base, here.cost("fixed", base, tokens))
    for (what, part, way), times in _layers(here, offload=offload, prompt=tokens > 1).items():
        found.add(what, here.cost(part, way, tokens) * times)
    if last or tokens == 1:
        at: Way = "cpu" if here.placement.output == host else "gpu"
        size = here.weights.ends["output"].on_host / (here.profile.model.head_bytes or 1.0)
        found.add(at, here.cost("head", at, 1) * size)
        if tokens > 1 and on_gpu:
            found.add("cpu", _last_experts(here))
    if tokens > 1 and _attention_apart(here, base):
        depth += tokens // 2  # on average, a token finds half of its own step in the cache
    if depth:
        devices = here.placement.layers
        away = len(devices) if here.settings.kv_offload is False else devices.count(host)
        caches: tuple[tuple[Way, int], ...] = (("cpu", away), ("gpu", len(devices) - away))
        for at, layers in caches:
            # What one token costs a GPU says nothing of many: they share what is read from its memory.
            if layers and (at == "cpu" or here.table.has("depth", at, tokens=tokens)):
                found.add(at, here.cost("depth", at, tokens) * (layers * depth / 1024))
    if here.missing:
        found.add("disk", _disk(here, tokens))
    return found


def _last_experts(here: _Here) -> Cost:
    """Return what the last layer's experts cost for the one token of a prompt whose answer is wanted.

    It is too few to send them to a GPU for: where they are in main memory, the processor computes them.
    """
    _, rest, used = layer_loads(here.weights)[-1]
    last = len(here.weights.layers) - 1
    on_host = here.placement.layers[last] == here.placement.n_gpus
    share = 1.0 if on_host else _experts_on_host(here, last)
    if not share:
        return _NOTHING
    there, on_gpu = here.cost("moe", "experts_cpu", 1), here.cost("moe", "gpu", 1).expected
    low, expected, high = (max(ms - on_gpu, 0.0) for ms in (there.low, there.expected, there.high))
    return Cost(low=low, expected=expected, high=high) * (_heavier(here, rest + used) * share)


def _heavier(here: _Here, n_bytes: float) -> float:
    """Return how many layers of the profile's model one counts as of which a token reads so many bytes."""
    facts = here.profile.model
    return n_bytes / ((facts.rest_bytes + facts.used_bytes) or 1.0)


def _attention_apart(here: _Here, base: Way) -> bool:
    """Whether the costs are without what a prompt's tokens cost each other (see ``profile_fit``)."""
    return here.table.has("depth", base, tokens=_OFFLOAD_FROM)


def _layers(here: _Here, *, offload: bool, prompt: bool) -> dict[tuple[str, Part, Way], float]:
    """Return how many layers of the profile's size are computed in which way, and what that counts as."""
    if (offload, prompt) in here.layers:
        return here.layers[offload, prompt]
    found: dict[tuple[str, Part, Way], float] = {}
    away: Way = "experts_offload" if offload else "experts_cpu"
    host = here.placement.n_gpus
    facts = here.profile.model
    # Of a prompt the last layer computes the attention only, which is in the step's own cost.
    loads = layer_loads(here.weights)
    for number, (dense, rest, used) in enumerate(loads[:-1] if prompt else loads):
        on_host = here.placement.layers[number] == host
        if dense:
            at: Way = "cpu" if on_host else "gpu"
            _count(found, (at, "dense", at), rest / (facts.dense_bytes or 1.0))
            continue
        heavier = _heavier(here, rest + used)
        if on_host:  # with op-offload all of the layer's weights are sent, not only its experts
            key: tuple[str, Part, Way] = ("pcie", "moe", away) if offload else ("cpu", "moe", "cpu")
            _count(found, key, heavier)
            continue
        share = _experts_on_host(here, number)
        _count(found, ("pcie" if offload else "cpu", "moe", away), heavier * share)
        _count(found, ("gpu", "moe", "gpu"), heavier * (1 - share))
    here.layers[offload, prompt] = found
    return found


def _count(found: dict[tuple[str, Part, Way], float], key: tuple[str, Part, Way], times: float) -> None:
    if times:
        found[key] = found.get(key, 0.0) + times


def _experts_on_host(here: _Here, number: int) -> float:
    """Return the part of a layer's experts that lies in host memory."""
    if not here.placement.overrides:
        return float(here.placement.experts_on_host[number])
    experts = [entry for entry in here.weights.layers[number] if entry.is_expert]
    there = sum(
        entry.on_host for entry in experts if here.placement.device_of(entry, number) == here.placement.n_gpus
    )
    return there / (sum(entry.on_host for entry in experts) or 1)


def _used_share(here: _Here) -> float:
    return here.weights.shape.n_expert_used / max(here.weights.shape.n_expert, 1)


def _disk(here: _Here, tokens: int) -> Cost:
    """Return the time for reading again what main memory does not hold."""
    touched = 1 - (1 - _used_share(here)) ** tokens
    n_bytes = 0.0
    for number, layer in enumerate(here.weights.layers):
        for entry in layer:
            if here.placement.device_of(entry, number) == here.placement.n_gpus:
                n_bytes += entry.on_host * (touched if entry.is_expert else 1.0)
    mib = n_bytes * here.missing / 2**20
    speed = here.profile.disk_read_mib_s
    if speed is None:
        here.notes["the disk's speed was not measured"] = None
        speed = _UNMEASURED_DISK
    share = round(100 * here.missing)
    here.notes[f"{share} % of the weights in main memory find no room and are read from disk again"] = None
    return Cost(
        low=1000 * mib * _FEWER_MISSES / max(speed.high, 1.0),
        expected=1000 * mib / max(speed.expected, 1.0),
        high=1000 * mib / max(speed.low, 1.0),
    )


def _rate(tokens: int, ms: Cost, margin: float) -> Band:
    low, expected, high = (1000 * tokens / max(x, 1e-6) for x in (ms.high, ms.expected, ms.low))
    return Band(low * (1 - margin), expected, high * (1 + margin))


def _split(decode: _Sum) -> bool:
    return decode.parts.keys() >= {"cpu", "gpu"}


def _bound(here: _Here, found: _Sum, tokens: int) -> str:
    """Return what most of the time goes to; the processor's may be waiting for memory."""
    most = max(found.parts, key=lambda what: found.parts[what].expected)
    if most != "cpu":
        return most
    threads = here.threads(tokens)
    fewer = [cost.threads for cost in here.profile.costs if 0 < cost.threads < threads and cost.tokens == 1]
    if tokens > 1 or not fewer:
        return "cpu"
    way: Way = "experts_cpu" if here.table.has("moe", "experts_cpu") else "cpu"
    now = here.table.find("moe", way, threads=threads, tokens=1)
    then = here.table.find("moe", way, threads=max(fewer), tokens=1)
    if now is None or then is None or not now.expected:
        return "cpu"
    return "ram" if then.expected / now.expected - 1 < _GAIN * (threads / max(fewer) - 1) else "cpu"
