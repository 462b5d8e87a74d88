"""How fast a model will answer on a machine: always a band, never one number from a formula.

With a profile that was measured on the machine the band is narrow. Without one it comes from bandwidths
and core counts (:mod:`kimi_nb.plan.speed_guess`), is wide, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.memory_verdict import MemoryReport
    from kimi_nb.plan.profile import Profile
    from kimi_nb.plan.settings import Settings

__all__ = ["Band", "Forecast", "forecast"]


@dataclass(frozen=True)
class Band:
    """A figure that is not known exactly: it should lie between ``low`` and ``high``."""

    low: float
    expected: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.expected)} ({_short(self.low)} to {_short(self.high)})"

    def as_dict(self) -> dict[str, float]:
        """Return the band with two decimals."""
        return {"low": round(self.low, 2), "expected": round(self.expected, 2), "high": round(self.high, 2)}


@dataclass(frozen=True)
class Forecast:
    """What to expect of one request at a time.

    Attributes:
        decode_tok_s: Tokens written in a second, with a nearly empty context.
        prefill_tok_s: Tokens of a long prompt read in a second.
        decode_bound: What most of the time goes to: ``cpu`` (unpacking and multiplying), ``ram``, ``pcie``,
            ``gpu`` or ``disk``.
        prefill_bound: Likewise for the prompt.
        source: ``measured`` on this machine with a rehearsal, or ``estimated`` from what it has.
        notes: What a person should know beside the figures.
    """

    decode_tok_s: Band
    prefill_tok_s: Band
    decode_bound: str
    prefill_bound: str
    source: Literal["measured", "estimated"]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as ``--json`` prints it."""
        return {
            "decode_tok_s": {**self.decode_tok_s.as_dict(), "bound": self.decode_bound},
            "prefill_tok_s": {**self.prefill_tok_s.as_dict(), "bound": self.prefill_bound},
            "source": self.source,
            "notes": list(self.notes),
        }


def forecast(
    model: Model,
    settings: Settings,
    machine: Machine,
    profile: Profile | None = None,
    *,
    report: MemoryReport | None = None,
) -> Forecast | None:
    """Return how fast a model will be, or None where it does not fit and so will not run.

    Args:
        model: The model, from its header.
        settings: How it is run.
        machine: Where.
        profile: What was measured on that machine; without one, or where it does not cover model or settings,
            the band is wide.
        report: What it takes there, if that is known already.

    Raises:
        ModelFileError: KNB371, the model is not covered.
        UsageError: KNB370 or KNB372, a setting cannot be used or is not covered.
    """
    from kimi_nb.plan.memory_verdict import memory_report
    from kimi_nb.plan.speed_guess import guess

    report = report or memory_report(model, settings, machine)
    if not report.fits:
        return None
    notes: tuple[str, ...] = ()
    if profile is not None:
        from kimi_nb.plan.profile import forecast_from

        try:
            return forecast_from(profile, model, settings, machine, report=report)
        except UsageError as error:
            if error.id != "KNB842":
                raise
            notes = (f"what was measured does not serve: {error.why}",)
    found = guess(model, settings, machine, report)
    return replace(found, notes=(*notes, *found.notes))


def _short(x: float) -> str:
    return f"{x:,.0f}" if x >= 20 else f"{x:.1f}" if x >= 1 else f"{x:.2f}"  # noqa: PLR2004 - digits that mean something
