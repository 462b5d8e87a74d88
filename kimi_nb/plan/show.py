"""Plans for notebooks, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.plan.memory_verdict import memory_report
from kimi_nb.plan.reasons import BOUNDS, gb, gib
from kimi_nb.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.planner import PlanResult
    from kimi_nb.plan.record import Plan
    from kimi_nb.plan.settings import Settings
    from kimi_nb.plan.speed import Forecast
    from kimi_nb.tables import Table

__all__ = ["alternatives_table", "contexts_table", "forecasts_table", "plan_table", "reasons_table"]


def contexts_table(model: Model, settings: Settings, machine: Machine, contexts: Sequence[int]) -> Table:
    """Return what a model takes on each device for several contexts, and whether that fits."""
    rows = []
    names: list[str] = []
    for tokens in contexts:
        report = memory_report(model, settings.replace(ctx_size=tokens), machine)
        short = ", ".join(f"{mib:,} MiB short on {name}" for name, mib in report.short_mib.items())
        needs = [gib(gpu.needed_mib) for gpu in report.gpus]
        host = report.host
        needs.append(f"{gib(host.needed_mib)}, and {gib(host.evictable_mib)} of the file")
        names = [gpu.name for gpu in report.gpus]
        rows.append((f"{tokens:,}", *needs, short or "fits"))
    return table(["context in tokens", *names, "main memory", "verdict"], rows, caption=model.name)


def plan_table(result: PlanResult) -> Table:
    """Return the plan in a few rows; where there is none, why, and what would help."""
    plan = result.plan
    if plan is None:
        rows = [("why nothing runs", text) for text in result.reasons]
        rows += [("what would help", text) for text in result.what_would_fit]
        return table(["", "there is no plan"], rows)
    forecast, settings = plan.forecast, plan.settings
    rows = [
        ("download", f"{plan.model.quant}, {gb(plan.model.file_bytes)}"),
        ("context", f"{settings.ctx_size or plan.model.context_length:,} tokens"),
        ("writes", _speed(str(forecast.decode_tok_s), forecast.decode_bound)),
        ("reads a prompt", _speed(str(forecast.prefill_tok_s), forecast.prefill_bound)),
        ("these speeds are", "; ".join(forecast.notes) or forecast.source),
        *(("mind", text) for text in plan.warnings),
        *(("to avoid the disk", text) for text in result.what_would_fit),
    ]
    return table(["", "the plan"], rows, caption=f"{plan.model.title} on {plan.machine}")


def reasons_table(plan: Plan) -> Table:
    """Return why the plan is as it is."""
    rows = [(str(number), text) for number, text in enumerate(plan.reasons, 1)]
    return table(["", "reason"], rows, caption="Why so")


def alternatives_table(result: PlanResult) -> Table:
    """Return what else could be had, and for what."""
    rows = [
        (plan.model.quant, f"{plan.settings.ctx_size or plan.model.context_length:,}", plan.reasons[0])
        for plan in result.alternatives
    ]
    columns = ["quant", "context", "what it gives and costs"]
    return table(columns, rows or [("none", "", "nothing else is much better at anything")])


def forecasts_table(forecasts: Mapping[str, Forecast]) -> Table:
    """Return several forecasts beside each other."""
    rows = [
        (name, str(one.decode_tok_s), str(one.prefill_tok_s), one.source) for name, one in forecasts.items()
    ]
    return table(["", "writes, tokens/s", "reads, tokens/s", "how it is known"], rows)


def _speed(band: str, bound: str) -> str:
    return f"{band} tokens/s; held back by {BOUNDS.get(bound, bound)}"
