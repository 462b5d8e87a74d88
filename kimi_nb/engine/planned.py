"""From a saved plan to what a server is started with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from kimi_nb.plan import Settings
    from kimi_nb.plan.record import PlannedModel

__all__ = ["place_of", "planned"]


def planned(file: Path, model: str | None = None, changes: Settings | None = None) -> tuple[str, Settings]:
    """Return the model and the settings of a saved plan.

    Args:
        file: What ``kimi-nb plan --save`` wrote.
        model: Another place where the model lies: a file, or ``nano``.
        changes: Settings that are to be others than the plan's.

    Returns:
        ``nano`` or the model's file, and the settings.

    Raises:
        UsageError: KNB540, the model is not on this machine; or as from ``Plan.load``.
    """
    from kimi_nb.plan.record import Plan

    plan = Plan.load(file)
    settings = plan.settings if changes is None else plan.settings.replace(**changes.to_dict())
    return model or place_of(plan.model), settings


def place_of(model: PlannedModel, folder: Path | None = None) -> str:
    """Return where a planned model lies: ``nano``, or its file, as planned or as downloaded since.

    Args:
        model: As the plan says.
        folder: The models folder; :func:`kimi_nb.files.models_home` by default.

    Raises:
        UsageError: KNB540, it is not on this machine.
    """
    from kimi_nb.engine.download import first_shard
    from kimi_nb.engine.fetch.shelf import Shelf

    key, quant, repo, file = model.key, model.quant, model.repo, model.file
    if key == "nano":
        return "nano"
    if Path(file).is_file():
        return file
    known = Shelf(folder).find(repo, quant) if repo is not None else None
    if known is not None and known.complete:
        return str(first_shard(known))
    fetch = (
        f"Run `kimi-nb download --model {key} --quant {quant}` first, or" if key else "Correct the path, or"
    )
    raise UsageError(
        "KNB540",
        f"the model of the plan, {Path(file).name}, is not here",
        why="the plan was made before it was downloaded, or on another machine",
        fix=f"{fetch} name its file with --model.",
    )
