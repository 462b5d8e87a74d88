"""Deciding how a model is run: llama.cpp's settings, and the memory they take, before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.plan.memory import Demand, GpuRoom, demands
    from kimi_nb.plan.memory_verdict import Extras, MemoryReport, memory_report
    from kimi_nb.plan.settings import Settings

__all__ = [
    "Demand",
    "Extras",
    "GpuRoom",
    "MemoryReport",
    "Settings",
    "demands",
    "memory_report",
]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Demand": "memory",
        "Extras": "memory_verdict",
        "GpuRoom": "memory",
        "MemoryReport": "memory_verdict",
        "Settings": "settings",
        "demands": "memory",
        "memory_report": "memory_verdict",
    },
)
