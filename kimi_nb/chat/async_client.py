"""The twin of :class:`~kimi_nb.chat.Chat` for asyncio; only sending and waiting differ."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kimi_nb.chat.answer import REFUSAL_BYTES, Answer
from kimi_nb.chat.events import Done
from kimi_nb.chat.failures import EngineError, explain_refusal
from kimi_nb.chat.request import chat_request, check_timeout, http_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    import httpx2

    from kimi_nb.chat.events import Event, Reply
    from kimi_nb.chat.request import ChatRequest
    from kimi_nb.engine import Engine

__all__ = ["AsyncChat"]

_T = TypeVar("_T")


class AsyncChat:
    """Ask an engine from a coroutine, and measure it; see :class:`~kimi_nb.chat.Chat`.

    Use it with ``async with``, within one event loop. Cancelling the waiting task, or closing the generator,
    closes the connection, and the engine's slot is free at once.

    Args:
        engine: Who is asked.
        timeout_s: The longest wait for the next event.
    """

    def __init__(self, engine: Engine, *, timeout_s: float = 600.0) -> None:
        import httpx2

        self.engine = engine
        self.timeout_s = check_timeout(timeout_s)
        self._http = httpx2.AsyncClient(**http_options(engine))

    def __repr__(self) -> str:
        return f"AsyncChat({self.engine.kind} at {self.engine.base_url}, model {self.engine.model!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, messages: str | Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        """Return the whole reply; takes what :meth:`stream` takes, and ``on_event``, called with each event.

        Raises:
            EngineError: The request failed; its ``partial`` keeps what had arrived.
            UsageError: The call was wrong.
        """
        on_event: Callable[[Event], object] | None = options.pop("on_event", None)
        async with aclosing(self.stream(messages, **options)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Done):
                    return event.reply
        raise AssertionError("a stream ends with Done or with an error")

    def stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        deadline_s: float | None = None,
        **options: Any,
    ) -> AsyncGenerator[Event, None]:
        """Send the request when first asked for an event, and yield events until :class:`~kimi_nb.chat.Done`.

        Args:
            messages: The question, or a conversation of OpenAI-style messages.
            deadline_s: The whole answer's limit in seconds.
            options: As for :meth:`kimi_nb.chat.Chat.stream`.

        Raises:
            EngineError: The request failed; its ``partial`` keeps what had arrived.
            UsageError: The call was wrong; raised by this call itself.
        """
        return self._events(chat_request(self.engine, messages, **options), deadline_s)

    async def _events(self, request: ChatRequest, deadline_s: float | None) -> AsyncGenerator[Event, None]:
        import httpx2

        answer = Answer(request, timeout_s=self.timeout_s, deadline_s=deadline_s)
        try:
            sending = request.on(self._http, read_s=None)
            answer.meter.start()
            response = await _in_time(answer, self._http.send(sending, stream=True))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise answer.unsent(error) from None
        try:
            async with aclosing(self._read(response, answer)) as events:
                async for event in events:
                    yield event
        except EngineError as error:
            raise answer.with_partial(error) from None
        finally:
            await response.aclose()

    async def _read(self, response: httpx2.Response, answer: Answer) -> AsyncGenerator[Event, None]:
        import httpx2

        pieces = response.aiter_bytes()
        try:
            if not response.is_success:
                body = b""
                while len(body) < REFUSAL_BYTES and (piece := await _in_time(answer, anext(pieces, b""))):
                    body += piece
                raise explain_refusal(response.status_code, body, self.engine)
            answer.check(response)
            while piece := await _in_time(answer, anext(pieces, b"")):
                for event in answer.feed(piece):
                    yield event
        except EngineError:
            if not answer.done:
                raise
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            if not answer.done:
                raise answer.broken(error) from None
        for event in answer.end():
            yield event


async def _in_time(answer: Answer, coming: Awaitable[_T]) -> _T:
    """Wait for what is coming, within the answer's limits."""
    until, limit = answer.limit
    try:
        async with asyncio.timeout(until - time.monotonic()):
            return await coming
    except TimeoutError:
        raise answer.late(limit) from None
