"""What can be chosen in the download panel, and what that stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home
from kimi_nb.model import catalog
from kimi_nb.panel import nodes as n

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.panel.nodes import Node

__all__ = ["GIVEN", "PLAN", "REPO", "controls", "limit_of", "possible", "target_of"]

REPO, PLAN, GIVEN = "a repository", "a saved plan", "as given"
_LIMITS = {"": None, "5": 5e6, "20": 20e6, "50": 50e6, "100": 100e6, "500": 500e6}
_LONGEST = 4096


def possible(chosen: Mapping[str, object]) -> dict[str, str]:
    """Return what was chosen as texts, each of them one that can be."""
    found = {key: str(value)[:_LONGEST].replace("\0", "") for key, value in chosen.items()}
    models = catalog().models
    if found["source"] not in {*models, REPO, PLAN}:
        found["source"] = REPO
    quants = models[found["source"]].quants if found["source"] in models else ()
    names = [f"{quant.publisher}/{quant.name}" for quant in quants]
    wanted = found["quant"].lower()
    fitting = [name for name in names if wanted in {name.lower(), name.partition("/")[2].lower()}]
    found["quant"] = (fitting or names or [""])[0]
    if found["limit"] not in {*_LIMITS, GIVEN}:
        found["limit"] = ""
    return found


def limit_of(chosen: Mapping[str, str], given: float | None) -> float | None:
    """Return the most bytes a second; ``given`` is what the panel was called with."""
    return given if chosen["limit"] == GIVEN else _LIMITS[chosen["limit"]]


def target_of(chosen: Mapping[str, str]) -> tuple[str, str | None]:
    """Return model and quant as :func:`kimi_nb.engine.download.download` takes them.

    Raises:
        UsageError: Nothing is named that could be downloaded.
    """
    if chosen["source"] == PLAN:
        from kimi_nb.plan import Plan

        planned = Plan.load(at_home(chosen["plan"])).model
        if planned.repo is None:
            raise UsageError(
                "KNB980",
                f"the plan's model, {planned.title}, is not to be downloaded",
                why="it was planned from a file, and the plan names no repository",
                fix="Plan a model of the catalog, or choose one here.",
            )
        return planned.repo, planned.quant
    if chosen["source"] == REPO:
        if not chosen["repo"].strip() or not chosen["repo_quant"].strip():
            raise UsageError(
                "KNB980",
                "no model was chosen yet",
                why="a repository and the name of a quant in it are needed",
                fix="Such as unsloth/Kimi-K2.5-GGUF and UD-TQ1_0.",
            )
        return chosen["repo"].strip(), chosen["repo_quant"].strip()
    return chosen["source"], chosen["quant"] or None


def controls(chosen: Mapping[str, str], given: float | None, *, busy: bool) -> list[Node]:
    """Return the controls to choose with."""
    source = chosen["source"]
    models = [(key, one.name) for key, one in catalog().models.items() if one.quants or key == source]
    options = [*models, (REPO, "A repository of the Hub"), (PLAN, "What a saved plan says")]
    items = [n.select("source", "Model", source, options)]
    if source == REPO:
        items.append(n.field("repo", "Repository", chosen["repo"], hint="Such as unsloth/Kimi-K2.5-GGUF."))
        items.append(n.field("repo_quant", "Quant", chosen["repo_quant"], hint="Such as UD-TQ1_0."))
    elif source == PLAN:
        hint = "As saved by the plan panel or kimi-nb plan."
        items.append(n.field("plan", "Plan file", chosen["plan"], hint=hint))
    elif quants := catalog().model(source).quants:
        names = [(f"{q.publisher}/{q.name}", f"{q.name}, {q.size} ({q.publisher})") for q in quants]
        items.append(n.select("quant", "Quant", chosen["quant"], names))
    hint = "The models folder: on a disk with room."
    items.append(n.field("folder", "Folder", chosen["folder"], hint=hint))
    limits = [(key, f"{key} MB/s at most" if key else "No limit") for key in _LIMITS]
    if given is not None:
        limits.append((GIVEN, f"{given / 1e6:g} MB/s at most, as given"))
    why = "Pause first: it counts from the next start on." if busy else ""
    items.append(n.select("limit", "Speed", chosen["limit"], limits, disabled=why))
    return items
