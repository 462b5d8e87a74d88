"""A plan, or an estimate, as lines for a person who has never run a model of this size."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.plan.reasons import gb
from kimi_nb.shell_words import by_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimi_nb.plan.memory_verdict import MemoryReport
    from kimi_nb.plan.planner import PlanResult
    from kimi_nb.plan.record import Plan
    from kimi_nb.plan.speed import Band, Forecast

__all__ = ["plan_lines", "report_lines"]

_WIDTH = 79
_BOUNDS = {
    "cpu": "the processor",
    "ram": "main memory",
    "pcie": "the way to the GPU",
    "gpu": "the GPU",
    "disk": "the disk",
}


def plan_lines(result: PlanResult, saved_as: str | None = None) -> list[str]:
    """Describe what came of planning.

    Args:
        result: The result.
        saved_as: The file that the plan was written to.
    """
    plan = result.plan
    if plan is None:
        lines = _wrapped("Nothing runs here as asked.", "")
        return [*lines, *_listed("Why", result.reasons), *_listed("What would", result.what_would_fit)]
    return [
        f"{plan.model.title} ({gb(plan.model.file_bytes)}) on {plan.machine}",
        "",
        *_speed(plan.forecast),
        f"  context {plan.settings.ctx_size or plan.model.context_length:>8,} tokens",
        "",
        *_memory(plan),
        *_listed("Mind", plan.warnings),
        *_listed("Why so", [*plan.reasons, *result.reasons]),
        *_listed("What would avoid the disk", result.what_would_fit),
        *_listed("Instead you could have", [_alternative(one) for one in result.alternatives]),
        "",
        "Start it",
        *_start(plan, saved_as),
    ]


def report_lines(report: MemoryReport, forecast: Forecast | None) -> list[str]:
    """Describe what settings take, to the MiB, the verdict, and how fast it should be.

    Args:
        report: The memory.
        forecast: The speed; None where it does not fit.
    """
    host = report.host
    lines = [
        f"{'MiB':<8}{'model':>10}{'context':>10}{'compute':>10}{'other':>10}{'needed':>10}{'there':>10}",
        *(
            _mib_row(
                gpu.name,
                (
                    gpu.model_mib,
                    gpu.context_mib,
                    gpu.compute_mib,
                    gpu.extra_mib,
                    gpu.needed_mib,
                    gpu.free_mib,
                ),
            )
            for gpu in report.gpus
        ),
        _mib_row(
            "Host",
            (
                host.model_mib,
                host.context_mib,
                host.compute_mib,
                host.extra_mib + (host.prompt_cache_mib or 0.0),
                host.needed_mib,
                host.available_mib,
            ),
        ),
    ]
    other = "the server's cache of finished prompts (--cache-ram)"
    if report.gpus:
        other = f"CUDA itself, what its kernels borrow, a vision part; on the host {other}"
    lines += _wrapped(f"(other, which llama.cpp does not count: {other})", "")
    if host.evictable_mib:
        mapped = f"{host.evictable_mib:,} MiB of the host's model are pages of the file"
        lines += _wrapped(f"({mapped}: not needed at once, for the system can drop and read them again)", "")
    for name, short in report.short_mib.items():
        lines.append(f"does not fit: {short} MiB ({short / 1024:.1f} GiB) short on {name}")
    if report.fits and host.paged_mib:
        paged = f"{host.paged_mib:,.0f} MiB of the weights in main memory find no room"
        lines += _wrapped(f"fits, but slowly: {paged} and are read from disk again and again", "")
    elif report.fits:
        lines.append("fits")
    return lines if forecast is None else [*lines, *_speed(forecast)]


def _mib_row(name: str, figures: Iterable[float]) -> str:
    return f"{name:<8}" + "".join(f"{round(mib):>10}" for mib in figures)


def _speed(forecast: Forecast) -> list[str]:
    rows = [
        ("writes", forecast.decode_tok_s, forecast.decode_bound),
        ("reads", forecast.prefill_tok_s, forecast.prefill_bound),
    ]
    return [
        *(
            f"  {verb:<8}{_figure(band)} tokens/s   held back by {_BOUNDS.get(bound, bound)}"
            for verb, band, bound in rows
        ),
        *_wrapped(f"({'; '.join(forecast.notes)})" if forecast.notes else "", "  "),
    ]


def _figure(band: Band) -> str:
    middle, _, between = str(band).partition(" ")
    return f"{middle:>8} {between:<16}"


def _memory(plan: Plan) -> list[str]:
    """Return a table of GiB: what is where, beside what is there."""
    memory, host = plan.memory, plan.memory.host
    rows = [
        (gpu.name, gpu.model_mib, gpu.context_mib, gpu.compute_mib, gpu.extra_mib, gpu.free_mib)
        for gpu in memory.gpus
    ]
    other = host.extra_mib + (host.prompt_cache_mib or 0.0)
    rows.append(
        ("main memory", host.model_mib, host.context_mib, host.compute_mib, other, host.available_mib)
    )
    lines = [
        f"  {'GiB':<12}{'weights':>9}{'context':>9}{'buffers':>9}{'other':>9}{'in all':>9}{'free now':>10}"
    ]
    for name, *parts, free in rows:
        cells = "".join(f"{mib / 1024:>9.1f}" for mib in [*parts, sum(parts)])
        lines.append(f"  {name:<12}{cells}{free / 1024:>9.1f}")
    return lines


def _alternative(plan: Plan) -> str:
    return f"{plan.model.quant}: {plan.reasons[0]}"


def _start(plan: Plan, saved_as: str | None) -> list[str]:
    lines = []
    if plan.model.key is not None and plan.model.repo is not None:
        lines.append(f"  kimi-nb download --model {plan.model.key} --quant {plan.model.quant}")
    words = [shlex.quote(word) for word in plan.argv]
    if lines and plan.model.file == Path(plan.model.file).name:  # downloaded, to a place that is asked for
        place = f'"$(kimi-nb models path {plan.model.quant})"'
        words[words.index(shlex.quote(plan.model.file))] = place
    if saved_as is not None:
        return [*lines, f"  kimi-nb serve --plan {shlex.quote(saved_as)}", *_command(words)]
    kept = "With --save FILE the plan is kept, and `kimi-nb serve --plan FILE` starts it."
    return [*lines, *_command(words), "", *_wrapped(kept, "")]


def _command(words: list[str]) -> list[str]:
    """Return a command over as many lines as it needs, to be pasted into a shell as it stands."""
    lines = ["  " + words[0]]
    for option in by_option(words[1:]):
        if len(lines[-1]) + len(option) + len(" " + " \\") <= _WIDTH:
            lines[-1] += " " + option
        else:
            lines[-1] += " \\"
            lines.append("      " + option)
    return lines


def _listed(title: str, texts: Iterable[str]) -> list[str]:
    lines = [line for text in texts for line in _wrapped(text, "  - ")]
    return ["", title, *lines] if lines else []


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent))
