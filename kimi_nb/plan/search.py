"""The best settings for one model on one machine with a given context.

For each way that matters (tokens in a step, whether the GPU helps with weights of the host, the cache's
type) the placement is added up, checked by the exact report and corrected; what is left are a handful of
options with a forecast each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kimi_nb.plan.filling import Filling, fill
from kimi_nb.plan.limits import left_mib
from kimi_nb.plan.memory import MIB
from kimi_nb.plan.memory_verdict import memory_report, rooms
from kimi_nb.plan.memory_weights import weights_of
from kimi_nb.plan.settings import Settings
from kimi_nb.plan.speed import forecast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.limits import Limits
    from kimi_nb.plan.memory_verdict import MemoryReport
    from kimi_nb.plan.profile import Profile
    from kimi_nb.plan.speed import Forecast

__all__ = ["NEARLY", "Objective", "Option", "Search", "best"]

Objective = Literal["decode", "prefill", "context", "quality"]

NEARLY = 0.981
"""What is slower by less than this is as good, and chosen if it is better otherwise."""

_AS_GOOD = 0.95
_WORTH_A_TRY = 0.97
_FASTER = 1.005
_TIGHT_UBATCH = 128
_QUICK = ((512, True),)
#: Tokens in a step, and whether the GPU is lent weights of the host. Small steps leave room for weights.
_WAYS = (*((n, True) for n in (512, 1024, 2048, 4096, _TIGHT_UBATCH)), (512, False), (_TIGHT_UBATCH, False))
_SMALL_BYTES = 4 << 30  # so small a model may be faster on the processor alone
_CACHE_TYPES = ("f16", "q8_0", "q4_0")
_PROMPT_CACHE_MIB, _PROMPT_CACHE_STEP = 8192, 256
_ROUNDS = 5
_SPARE = 2.0  # MiB; keeps the rounding of padded tensors from asking for another round


@dataclass(frozen=True)
class Option:
    """One way to run a model, with what it takes and how fast it should be."""

    settings: Settings
    report: MemoryReport
    forecast: Forecast
    left_mib: dict[str, float]

    @property
    def paged(self) -> bool:
        """Whether weights will be read from disk again and again."""
        return self.report.host.paged_mib > 0

    def rate(self, objective: Objective) -> float:
        """Return what an objective looks at, in tokens per second."""
        seen = self.forecast.prefill_tok_s if objective == "prefill" else self.forecast.decode_tok_s
        return seen.expected


def best(options: Iterable[Option], objective: Objective) -> Option | None:
    """Return the fastest option; of those nearly as fast the one that is fastest otherwise, and small."""
    found = list(options)
    if not found:
        return None
    other: Objective = "decode" if objective == "prefill" else "prefill"
    near = _near(_near(found, objective, NEARLY), other, _AS_GOOD)
    return min(near, key=lambda option: (option.settings.ubatch_size, -option.rate(objective)))


def _near(options: list[Option], objective: Objective, share: float) -> list[Option]:
    top = max(option.rate(objective) for option in options)
    return [option for option in options if option.rate(objective) >= share * top]


class Search:
    """Options for one model on one machine.

    Args:
        model: The model, from its header.
        machine: Where it is to run.
        limits: What must be left free.
        profile: What was measured there.
        parallel: How many requests are to be answered at once.
        mmproj: The file of the vision part.
        known: Another search for the same, whose reports and forecasts need not be worked out again.
    """

    def __init__(
        self,
        model: Model,
        machine: Machine,
        limits: Limits,
        profile: Profile | None,
        parallel: int = 1,
        mmproj: str | None = None,
        known: Search | None = None,
    ) -> None:
        self.model = model
        self.machine = machine
        self.limits = limits
        self.profile = profile
        self.weights = weights_of(model)
        self._gpus = rooms(machine)
        self._metal = machine.unified
        self._starts: dict[tuple[tuple[str, ...], bool | None, int], Filling] = {}
        self.reports: dict[Settings, MemoryReport] = {} if known is None else known.reports
        same = known is not None and known.profile is profile
        self.forecasts: dict[Settings, Forecast | None] = known.forecasts if known and same else {}
        self._wishes = {
            "parallel": parallel,
            "mmproj": mmproj,
            **({"kv_unified": True} if parallel > 1 else {}),
        }

    def options(self, ctx_size: int, *, quick: bool = False) -> list[Option]:
        """Return the options that fit with a context of ``ctx_size`` tokens.

        The cache keeps 16 bits a value unless that drives layers off the GPU, or does not fit at all.

        Args:
            ctx_size: Tokens, for all slots together.
            quick: Only the usual step of 512 tokens: enough to compare quants.
        """
        found: list[Option] = []
        for kind in _CACHE_TYPES:
            new = list(self._with_cache(ctx_size, kind, _QUICK))
            if any(self.whole(option) for option in new):
                found = new if quick else list(self._with_cache(ctx_size, kind, _WAYS))
                break
            found += new
            if kind == "q8_0" and found:
                break  # 4 bits only where nothing else fits
        if not found and self.profile is not None:
            self.profile = None  # what was measured does not cover this model: a guess, then, that says so
            self.forecasts = {}
            return self.options(ctx_size, quick=quick)
        if quick or not found:
            return found
        near = _near(found, "decode", _WORTH_A_TRY)
        return [self._with_part_of_a_layer(one) if one in near else one for one in found]

    def whole(self, option: Option) -> bool:
        """Whether all of it that can be is on GPUs (experts aside), or there is no GPU."""
        return not self._gpus or self._all_layers(option.settings)

    def all_on_gpus(self, option: Option) -> bool:
        """Whether layers and experts are all on GPUs."""
        experts = [sums[0] for sums in self.weights.sums[: option.settings.n_cpu_moe or 0]]
        return bool(option.report.gpus) and self._all_layers(option.settings) and not any(experts)

    def _all_layers(self, settings: Settings) -> bool:
        layers = settings.n_gpu_layers
        return isinstance(layers, int) and layers > self.weights.n_layer_all

    def _with_cache(self, ctx_size: int, kind: str, ways: Sequence[tuple[int, bool]]) -> Iterator[Option]:
        """Return what fits with a type of cache, for steps of so many tokens, helped by the GPU or not."""
        fitting = []
        for names in self._gpu_sets(ctx_size, kind):
            for ubatch, offload in ways:
                if ubatch <= max(ctx_size, _QUICK[0][0]) and (offload or not self._metal):
                    fitting.append(self._on_gpus(self._base(ctx_size, kind, ubatch, offload), names))
        if self._gpus and not any(fitting):
            for offload in (True, False):
                base = self._base(ctx_size, kind, _TIGHT_UBATCH, offload)
                fitting.append(self._on_gpus(base, [gpu.name for gpu in self._gpus]))
        yield from (option for option in fitting if option is not None)
        if not any(fitting) or self.model.data_bytes < _SMALL_BYTES:
            yield from self._without_gpu(ctx_size, kind, ways)

    def _without_gpu(self, ctx_size: int, kind: str, ways: Sequence[tuple[int, bool]]) -> Iterator[Option]:
        found = False
        for ubatch in [*sorted({n for n, _ in ways if n >= _QUICK[0][0]}), _TIGHT_UBATCH]:
            if ubatch == _TIGHT_UBATCH and found:
                return
            option = self._on_host(self._base(ctx_size, kind, ubatch, offload=None))
            if option is not None:
                found = True
                yield option

    def _base(self, ctx_size: int, kind: str, ubatch: int, offload: bool | None) -> Settings:  # noqa: FBT001 - a setting
        cores = self.machine.cpu.usable_cores
        return Settings(
            ctx_size=ctx_size,
            cache_type_k=kind,
            cache_type_v=kind,
            flash_attn="auto" if self._metal else "on",
            batch_size=max(ubatch, 2048),
            ubatch_size=ubatch,
            threads=cores,
            threads_batch=cores,
            fit="off",
            op_offload=offload,
            load_mode="mmap",
            cache_ram=0,
            **self._wishes,  # type: ignore[arg-type] # each has the type of its setting
        )

    # -- on GPUs

    def _gpu_sets(self, ctx_size: int, kind: str) -> list[list[str]]:
        """Return the sets of GPUs worth trying: the fewest that hold everything, or else all of them."""
        names = [gpu.name for gpu in self._gpus]
        if len(names) < 2:  # noqa: PLR2004 - one or none: there is no choice
            return [names] if names else []
        weights = self.model.data_bytes / MIB
        by_room = sorted(self._gpus, key=lambda gpu: -gpu.free_mib)
        for count in range(1, len(names)):
            chosen = by_room[:count]
            if sum(gpu.free_mib for gpu in chosen) < weights:
                continue
            subset = [gpu.name for gpu in self._gpus if gpu in chosen]
            option = self._on_gpus(self._base(ctx_size, kind, _QUICK[0][0], offload=True), subset)
            if option is not None and self.all_on_gpus(option):
                return [subset]
        return [names]

    def _on_gpus(self, base: Settings, names: list[str]) -> Option | None:
        """Fill the GPUs, let the exact report correct what the sum left out, and return what fits."""
        gpus = {gpu.name: gpu for gpu in self._gpus}
        room = [gpus[name].free_mib - self.limits.gpu_keep_free_mib - _SPARE for name in names]
        # Without experts on the host the buffers are others, and so are tried by themselves.
        for least in (0, 1) if self.model.data_bytes / MIB < sum(room) else (1,):
            found = self._filled(base, names, room, least)
            option = None if found is None else self._finish(*found)
            if option is not None:
                return option
        return None

    def _filled(
        self, base: Settings, names: list[str], room: list[float], least: int
    ) -> tuple[Settings, MemoryReport] | None:
        """Return the best placement and its report: with everything on the GPUs, or with ``least`` 1."""
        n_layer = len(self.weights.layers)
        key = (tuple(names), base.op_offload, least)
        trial = self._starts.get(key) or Filling(self.weights.n_layer_all + 1, n_layer if least else 0, ())
        compute = [0.0] * len(names)
        fitting: tuple[Filling, Settings, MemoryReport] | None = None
        for _ in range(_ROUNDS):
            settings = self._placed(base, names, trial)
            report = self._report(settings)
            if trial.counts and min(self._gpus_left(report)) >= 0:
                fitting = (trial, settings, report)
            # Never less than was seen before, so that this ends.
            buffers = [gpu.compute_mib + gpu.extra_mib + 1.0 for gpu in report.gpus]
            compute = [max(pair) for pair in zip(buffers, compute, strict=True)]
            left = [mib - taken for mib, taken in zip(room, compute, strict=True)]
            found = fill(self.weights, self._cache_mib(report), left, least)
            if found is None or found == trial or (not least and found.n_cpu_moe):
                break
            if fitting is not None and _order(found) <= _order(fitting[0]):
                break
            trial = found
        if fitting is None:
            return None
        if least:
            fitting = self._one_more(base, names, room, fitting)
        self._starts[key] = fitting[0]  # a good guess for the next way, which is often much the same
        return fitting[1:]

    def _one_more(
        self,
        base: Settings,
        names: list[str],
        room: list[float],
        fitting: tuple[Filling, Settings, MemoryReport],
    ) -> tuple[Filling, Settings, MemoryReport]:
        """Try one more layer's experts where only the buffers, which may shrink, seem to be in the way."""
        filling, _, report = fitting
        if filling.n_gpu_layers <= self.weights.n_layer_all or filling.n_cpu_moe <= 1:
            return fitting
        left = [mib - gpu.extra_mib for mib, gpu in zip(room, report.gpus, strict=True)]
        found = fill(self.weights, self._cache_mib(report), left, filling.n_cpu_moe - 1)
        if found is None or _order(found) <= _order(filling):
            return fitting
        settings = self._placed(base, names, found)
        report = self._report(settings)
        return (found, settings, report) if min(self._gpus_left(report)) >= 0 else fitting

    def _gpus_left(self, report: MemoryReport) -> list[float]:
        return [mib for name, mib in left_mib(report, self.limits).items() if name != "Host"]

    def _cache_mib(self, report: MemoryReport) -> float:
        """Return the cache of one layer."""
        total = sum(gpu.context_mib + 1 for gpu in report.gpus) + report.host.context_mib
        return total / len(self.weights.layers)

    def _placed(self, base: Settings, names: list[str], filling: Filling) -> Settings:
        changes: dict[str, object] = {
            "n_gpu_layers": filling.n_gpu_layers,
            "n_cpu_moe": min(filling.n_cpu_moe, len(self.weights.layers)),
        }
        if len(self._gpus) > 1:
            changes["device"] = ",".join(names)
            if len(names) > 1:
                changes["split_mode"] = "layer"
                changes["tensor_split"] = filling.counts or tuple(1 for _ in names)
        return replace(base, **changes)  # type: ignore[arg-type] # each has the type of its setting

    # -- on the host

    def _on_host(self, base: Settings) -> Option | None:
        settings = replace(base, device="none", n_gpu_layers=0) if self._gpus else base
        return self._finish(settings, None)

    def _finish(self, settings: Settings, report: MemoryReport | None) -> Option | None:
        """Choose how weights are read, and return the option if the host's memory allows it."""
        tried = []
        if report is None or not report.gpus:
            tried = [settings, replace(settings, repack=False)]  # a repacked copy is the system's no longer
        elif not self._metal and (settings.n_cpu_moe or not self._all_layers(settings)):
            host = report.host
            pinned = (
                host.available_mib - host.needed_mib - host.evictable_mib - self.limits.host_keep_free_mib
            )
            tried = [replace(settings, load_mode="none")] if pinned >= 0 else []
            tried.append(settings)
        else:
            tried = [settings]
        fitting = []
        for one in tried:
            seen = report if report is not None and one == settings else self._report(one)
            left = left_mib(seen, self.limits)
            if min(left.values()) >= 0:
                fitting.append((one, seen, left))
                if not seen.host.paged_mib:
                    break
        if not fitting:
            return None
        one, seen, left = min(fitting, key=lambda found: found[1].host.paged_mib)
        speed = self._forecast(one, seen)
        return None if speed is None else Option(one, seen, speed, left)

    # -- shared

    def _report(self, settings: Settings) -> MemoryReport:
        found = self.reports.get(settings)
        if found is None:
            found = memory_report(self.model, settings, self.machine, extras=self.limits.extras)
            self.reports[settings] = found
        return found

    def _forecast(self, settings: Settings, report: MemoryReport) -> Forecast | None:
        if settings not in self.forecasts:
            self.forecasts[settings] = self._new_forecast(settings, report)
        return self.forecasts[settings]

    def _new_forecast(self, settings: Settings, report: MemoryReport) -> Forecast | None:
        found = forecast(self.model, settings, self.machine, self.profile, report=report)
        if found is not None and self.profile is not None and found.source != "measured":
            return None  # a guess beside measurements would compare badly
        return found

    def with_prompt_cache(self, option: Option) -> Option:
        """Give the server's cache of finished prompts what main memory has to spare."""
        host = option.report.host
        spare = option.left_mib["Host"] - host.evictable_mib
        mib = min(int(spare // _PROMPT_CACHE_STEP) * _PROMPT_CACHE_STEP, _PROMPT_CACHE_MIB)
        if mib <= 0:
            return option
        settings = replace(option.settings, cache_ram=mib)
        report = self._report(settings)
        return replace(option, settings=settings, report=report, left_mib=left_mib(report, self.limits))

    def with_best_threads(self, option: Option) -> Option:
        """Take another number of threads where that was measured to be faster."""
        rates: tuple[tuple[str, Objective], ...] = (("threads", "decode"), ("threads_batch", "prefill"))
        for setting, rate in rates:
            for count in sorted({cost.threads for cost in self.profile.costs} if self.profile else ()):
                if not 0 < count < self.machine.cpu.usable_cores:
                    continue
                settings = option.settings.replace(**{setting: count})
                speed = self._forecast(settings, option.report)
                other = None if speed is None else replace(option, settings=settings, forecast=speed)
                if other is not None and other.rate(rate) > _FASTER * option.rate(rate):
                    option = other
        return option

    def _with_part_of_a_layer(self, option: Option) -> Option:
        """Put a part of one more layer's experts on the GPU, where that helps."""
        n = option.settings.n_cpu_moe or 0
        layer = n - 1
        if (
            not self.whole(option)
            or not option.report.gpus
            or n == 0
            or option.paged
            or not self.weights.sums[layer][0]
        ):
            return option
        sizes = {entry.role: entry.on_gpu / MIB for entry in self.weights.layers[layer] if entry.is_expert}
        room = max(mib for name, mib in option.left_mib.items() if name != "Host")
        if not {"ffn_up_exps", "ffn_gate_exps", "ffn_down_exps"} <= set(sizes):
            return option
        for kept, moved in (("gate", ("up", "down")), ("(up|gate)", ("down",))):
            if sum(sizes[f"ffn_{role}_exps"] for role in moved) > room:
                continue
            pattern = rf"blk\.{layer}\.ffn_{kept}_exps=CPU"
            settings = replace(option.settings, n_cpu_moe=layer, override_tensor=(pattern,))
            report = self._report(settings)
            left = left_mib(report, self.limits)
            if min(left.values()) < 0:
                continue
            speed = self._forecast(settings, report)
            if speed is not None and speed.decode_tok_s.expected > _FASTER * option.rate("decode"):
                return Option(settings, report, speed, left)
        return option


def _order(filling: Filling) -> tuple[int, int]:
    """Return what makes a placement better than another: more layers on GPUs, then more experts."""
    return filling.n_gpu_layers, -filling.n_cpu_moe
