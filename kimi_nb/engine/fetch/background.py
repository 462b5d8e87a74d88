"""A download, or a check of one, that goes on in a thread of this process while other things are done.

There is one of a set at a time, whoever asks: two that look at the same set see the same. It ends with the
process, however that ends, and costs then what any interruption costs; the same call continues.
"""

from __future__ import annotations

import threading
import weakref
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kimi_nb.engine import download as actions
from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.errors import KimiNbError, SystemRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kimi_nb.engine.download import DownloadResult, Options
    from kimi_nb.engine.fetch.job import Progress

__all__ = ["Phase", "Task", "Work", "begin", "latest", "listen"]


class Task(StrEnum):
    """What is to be done."""

    DOWNLOAD = "download"
    VERIFY = "verify"
    """Read every byte again and say what is wrong."""
    REPAIR = "repair"
    """That, and fetch what is wrong again."""


class Phase(StrEnum):
    """How far that is."""

    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"


class Work:
    """A task on one set, from its begin on; :func:`begin` makes it.

    Attributes:
        task: What is done.
        name: Of the set, ``namespace/name:quant``.
        folder: The models folder that it is in.
        progress: How far it is; None until that can be said.
        notices: Lines a person should see: the licence, a warning.
        error: Why it failed.
        result: What it left on the disk.
    """

    def __init__(self, task: Task, name: str, folder: Path) -> None:
        self.task, self.name, self.folder = task, name, folder
        self.progress: Progress | None = None
        self.notices: list[str] = []
        self.error: KimiNbError | None = None
        self.result: DownloadResult | None = None
        self._cancelled = threading.Event()
        self._ended = threading.Event()
        self._over: Phase | None = None

    @property
    def phase(self) -> Phase:
        """How far it is."""
        if self._over is not None:
            return self._over
        return Phase.PAUSING if self._cancelled.is_set() else Phase.RUNNING

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self._over is None

    def pause(self) -> None:
        """Stop soon; what has come is kept."""
        self._cancelled.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; tell whether it came."""
        return self._ended.wait(timeout_s)

    def start(self, action: Callable[..., DownloadResult], call: dict[str, Any]) -> None:
        """Do it in a thread of its own."""
        name = f"kimi-nb {self.task}"
        threading.Thread(target=self._run, args=(action, call), name=name, daemon=True).start()
        _tell(self)

    def _run(self, action: Callable[..., DownloadResult], call: dict[str, Any]) -> None:
        over = Phase.FAILED
        try:
            self.result = action(
                **call, progress=self._note, notice=self.notices.append, cancelled=self._cancelled.is_set
            )
            over = Phase.DONE
        except KeyboardInterrupt:
            over = Phase.PAUSED
        except KimiNbError as error:
            self.error = error
        except OSError as error:
            self.error = SystemRefusedError(error)
        finally:
            self._over = over
            self._ended.set()
            _tell(self)

    def _note(self, progress: Progress) -> None:
        self.progress = progress


_guard = threading.Lock()
_works: dict[tuple[Path, str], Work] = {}
_listeners: list[weakref.WeakMethod[Callable[[Work], None]]] = []


def begin(
    task: Task,
    model: str,
    quant: str | None = None,
    *,
    folder: Path | None = None,
    endpoint: str | None = None,
    options: Options | None = None,
) -> Work:
    """Begin a task, or return the one that goes on for this set already.

    Args:
        task: What to do.
        model: As for :func:`kimi_nb.engine.download.download`, like all that follows.
        quant: As there.
        folder: As there.
        endpoint: As there.
        options: As there.

    Raises:
        UsageError: The model or the quant is not known.
    """
    repo, which, _ = actions.named(model, quant)
    call: dict[str, Any] = {"folder": folder, "endpoint": endpoint, "options": options}
    call |= {"model": model, "quant": quant}
    action: Callable[..., DownloadResult] = actions.download
    if task is not Task.DOWNLOAD:
        action, call["repair"] = actions.verify, task is Task.REPAIR
    with _guard:
        name, shelf = f"{repo}:{which}", Shelf(folder)
        place = (shelf.folder, name)
        before = _works.get(place)
        if before is not None and before.active:
            return before
        work = _works[place] = Work(task, name, shelf.folder)
    work.start(action, call)
    return work


def latest(name: str, folder: Path | None = None) -> Work | None:
    """Return what goes on for a set in this process, or what did last."""
    with _guard:
        return _works.get((Shelf(folder).folder, name))


def listen(method: Callable[[Work], None]) -> None:
    """Call a method whenever something begins or ends, from any thread, for as long as its object lives."""
    with _guard:
        _listeners[:] = [one for one in _listeners if one() is not None]
        _listeners.append(weakref.WeakMethod(method))


def _tell(work: Work) -> None:
    for one in tuple(_listeners):
        method = one()
        if method is not None:
            method(work)
