"""What a server is to be started with, from what was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kimi_nb.engine.detached import serve_words
from kimi_nb.engine.llama_server import SLOT_CTX
from kimi_nb.engine.planned import place_of, planned
from kimi_nb.engine.server_command import check_port
from kimi_nb.errors import UsageError
from kimi_nb.files import at_home
from kimi_nb.panel import nodes as n
from kimi_nb.panel.words import tokens
from kimi_nb.plan import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimi_nb.panel.nodes import Node
    from kimi_nb.plan.record import PlannedModel

__all__ = [
    "DOWNLOADED",
    "FILE",
    "NANO",
    "PANEL",
    "PLAN",
    "SOURCES",
    "Planning",
    "Wanted",
    "controls",
    "downloaded",
    "source_of",
    "wanted",
]

NANO, DOWNLOADED, FILE, PLAN, PANEL = "nano", "set", "file", "plan", "panel"
SOURCES = {
    NANO: "nano, the small model that comes with kimi-nb",
    DOWNLOADED: "A model that was downloaded",
    FILE: "A GGUF file of mine",
    PLAN: "A saved plan",
    PANEL: "What the plan panel shows",
}


class Planning(Protocol):
    """A plan panel, as far as a server has to know it."""

    @property
    def settings(self) -> Settings:
        """The settings that it shows."""

    @property
    def planned_model(self) -> PlannedModel:
        """The model that it plans for."""

    @property
    def alias(self) -> str:
        """What the model is to be called."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to start.

    Attributes:
        model: A file, or ``nano``.
        alias: The name that clients ask for; None for the file's.
        settings: How llama.cpp is to run it.
        port: 0 for a free one.
        restart: Whether it is started again when it ends by itself.
    """

    model: str
    alias: str | None
    settings: Settings
    port: int = 0
    restart: bool = False

    @property
    def path(self) -> Path:
        """The model's file.

        Raises:
            ModelFileError: nano is damaged.
        """
        if self.model != NANO:
            return at_home(self.model).absolute()
        from kimi_nb.nano import nano_path

        return nano_path()

    @property
    def said(self) -> str:
        """It in words."""
        slots = self.settings.parallel or 1
        ctx = self.settings.ctx_size or SLOT_CTX * slots
        parts = [f"{tokens(ctx)} of context", f"{slots} slot{'' if slots == 1 else 's'}"]
        if self.settings.threads:
            parts.append(f"{self.settings.threads} thread{'' if self.settings.threads == 1 else 's'}")
        return f"{self.alias or Path(self.model).name}: {', '.join(parts)}."

    def words(self, name: str) -> list[str]:
        """Return the options of ``kimi-nb serve`` that start it, under a name or under one of its choice."""
        return serve_words(
            self.model if self.model == NANO else self.path,
            self.settings,
            name=name or None,
            alias=self.alias,
            port=self.port,
            restart=self.restart,
        )


def source_of(given: str | Path | Planning) -> dict[str, str]:
    """Return the choices that a call's first argument stands for."""
    if not isinstance(given, str | Path):
        return {"source": PANEL}
    text = str(given)
    if text == NANO:
        return {"source": NANO}
    return {"source": PLAN, "plan": text} if text.endswith(".json") else {"source": FILE, "file": text}


def downloaded(folder: Path | None = None) -> dict[str, Path]:
    """Return the models in a models folder that are complete: the first file of each, by the set's name."""
    from kimi_nb.engine.download import first_shard
    from kimi_nb.engine.fetch.shelf import Shelf

    return {entry.manifest.name: first_shard(entry) for entry in Shelf(folder).entries() if entry.complete}


def controls(chosen: Mapping[str, Any], sets: Sequence[str], *, planning: bool) -> list[Node]:
    """Return the controls to choose what is served.

    Args:
        chosen: The panel's choices.
        sets: The models that were downloaded.
        planning: Whether there is a plan panel.
    """
    source = chosen["source"]
    options = [(key, words) for key, words in SOURCES.items() if planning or key != PANEL]
    found = [n.select("source", "Model", source, options)]
    if source == DOWNLOADED and sets:
        found.append(n.select("set", "Which of them", chosen["set"], [(name, name) for name in sets]))
    elif source == FILE:
        hint = "Of its first shard, if it has several."
        found.append(n.field("file", "Path of the file", str(chosen["file"]), hint=hint))
    elif source == PLAN:
        hint = "As the plan panel or kimi-nb plan --save wrote it."
        found.append(n.field("plan", "File of the plan", str(chosen["plan"]), hint=hint))
    return found


def wanted(
    chosen: Mapping[str, Any],
    planning: Planning | None,
    changes: Settings | None,
    folder: Path | None = None,
) -> Wanted:
    """Return what the choices stand for.

    Args:
        chosen: The panel's choices.
        planning: The plan panel, where there is one.
        changes: Settings that the call gave; they stand above a plan's.
        folder: The models folder, where it is not the usual one.

    Raises:
        UsageError: KNB970, no file is named; or the plan or a setting cannot be used.
    """
    source, alias = chosen["source"], None
    settings = changes or Settings()
    if source == PANEL and planning is not None:
        model, alias = place_of(planning.planned_model, folder), planning.alias
        settings = planning.settings.replace(**(changes.to_dict() if changes else {}))
    elif source == NANO:
        model = NANO
    elif source == DOWNLOADED:
        found = downloaded(folder).get(chosen["set"])
        if found is None:
            why, fix = "none was chosen, or it was removed", "Choose one, or download one first."
            raise UsageError("KNB971", "there is no such model here", why=why, fix=fix)
        model = str(found)
    else:
        file = str(chosen[source]).strip()
        if not file:
            why = "there is nothing in the field"
            raise UsageError("KNB970", "no file is named yet", why=why, fix="Type the path of one.")
        model = file
        if source == PLAN:
            model, settings = planned(Path(file), changes=changes)
    return Wanted(
        model=model,
        alias=NANO if model == NANO else alias,
        settings=settings,
        port=check_port(chosen["port"]),
        restart=bool(chosen["restart"]),
    )
