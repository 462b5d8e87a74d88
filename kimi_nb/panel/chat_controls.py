"""The chat panel's settings and tools: what can be chosen, and what it means for a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.chat.snippets import LANGUAGES
from kimi_nb.panel import nodes as n

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kimi_nb.chat import Tool
    from kimi_nb.engine.endpoint import EngineKind
    from kimi_nb.model import CatalogModel
    from kimi_nb.model.catalog_records import Mode
    from kimi_nb.panel.nodes import Node

__all__ = ["MODEL", "MOST_TOKENS", "OWN", "STEADY", "SYSTEM", "options", "possible", "settings", "toolbox"]

MODEL, STEADY, OWN = "model", "steady", "own"
"""Ways to sample: as the model's card says, the likeliest token each time, the person's own."""

MOST_TOKENS = 1_000_000
SYSTEM = "System prompt (empty: the model's own)"
_FIXED = "Moonshot's API has its own sampling and refuses any other"


def possible(chosen: dict[str, Any], model: CatalogModel, tools: Collection[str]) -> dict[str, Any]:
    """Return what is chosen with everything replaced that cannot be."""
    modes = [mode.name for mode in model.modes]
    return {
        **chosen,
        "mode": _one_of(chosen["mode"], modes),
        "sampling": _one_of(chosen["sampling"], (MODEL, STEADY, OWN)),
        "temperature": _between(chosen["temperature"], 0.0, 2.0, 1.0),
        "top_p": _between(chosen["top_p"], 0.01, 1.0, 0.95),
        "max_tokens": int(_between(chosen["max_tokens"], 0, MOST_TOKENS, 0)),
        "language": _one_of(chosen["language"], LANGUAGES),
        **{f"tool_{name}": chosen[f"tool_{name}"] is True for name in tools},
    }


def options(chosen: Mapping[str, Any], kind: EngineKind) -> dict[str, Any]:
    """Return what is chosen as options of a request."""
    heat = top = None
    if kind != "moonshot" and chosen["sampling"] == STEADY:
        heat = 0.0
    elif kind != "moonshot" and chosen["sampling"] == OWN:
        heat, top = chosen["temperature"], chosen["top_p"]
    most = chosen["max_tokens"] or None
    return {"mode": chosen["mode"], "max_tokens": most, "temperature": heat, "top_p": top}


def settings(chosen: Mapping[str, Any], system: Node, model: CatalogModel, kind: EngineKind | None) -> Node:
    """Return the settings; ``system`` is the text area for the system prompt."""
    fixed = kind == "moonshot"
    ways = [
        (MODEL, _sampling_words(model.mode(chosen["mode"]))),
        (STEADY, "The likeliest token each time: temperature 0"),
        (OWN, "My own"),
    ]
    items = [
        system,
        n.select("sampling", "Sampling", chosen["sampling"], ways, disabled=_FIXED if fixed else ""),
    ]
    if chosen["sampling"] == OWN and not fixed:
        heat = n.number("temperature", "Temperature", chosen["temperature"], low=0, high=2, step=0.01)
        top = n.number("top_p", "Top-p", chosen["top_p"], low=0.01, high=1, step=0.01)
        items.append(n.row([heat, top], key="own"))
    label = "Most tokens of a reply, thinking included (0: the engine's own limit)"
    items.append(n.number("max_tokens", label, chosen["max_tokens"], low=0, high=MOST_TOKENS))
    return n.fold("Settings", items, key="settings")


def toolbox(tools: Collection[Tool], chosen: Mapping[str, Any]) -> Node:
    """Return the tools to tick."""
    boxes = []
    for tool in tools:
        what = tool.description.split("\n")[0] or "no description"
        asks = " It asks you before each call." if tool.dangerous else ""
        boxes.append(n.check(f"tool_{tool.name}", f"{tool.name}: {what}{asks}", chosen[f"tool_{tool.name}"]))
    ticked = sum(box["value"] for box in boxes)
    return n.fold(f"Tools ({ticked} of {len(boxes)} may be used)", boxes, key="tools")


def _sampling_words(mode: Mode) -> str:
    sampling = mode.sampling
    given = [("top-p", sampling.top_p), ("min-p", sampling.min_p)]
    rest = "".join(f", {name} {value:g}" for name, value in given if value is not None)
    return f"The model card's for {mode.name}: temperature {sampling.temperature:g}{rest}"


def _one_of(value: Any, known: Collection[str]) -> str:
    return value if isinstance(value, str) and value in known else next(iter(known))


def _between(value: Any, low: float, high: float, otherwise: float) -> float:
    """Return a number within bounds; what is none is replaced."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return otherwise
    return value
