"""What llama-server tells of its work, and what can be worked out from asking twice."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from kimi_nb.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kimi_nb.engine.server_http import Answer

__all__ = ["Meter", "Tells", "Work", "memory_of", "read_metrics"]

_METRIC = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)
_MIB = 1024 * 1024
_SHORTEST_S = 0.2


def read_metrics(page: str) -> dict[str, float]:
    """Return the counters and gauges of llama-server's ``/metrics`` page by name."""
    return {name: float(value) for name, value in _METRIC.findall(page)}


class Tells(ABC):
    """A llama-server that tells of its work while it runs, wherever it lives."""

    def slots(self) -> list[dict[str, Any]]:
        """Return what each slot does, as llama-server tells it.

        Raises:
            ServerError: It is not ready, or does not answer.
        """
        return list(self._told("/slots").json() or [])

    def metrics(self) -> dict[str, float]:
        """Return llama-server's counters and gauges by name, such as ``tokens_predicted_total``.

        Raises:
            ServerError: It is not ready, or does not answer.
        """
        return read_metrics(self._told("/metrics").text())

    @abstractmethod
    def _ask(self, path: str) -> Answer:
        """Return its answer, whatever that is.

        Raises:
            ServerError: It is not ready.
            OSError: It does not answer.
        """

    def _told(self, path: str) -> Answer:
        try:
            answer = self._ask(path)
        except OSError as error:
            why, fix = str(error), "It may be reading a long prompt: try again in a while."
        else:
            if answer.status == HTTPStatus.OK:
                return answer
            why, fix = f"it says {answer.status}", "See its log."
        raise ServerError("KNB522", f"llama-server does not answer {path}", why=why, fix=fix)


class _Server(Protocol):
    def slots(self) -> list[dict[str, Any]]: ...
    def metrics(self) -> dict[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a server does at a moment.

    Attributes:
        slots: How many requests it can answer at once.
        busy: How many it answers now.
        slot_ctx: Tokens of context that each slot has.
        tok_s: Tokens/s that all slots wrote together since it was asked before; None if they wrote nothing.
        reading: How many slots read a prompt and have not written a token yet.
        written: Tokens written since it was started, without the answers that are under way.
        mean_tok_s: At which speed each of those answers was written, on average; None before the first.
    """

    slots: int
    busy: int
    slot_ctx: int
    tok_s: float | None
    reading: int
    written: int
    mean_tok_s: float | None


class Meter:
    """Ask a server what it does, now and then, and work out its speed.

    Slots are asked each time, which the server does not notice. Its counters are only asked when a request
    has ended, since asking them starts its averages for Prometheus anew.

    Args:
        server: Whom to ask.
        clock: In seconds.
    """

    def __init__(self, server: _Server, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._tasks: list[tuple[Any, bool]] | None = None
        self._totals: dict[str, float] = {}
        self._before: tuple[float, float] | None = None
        self._speed: float | None = None

    def look(self) -> Work | None:
        """Return what it does now, or None when it does not answer."""
        try:
            slots = self._server.slots()
            if _tasks(slots) != self._tasks:
                before, self._totals, slots = _tasks(slots), self._server.metrics(), self._server.slots()
                self._tasks = _tasks(slots)
                if self._tasks != before:  # what has just ended may be counted twice, or not at all
                    self._before = None
        except ServerError:
            self._before = None
            return None
        busy = [slot for slot in slots if slot.get("is_processing")]
        decoded = [_decoded(slot) for slot in busy]
        seconds = self._totals.get("tokens_predicted_seconds_total", 0.0)
        total = int(self._totals.get("tokens_predicted_total", 0.0))
        speed = self._rate(total + sum(decoded))
        return Work(
            slots=len(slots),
            busy=len(busy),
            slot_ctx=min((slot.get("n_ctx", 0) for slot in slots), default=0),
            tok_s=speed if busy else None,
            reading=decoded.count(0),
            written=total,
            mean_tok_s=total / seconds if seconds > 1e-3 else None,  # noqa: PLR2004 - nothing was timed yet
        )

    def _rate(self, written: float) -> float | None:
        """Return the speed since the look before; ``written`` counts what is not finished too."""
        now = self._clock()
        if self._before is not None and now - self._before[0] < _SHORTEST_S:
            return self._speed  # asked twice at once, which tells nothing new
        before, self._before = self._before, (now, written)
        fresh = written - before[1] if before is not None else 0.0
        self._speed = fresh / (now - before[0]) if before is not None and fresh > 0 else None
        return self._speed


def _tasks(slots: list[dict[str, Any]]) -> list[tuple[Any, bool]]:
    return [(slot.get("id_task"), bool(slot.get("is_processing"))) for slot in slots]


def _decoded(slot: dict[str, Any]) -> int:
    told = slot.get("next_token") or {}
    told = told[0] if isinstance(told, list) else told
    return int(told.get("n_decoded", 0))


def memory_of(pid: int) -> tuple[float, float] | None:
    """Return the memory that a process has in RAM, in MiB: all, and what of it are pages of files.

    Pages of files are shared with others and can be dropped by the system; the weights of a model that is
    mapped are among them. None when it cannot be told.
    """
    import psutil

    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return memory.rss / _MIB, getattr(memory, "shared", 0) / _MIB
