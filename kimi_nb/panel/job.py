"""A panel that does one long thing at a time, behind the screen, with progress and a way to end it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from kimi_nb.panel import nodes as n
from kimi_nb.panel.widget import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kimi_nb.panel.nodes import Node

__all__ = ["JobPanel"]


class JobPanel(Panel):
    """A :class:`~kimi_nb.panel.widget.Panel` with at most one job under way.

    Attributes:
        job: What is under way; empty if nothing is.
        note: What is to be said of it, or of the last one.
        busy: Why no other can begin; empty if one can.
    """

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        self.job = ""
        self.note = ""
        self._fraction: float | None = None
        self._working: threading.Thread | None = None
        self._cancel = threading.Event()
        super().__init__(chosen)

    @property
    def busy(self) -> str:  # noqa: D102 - with the class's attributes
        return "Something is under way." if self.job else ""

    def begin(self, job: str, work: Callable[[], None]) -> None:
        """Do ``work`` in a thread, unless something is under way; what it raises on purpose is shown."""
        with self._lock:
            if self.job:
                return  # pressed again before the first press was seen
            self.job, self._fraction, self.note = job, None, ""
            self._cancel.clear()

        def run() -> None:
            try:
                work()
            except KeyboardInterrupt:
                self.note = "Cancelled: nothing was kept."
            finally:
                self.job = ""

        self._working = self.in_background(run, job)

    def press_cancel(self, _fields: Mapping[str, str]) -> None:
        """End what is under way; nothing of it is kept."""
        if self.job:
            self._cancel.set()
            self.note = "ending ..."

    def stop_if_cancelled(self) -> None:
        """Leave the job where a person wants its end: to be called by its work."""
        if self._cancel.is_set():
            raise KeyboardInterrupt

    def tell(self, words: str, fraction: float | None) -> None:
        """Show how far the job is: to be called by its work; leaves it as :meth:`stop_if_cancelled` does."""
        self.stop_if_cancelled()
        with self._lock:
            self.note, self._fraction = words, fraction
        self.refresh()

    def progress(self, *, can_end: bool) -> list[Node]:
        """Return what is to be seen of the job, or of the last one: how far it is, its note, its trouble."""
        found = []
        if self.job:
            found.append(n.progress(self.job, self._fraction, self.note or "under way", key="job"))
            if can_end:
                found.append(n.row([n.button("cancel", "Cancel", about=self.job)], key="cancel"))
        if self.trouble is not None:
            found.append(n.text(str(self.trouble), tone="bad", live=True, key="trouble"))
        elif self.note and not self.job:
            found.append(n.text(self.note, live=True, key="note"))
        return found
