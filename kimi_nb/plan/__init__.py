"""Deciding how a model is run: llama.cpp's settings, the memory they take, the speed to expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.plan.limits import Limits
    from kimi_nb.plan.memory import Demand, GpuRoom, demands
    from kimi_nb.plan.memory_verdict import Extras, MemoryReport, memory_report
    from kimi_nb.plan.planner import PlanResult, make_plan
    from kimi_nb.plan.record import Plan
    from kimi_nb.plan.settings import Settings
    from kimi_nb.plan.speed import Band, Forecast, forecast

__all__ = [
    "Band",
    "Demand",
    "Extras",
    "Forecast",
    "GpuRoom",
    "Limits",
    "MemoryReport",
    "Plan",
    "PlanResult",
    "Settings",
    "demands",
    "forecast",
    "make_plan",
    "memory_report",
]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Band": "speed",
        "Demand": "memory",
        "Extras": "memory_verdict",
        "Forecast": "speed",
        "GpuRoom": "memory",
        "Limits": "limits",
        "MemoryReport": "memory_verdict",
        "Plan": "record",
        "PlanResult": "planner",
        "Settings": "settings",
        "demands": "memory",
        "forecast": "speed",
        "make_plan": "planner",
        "memory_report": "memory_verdict",
    },
)
