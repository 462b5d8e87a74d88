"""From measured costs to tokens per second, for any settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.profile import Profile
    from kimi_nb.plan.settings import Settings

__all__ = ["forecast_from"]


def forecast_from(profile: Profile, model: Model, settings: Settings, machine: Machine) -> Any:
    """Return how fast a model will be; see :func:`kimi_nb.plan.profile.forecast_from`."""
    raise NotImplementedError
