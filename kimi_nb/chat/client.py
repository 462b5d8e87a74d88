"""Talk to an engine: the same few calls for llama-server, vLLM and Moonshot's API."""

from __future__ import annotations

import weakref
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from kimi_nb.chat.answer import REFUSAL_BYTES, Answer
from kimi_nb.chat.events import Done
from kimi_nb.chat.failures import EngineError, explain_refusal
from kimi_nb.chat.request import chat_request, check_timeout, http_options
from kimi_nb.chat.watch import Watch

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Mapping, Sequence

    import httpx2
    import openai

    from kimi_nb.chat.events import Event, Reply
    from kimi_nb.chat.modes import Mode
    from kimi_nb.chat.request import ChatRequest
    from kimi_nb.engine import Engine

__all__ = ["Chat"]


class Chat:
    """Ask an engine, and measure it.

    Every request is sent exactly once: repeating a generation costs minutes on a large model, and may run a
    tool twice. Closing the generator of :meth:`stream` closes the connection, and the engine's slot is free
    at once. :class:`~kimi_nb.chat.AsyncChat` is the same for asyncio.

    Args:
        engine: Who is asked.
        timeout_s: The longest wait for the next event; a long prompt on a processor needs a long one.
            llama-server reports while it reads a prompt, so there it only bounds the wait between two
            batches.

    A Chat closes its connections when it is collected; use it as a context manager to say when.
    """

    def __init__(self, engine: Engine, *, timeout_s: float = 600.0) -> None:
        import httpx2

        self.engine = engine
        self.timeout_s = check_timeout(timeout_s)
        self._http = httpx2.Client(**http_options(engine))
        self._close = weakref.finalize(self, self._http.close)

    @cached_property
    def client(self) -> openai.OpenAI:
        """The openai package's client, for what this class has no call for; it is not used for chats.

        The package takes about 1 ms of processor time to build and check a request that is already built.
        """
        import openai

        key = self.engine.api_key or "none"
        client = openai.OpenAI(
            base_url=self.engine.base_url,
            api_key=key,
            # Named here too, so that no OPENAI_CUSTOM_HEADERS of the environment can replace it.
            default_headers={"Authorization": f"Bearer {key}"},
            max_retries=0,
            http_client=self._http,
        )
        # Left to itself the package would add the OPENAI_ORG_ID and OPENAI_PROJECT_ID of the environment.
        client.organization = client.project = None
        return client

    def __repr__(self) -> str:
        return f"Chat({self.engine.kind} at {self.engine.base_url}, model {self.engine.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; streams that are still open end."""
        self._close()

    def ask(self, messages: str | Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        """Return the whole reply; takes what :meth:`stream` takes, and ``on_event``, called with each event.

        Raises:
            EngineError: The request failed; its ``partial`` keeps what had arrived.
            UsageError: The call was wrong.
        """
        on_event: Callable[[Event], object] | None = options.pop("on_event", None)
        with closing(self.stream(messages, **options)) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Done):
                    return event.reply
        raise AssertionError("a stream ends with Done or with an error")

    def stream(  # noqa: PLR0913 - the knobs of one request; each has a default
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        mode: Mode | None = None,
        tools: Sequence[Any] = (),
        tool_choice: str | Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        deadline_s: float | None = None,
        cancel: threading.Event | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Generator[Event, None, None]:
        """Send the request when first asked for an event, and yield events until :class:`~kimi_nb.chat.Done`.

        Args:
            messages: The question, or a conversation of OpenAI-style messages.
            mode: ``thinking`` or ``instant``; the model's own first mode when not given.
            tools: Python functions, pydantic models, :class:`~kimi_nb.chat.Tool` or OpenAI-style
                declarations.
            tool_choice: ``auto``, ``none``, ``required`` or a named function. Kimi may talk before a required
                call.
            max_tokens: The most tokens to generate, thinking included; the engine's own limit when not given.
            temperature: Instead of the mode's own.
            top_p: Instead of the mode's own.
            deadline_s: The whole answer's limit in seconds.
            cancel: Set it from any thread to end the request, also while it waits for a slot: ``KNB625``.
            extra_body: More fields of the request, under the engine's own names, such as ``seed`` or
                ``grammar``; its ``chat_template_kwargs`` are added to ours.

        Raises:
            EngineError: The request failed; its ``partial`` keeps what had arrived.
            UsageError: The call was wrong; raised by this call itself.
        """
        request = chat_request(
            self.engine,
            messages,
            mode=mode,
            tools=tools,
            tool_choice=tool_choice,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            extra_body=extra_body,
        )
        return self._events(request, deadline_s, cancel)

    def _events(
        self, request: ChatRequest, deadline_s: float | None, cancel: threading.Event | None
    ) -> Generator[Event, None, None]:
        import httpx2

        answer = Answer(request, timeout_s=self.timeout_s, deadline_s=deadline_s)
        watch = Watch(answer, cancel)
        response = None
        try:
            sending = request.on(self._http, read_s=answer.read_s)
            sending.extensions["trace"] = watch.trace
            answer.meter.start()
            response = self._http.send(sending, stream=True)
            watch.saw(response)
            yield from self._read(response, answer)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise answer.late(watch.expired) if watch.expired else answer.unsent(error) from None
        except EngineError as error:
            raise answer.with_partial(answer.late(watch.expired) if watch.expired else error) from None
        finally:
            watch.stop()
            if response is not None:
                response.close()

    def _read(self, response: httpx2.Response, answer: Answer) -> Generator[Event, None, None]:
        import httpx2

        try:
            if not response.is_success:
                raise explain_refusal(response.status_code, _refusal(response), self.engine)
            answer.check(response)
            for piece in response.iter_bytes():
                yield from answer.feed(piece)
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            if not answer.done:
                raise answer.broken(error) from None
        yield from answer.end()


def _refusal(response: httpx2.Response) -> bytes:
    """Return the body of a response that is no answer, or as much of it as an error message can be."""
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if len(body) > REFUSAL_BYTES:
            break
    return body
