"""An answer as it comes in, without any reading or waiting: what both clients do with the bytes they get."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Literal

from kimi_nb.chat.draft import Draft
from kimi_nb.chat.events import Done
from kimi_nb.chat.failures import (
    broken_stream,
    cancelled,
    explain_event,
    explain_transport,
    no_engine,
    too_slow,
)
from kimi_nb.chat.meter import Meter
from kimi_nb.chat.sse import EventReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from kimi_nb.chat.events import Event
    from kimi_nb.chat.failures import EngineError
    from kimi_nb.chat.request import ChatRequest

__all__ = ["REFUSAL_BYTES", "Answer", "Limit"]

Limit = Literal["quiet", "deadline", "cancel"]

# After the last event only the response's own end is read, so that the connection can serve the next request.
_AFTER_DONE_S = 0.25

#: The most that is read of a refusal; more would be no error message.
REFUSAL_BYTES = 1_000_000


class Answer:
    """What has come of one answer, and by when more must have come.

    Args:
        request: What it answers.
        timeout_s: The longest wait for the next event.
        deadline_s: The limit for the whole, in seconds from now; None for none.
    """

    def __init__(self, request: ChatRequest, *, timeout_s: float, deadline_s: float | None) -> None:
        self.meter = Meter()
        self.done = False
        #: When an event last arrived, on the monotonic clock.
        self.heard = time.monotonic()
        self.deadline = None if deadline_s is None else self.heard + deadline_s
        self._engine = request.engine
        self._limits = {"quiet": f"timeout_s={timeout_s:g}", "deadline": f"deadline_s={deadline_s}"}
        self._timeout_s = timeout_s
        self._reader = EventReader()
        self._draft = Draft(request.mode, request.engine.model, self.meter)

    @property
    def limit(self) -> tuple[float, Limit]:
        """When it takes too long if nothing comes until then, on the monotonic clock, and by which limit."""
        quiet = self.heard + (_AFTER_DONE_S if self.done else self._timeout_s)
        if self.deadline is not None and self.deadline <= quiet:
            return self.deadline, "deadline"
        return quiet, "quiet"

    @property
    def read_s(self) -> float:
        """How long to wait for the response to begin."""
        return max(self.limit[0] - time.monotonic(), 0.001)

    def check(self, response: httpx2.Response) -> None:
        """Raise unless this is a stream of events.

        Raises:
            EngineError: It is something else.
        """
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise no_engine(
                self._engine, f"it sent {kind or 'no content type'} instead of a stream of events"
            )

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Take in the next bytes and yield the events they bring.

        Raises:
            EngineError: The engine tells of an error, or does not speak the protocol.
        """
        yield from self._take(self._reader.feed(piece))

    def end(self) -> Iterator[Event]:
        """Take in the end of the stream; the last event is :class:`~kimi_nb.chat.Done`.

        Raises:
            EngineError: The answer is not complete.
        """
        yield from self._take(self._reader.end())
        if self._draft.finish_reason is None:
            raise broken_stream(self._engine, "the stream ended without a finish_reason")
        yield Done(self._draft.reply())

    def _take(self, events: Iterator[bytes]) -> Iterator[Event]:
        try:
            for data in events:
                if self.done:
                    continue
                self.heard = time.monotonic()
                if data.startswith(b"[DONE]"):
                    self.done = True
                    continue
                chunk: Any = json.loads(data)
                if isinstance(chunk, dict):
                    if chunk.get("error"):
                        raise explain_event(chunk, self._engine)
                    yield from self._draft.add(chunk)
        except (ValueError, RecursionError) as error:
            raise no_engine(self._engine, f"an event is not JSON ({error})") from None

    def unsent(self, error: Exception) -> EngineError:
        """Return the error to raise when the request could not be sent, or nothing came back."""
        until, limit = self.limit
        if time.monotonic() >= until:
            return self.late(limit)
        return explain_transport(error, self._engine)

    def broken(self, error: Exception) -> EngineError:
        """Return the error to raise when reading failed."""
        return broken_stream(self._engine, str(error) or type(error).__name__)

    def late(self, limit: Limit) -> EngineError:
        """Return the error to raise when a limit has passed."""
        if limit == "cancel":
            return cancelled()
        return too_slow(self._engine, self._limits[limit])

    def with_partial(self, error: EngineError) -> EngineError:
        """Return the error with what had arrived."""
        if self._draft.begun:
            error.partial = self._draft.reply()
        return error
