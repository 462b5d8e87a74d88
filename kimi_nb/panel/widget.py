"""The widget beneath every panel: it shows nodes, hears choices and buttons, and never raises at a person."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from kimi_nb.errors import KimiNbError
from kimi_nb.panel.patches import changes
from kimi_nb.panel.still import mimebundle

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from kimi_nb.panel.nodes import Node

__all__ = ["Panel", "is_headless"]

_HERE = files("kimi_nb.panel")
_MOST_TABS = 16
_RUNNERS = {"papermill", "jupyter-nbconvert", "jupyter-execute", "kimi_nb.run.worker"}


def is_headless() -> bool:
    """Whether this kernel was started by a program that runs notebooks, and not for a person.

    ``KIMI_NB_HEADLESS`` (0 or 1) says so outright; else the program that started the kernel is looked at.
    """
    said = os.environ.get("KIMI_NB_HEADLESS")
    if said is not None:
        return said != "0"
    import psutil

    try:
        starter = psutil.Process().parent()
        words = starter.cmdline() if starter is not None else []
    except psutil.Error:
        return False
    return any(Path(word).name in _RUNNERS for word in words[:4])


class Panel(anywidget.AnyWidget):
    """Something on the screen, kept by the kernel; every tab that shows it shows the same.

    Subclasses give :meth:`draw`, and methods named ``press_NAME`` for their buttons. All state is the
    kernel's: the browser sends what a person chose, and is sent what there is to see.

    Attributes:
        chosen: What has been chosen, by the name of its control.
        view: What is on the screen: ``nodes``, its ``number``, and for each tab the number of the newest
            message it contains. A browser is sent it once, and then only what changes.
    """

    _esm = _HERE.joinpath("panel.js").read_text(encoding="utf-8")
    _css = _HERE.joinpath("panel.css").read_text(encoding="utf-8")
    chosen = traitlets.Dict()
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        self._lock = threading.RLock()
        self._held = 0
        self._stale = False
        self._seen: dict[str, int] = {}
        #: The newest trouble, shown until the next thing is done.
        self.trouble: KimiNbError | None = None
        super().__init__()
        self.chosen = dict(chosen)
        self.on_msg(self._hear)
        self.observe(lambda _change: self.refresh(), "chosen")
        self.refresh()

    def open(self) -> None:
        """Tell the browser of this panel, where there is one."""
        if is_headless():
            return
        super().open()
        # ipykernel 7 sends what a browser says to the subshell that spoke last, as far as it can tell; of a
        # thread it cannot, and takes one that may be gone, and then the panel hears nothing any more. What is
        # said goes where it is addressed to.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda _data, subshell: subshell  # noqa: SLF001 - it has no other switch

    def draw(self) -> list[Node]:
        """Return what is to be seen now; called with the lock held."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Draw anew and show it."""
        with self._lock:
            if self._held:
                self._stale = True
                return
            number = self.view.get("number", 0) + 1
            self.view = {"nodes": self.draw(), "seen": dict(self._seen), "number": number}

    def notify_change(self, change: Any) -> None:
        """Send what has changed of the view instead of all of it, which may be a long conversation."""
        old = change["old"]
        if change["name"] != "view" or self.comm is None or not old:
            super().notify_change(change)
            return
        new = change["new"]
        news = changes(old["nodes"], new["nodes"])
        self.send({"after": old["number"], "number": new["number"], "seen": new["seen"], "changes": news})
        # Past ipywidgets' own method, which would send the whole.
        traitlets.HasTraits.notify_change(self, change)

    @contextmanager
    def at_once(self) -> Generator[None, None, None]:
        """Hold back drawing, so that several changes are shown as one."""
        with self._lock:
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1
                if not self._held and self._stale:
                    self._stale = False
                    self.refresh()

    def choose(self, **values: Any) -> None:
        """Choose as a person would with the controls of these names."""
        with self._lock:
            self.chosen = {**self.chosen, **values}

    def press(self, name: str, **fields: str) -> None:
        """Press a button.

        Args:
            name: The button's.
            fields: What stands in the panel's text areas.
        """
        with self.at_once():
            self._stale = True
            self.trouble = None
            try:
                getattr(self, f"press_{name}")(fields)
            except Exception as error:  # noqa: BLE001 - nobody sees what a button's press raises
                self.trouble = _trouble(error)

    def in_background(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Do ``work`` in a thread of its own; what it raises is shown as trouble."""

        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - nobody sees what a thread raises
                self.trouble = _trouble(error)
            finally:
                self.refresh()

        thread = threading.Thread(target=run, name=f"kimi-nb panel {name}", daemon=True)
        thread.start()
        return thread

    def _hear(self, _widget: Panel, content: Any, _buffers: Any) -> None:
        """Take a message from a browser; whatever it holds, the panel shows something true."""
        if not isinstance(content, dict):
            return
        if "have" in content:  # a browser that may have missed something
            with self._lock:
                if content["have"] != self.view["number"]:
                    self.send_state("view")
            return
        sender, number, chosen = content.get("from"), content.get("number"), content.get("set")
        with self.at_once():
            self._stale = True
            if isinstance(sender, str) and isinstance(number, int):
                self._seen.pop(sender, None)
                self._seen[sender] = number
                while len(self._seen) > _MOST_TABS:
                    self._seen.pop(next(iter(self._seen)))
            if isinstance(chosen, dict):
                known = {name: value for name, value in chosen.items() if name in self.chosen}
                if known:
                    self.choose(**known)
            name, fields = content.get("press"), content.get("fields")
            if isinstance(name, str) and name.isidentifier() and hasattr(self, f"press_{name}"):
                texts = {str(key): str(value) for key, value in dict(fields or {}).items()}
                self.press(name, **texts)

    def _repr_mimebundle_(self, **_given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return mimebundle(self, [self.view["nodes"]])


def _trouble(error: Exception) -> KimiNbError:
    """Return what went wrong as it is shown; what nobody foresaw is logged whole."""
    if isinstance(error, KimiNbError):
        return error
    logging.getLogger(__name__).error("unforeseen in a panel", exc_info=error)
    return KimiNbError(
        "KNB953",
        "that did not work, for a reason that nobody foresaw",
        why=" ".join(f"{type(error).__name__}: {error}".split())[:300],
        fix="Try again; if it stays, report it with the log of the kernel.",
    )
