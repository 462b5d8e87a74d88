"""The pictures of a plan: memory by device and kind, and what speed depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_nb.plan.drawing import Bars, Curve, Part
from kimi_nb.plan.memory_verdict import memory_report
from kimi_nb.plan.memory_weights import weights_of
from kimi_nb.plan.speed import forecast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.profile import Profile
    from kimi_nb.plan.record import Plan
    from kimi_nb.plan.settings import Settings
    from kimi_nb.plan.speed import Forecast

__all__ = ["decode_figure", "memory_figure", "prefill_figure"]

_KINDS = (
    ("weights", "#2166ac", ""),
    ("context", "#1b7837", "/"),
    ("buffers", "#b35806", "."),
    ("other", "#762a83", "x"),
)
_ROOMY_MIB = 1 << 21
_STEPS = (64, 128, 256, 512, 1024, 2048, 4096)


def memory_figure(plan: Plan) -> Bars:
    """Draw what each device holds against what is free there."""
    memory, host = plan.memory, plan.memory.host
    other = host.extra_mib + (host.prompt_cache_mib or 0.0)
    rows = [
        (gpu.name, (gpu.model_mib, gpu.context_mib, gpu.compute_mib, gpu.extra_mib), gpu.free_mib)
        for gpu in memory.gpus
    ]
    rows.append(
        ("main memory", (host.model_mib, host.context_mib, host.compute_mib, other), host.available_mib)
    )
    kinds = [name for name, _, _ in _KINDS]
    words = []
    for _, parts, free in rows:
        said = ", ".join(f"{name} {mib / 1024:.1f}" for name, mib in zip(kinds, parts, strict=True))
        words.append(f"{said}: {sum(parts) / 1024:.1f} of {free / 1024:.1f} GiB")
    if host.paged_mib:
        words[-1] += f"; {host.paged_mib / 1024:.1f} GiB are read from disk again and again"
    return Bars(
        title=f"{plan.model.title} on {plan.machine}: memory",
        rows=tuple(name for name, _, _ in rows),
        words=tuple(words),
        parts=tuple(
            Part(name, colour, pattern, tuple(100 * parts[at] / max(free, 1.0) for _, parts, free in rows))
            for at, (name, colour, pattern) in enumerate(_KINDS)
        ),
        limit="all that is free",
    )


def decode_figure(plan: Plan, model: Model, machine: Machine, profile: Profile | None = None) -> Curve:
    """Draw how fast it writes by how many layers' experts the GPU keeps; without a GPU, by threads."""
    # The prompt cache takes what is left of main memory; when experts come back there, it gives way.
    settings = replace(plan.settings, cache_ram=0)
    title = f"{plan.model.title} on {plan.machine}: writing"
    if not plan.memory.gpus:
        ways = [(n, replace(settings, threads=n)) for n in _powers(machine.cpu.usable_cores)]
        chosen = float(settings.threads or machine.cpu.usable_cores)
        return _curve(title, "processor threads", ways, chosen, (model, machine, profile))
    layers = [number for number, sums in enumerate(weights_of(model).sums) if sums[0]]
    first, count = (layers[0] if layers else 0), len(layers)
    plain = replace(settings, override_tensor=None, load_mode="mmap")
    ways = [(kept, replace(plain, n_cpu_moe=_cpu_moe(first, count, kept))) for kept in range(count + 1)]
    kept = count - max((settings.n_cpu_moe or 0) - first, 0)
    if settings.override_tensor:  # the layer that is only partly there does not count
        kept -= 1
    return _curve(title, "layers whose experts the GPU keeps", ways, float(kept), (model, machine, profile))


def prefill_figure(plan: Plan, model: Model, machine: Machine, profile: Profile | None = None) -> Curve:
    """Draw how fast it reads a prompt by how many tokens it takes in one step."""
    settings = plan.settings
    ways = [
        (step, replace(settings, ubatch_size=step, batch_size=max(step, settings.batch_size or step)))
        for step in _STEPS
        if step <= (settings.ctx_size or model.context_length)
    ]
    return _curve(
        f"{plan.model.title} on {plan.machine}: reading a prompt",
        "tokens in a step (--ubatch-size)",
        ways or [(settings.ubatch_size or 1, settings)],
        float(settings.ubatch_size or 0),
        (model, machine, profile),
        reading=True,
    )


def _curve(
    title: str,
    x_name: str,
    ways: Iterable[tuple[int, Settings]],
    chosen: float,
    where: tuple[Model, Machine, Profile | None],
    *,
    reading: bool = False,
) -> Curve:
    """Draw the forecast of each way; what this machine's GPUs have no room for, as if they had."""
    model, machine, profile = where
    roomy = replace(
        machine,
        gpus=tuple(
            replace(gpu, total_mib=gpu.total_mib + _ROOMY_MIB, free_mib=gpu.free_mib + _ROOMY_MIB)
            for gpu in machine.gpus
        ),
    )
    xs: list[float] = []
    found: list[Forecast] = []
    room, short = -1.0, ""
    for x, settings in ways:
        report = memory_report(model, settings, machine)
        there = machine if report.fits else roomy
        speed = forecast(model, settings, there, profile)
        if speed is None:
            continue
        if report.fits:
            room = float(x)
        elif not short:
            name, mib = next(iter(report.short_mib.items()))
            short = f"; hollow: there is no room for it, {x:,} lacks {mib:,} MiB on {name}"
        xs.append(float(x))
        found.append(speed)
    bands = [speed.prefill_tok_s if reading else speed.decode_tok_s for speed in found]
    return Curve(
        title=title,
        x_name=x_name,
        y_name="tokens/s",
        x=tuple(xs),
        low=tuple(band.low for band in bands),
        expected=tuple(band.expected for band in bands),
        high=tuple(band.high for band in bands),
        chosen=chosen,
        room=room if short else None,
        note=(found[0].source if found else "nothing runs") + short,
    )


def _cpu_moe(first: int, count: int, kept: int) -> int:
    """Return ``n_cpu_moe``, which counts dense layers, that keeps the experts of the last ``kept`` layers."""
    return 0 if kept == count else first + count - kept


def _powers(most: int) -> list[int]:
    found = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < most]
    return [*found, most]
