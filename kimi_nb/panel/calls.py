"""One call for each panel; the widgets' libraries are loaded with the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kimi_nb.machine import Machine
    from kimi_nb.panel.plan_panel import PlanPanel

__all__ = ["plan"]


def plan(
    model: str | Path = "nano",
    quant: str | None = None,
    *,
    machine: str | Path | Machine | None = None,
    saved: str | Path | None = None,
) -> PlanPanel:
    """Show the plan panel: will it fit, with which settings, and how fast?

    Args:
        model: A key of the catalogue, such as ``kimi-k2.5``, ``nano``, or a GGUF file.
        quant: Which quant of the catalogue's model; its first by default.
        machine: A profile's name, a saved machine or its file; this machine by default.
        saved: A plan that was saved before, to start from; it says which model.

    Raises:
        UsageError: There is no such machine, or what was saved is no plan.
    """
    from kimi_nb.panel.plan_panel import PlanPanel

    return PlanPanel(model, quant, machine=machine, saved=saved)
