"""The dashboard: plan, download, server and chat together, each using what was chosen in the one before."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from kimi_nb.files import at_home
from kimi_nb.model import catalog
from kimi_nb.panel import nodes as n
from kimi_nb.panel.chat_panel import ChatPanel, finder
from kimi_nb.panel.download_panel import DownloadPanel
from kimi_nb.panel.plan_panel import PlanPanel
from kimi_nb.panel.server_panel import ServerPanel
from kimi_nb.panel.still import mimebundle
from kimi_nb.panel.widget import is_headless

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kimi_nb.machine import Machine
    from kimi_nb.panel.widget import Panel
    from kimi_nb.plan import Settings

__all__ = ["Dashboard"]

_HERE = files("kimi_nb.panel")
_LONGEST = 44


class Dashboard(anywidget.AnyWidget):
    """See :func:`kimi_nb.panel.dashboard`.

    Attributes:
        plan: The plan panel.
        download: The download panel; it follows the plan's model.
        server: The server panel; it serves what the plan says, from where the download put it.
        chat: The chat panel; it talks to the server that the server panel shows.
        names: What the tabs are called.
        said: How each stands, in a few words.
    """

    _esm = _HERE.joinpath("dashboard.js").read_text(encoding="utf-8")
    _css = _HERE.joinpath("panel.css").read_text(encoding="utf-8")
    panels = traitlets.List(traitlets.Instance(ipywidgets.Widget)).tag(
        sync=True, **ipywidgets.widget_serialization
    )
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    said = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        model: str | Path = "nano",
        quant: str | None = None,
        *,
        machine: str | Path | Machine | None = None,
        saved: str | Path | None = None,
        settings: Settings | None = None,
        folder: str | Path | None = None,
        endpoint: str | None = None,
        tools: Sequence[Any] = (),
    ) -> None:
        self.plan = PlanPanel(model, quant, machine=machine, saved=saved)
        key, chosen = self._to_fetch()
        self.download = DownloadPanel(key, chosen, folder=folder, endpoint=endpoint)
        self.server = ServerPanel(self.plan, settings=settings)
        self.chat = ChatPanel(finder(self.server), tools=tools, folder=".")
        self._said_lock = threading.Lock()
        super().__init__(
            panels=[self.plan, self.download, self.server, self.chat],
            names=["1. Plan", "2. Download", "3. Server", "4. Chat"],
            said=["", "", "", ""],
        )
        # Only ever from left to right, or in a thread of its own: two panels must not wait for each other.
        self.plan.observe(lambda _change: self._follow_plan(), "chosen")
        self.download.observe(lambda _change: self._follow_download(), "view")
        self.server.observe(lambda _change: self._follow_server(), "served")
        for panel in self._all:
            panel.observe(lambda _change: self._say(), "view")
        self._follow_download()
        self._say()

    def open(self) -> None:
        """Tell the browser of it, where there is one."""
        if not is_headless():
            super().open()

    @property
    def _all(self) -> tuple[Panel, ...]:
        return self.plan, self.download, self.server, self.chat

    def _to_fetch(self) -> tuple[str | None, str | None]:
        """Return the plan's model and quant, where they are to be downloaded."""
        key, quant = self.plan.chosen["source"], self.plan.chosen["quant"]
        known = catalog().models
        return (key, quant) if key in known and known[key].quants else (None, None)

    def _follow_plan(self) -> None:
        key, quant = self._to_fetch()
        now = self.download.chosen
        if key is not None and (now["source"], now["quant"]) != (key, quant):
            self.download.choose(source=key, quant=quant)

    def _follow_download(self) -> None:
        self.server.models_folder = at_home(self.download.chosen["folder"])
        self.server.look_soon()

    def _follow_server(self) -> None:
        if not self.chat.busy:
            self.chat.press("look")

    def _say(self) -> None:
        with self._said_lock:
            self.said = [
                _short(self.plan, "verdict"),
                _short(self.download, "state") if self._to_fetch()[0] is not None else "Nothing to fetch",
                _short(self.server, "state"),
                _short(self.chat, "state"),
            ]

    def _repr_mimebundle_(self, **_given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return mimebundle(self, [panel.view["nodes"] for panel in self._all])


def _short(panel: Panel, key: str) -> str:
    """Return the first words of what a panel says of itself."""
    try:
        words = str(n.find(panel.view["nodes"], "text", key=key)["text"])
    except LookupError:
        return ""
    words = words.partition(". ")[0].partition(": ")[0].rstrip(".")
    return words if len(words) <= _LONGEST else words[: _LONGEST - 2].rstrip() + " …"
