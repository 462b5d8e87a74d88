"""Talk to an engine: the same few calls for llama-server, vLLM and Moonshot's API."""

from __future__ import annotations

import json
import time
import weakref
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from kimi_nb.chat.draft import Draft
from kimi_nb.chat.events import Done
from kimi_nb.chat.failures import (
    EngineError,
    broken_stream,
    explain,
    explain_event,
    no_engine,
    too_slow,
)
from kimi_nb.chat.functions import declarations
from kimi_nb.chat.messages import as_messages
from kimi_nb.chat.meter import Meter
from kimi_nb.chat.modes import mode_fields, resolve_mode
from kimi_nb.chat.sse import event_data
from kimi_nb.chat.watch import Watch
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import httpx2
    import openai

    from kimi_nb.chat.events import Event, Reply
    from kimi_nb.chat.modes import Mode
    from kimi_nb.engine import Engine

__all__ = ["Chat"]

_CONNECT_S = 10.0
_SENDING: ContextVar[Meter | None] = ContextVar("meter of the request that is being sent", default=None)
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Chat:
    """Ask an engine, and measure it.

    Every request is sent exactly once: repeating a generation costs minutes on a large model, and may run a
    tool twice. Closing the generator of :meth:`stream` closes the connection, and the engine's slot is free
    at once.

    Args:
        engine: Who is asked.
        timeout_s: The longest wait for the next event; a long prompt on a processor needs a long one.
            llama-server reports while it reads a prompt, so there it only bounds the wait between two
            batches.

    Attributes:
        client: The openai package's client, for what this class has no call for.

    A Chat closes its connections when it is collected; use it as a context manager to say when.
    """

    def __init__(self, engine: Engine, *, timeout_s: float = 600.0) -> None:
        if timeout_s <= 0:
            raise UsageError(
                "KNB622", f"timeout_s is {timeout_s}", why="it must be above 0", fix="Give it in seconds."
            )
        self.engine = engine
        self.timeout_s = timeout_s
        self.client = _client(engine)
        self._close = weakref.finalize(self, self.client.close)

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
            extra_body: More fields of the request, under the engine's own names, such as ``seed`` or
                ``grammar``; its ``chat_template_kwargs`` are added to ours.

        Raises:
            EngineError: The request failed; its ``partial`` keeps what had arrived.
            UsageError: The call was wrong; raised by this call itself.
        """
        mode = resolve_mode(self.engine, mode)
        fields = mode_fields(self.engine, mode, temperature=temperature, top_p=top_p)
        fields |= {"messages": as_messages(messages), "model": self.engine.model}
        if self.engine.kind == "vllm":
            for message in fields["messages"]:
                # vLLM renamed the field; older and newer ones each ignore the other's.
                if "reasoning_content" in message:
                    message.setdefault("reasoning", message["reasoning_content"])
        if self.engine.kind == "llama-server":
            fields["return_progress"] = True
        if max_tokens is not None:
            fields["max_tokens"] = max_tokens
        if tools:
            fields["tools"] = declarations(tools)
            if tool_choice is not None:
                fields["tool_choice"] = tool_choice
            if self.engine.kind == "llama-server":
                from kimi_nb.model.tools_ts import encode_tools

                # Kimi was trained on TypeScript declarations; llama.cpp would show it JSON.
                switches = fields.setdefault("chat_template_kwargs", {})
                switches["tools_ts_str"] = encode_tools(fields["tools"])
        for name, value in (extra_body or {}).items():
            known = fields.get(name)
            fields[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
        return self._events(fields, mode, deadline_s)

    def _events(
        self, fields: dict[str, Any], mode: Mode, deadline_s: float | None
    ) -> Generator[Event, None, None]:
        start = time.monotonic()
        deadline = None if deadline_s is None else start + deadline_s
        meter = Meter()
        draft = Draft(mode, self.engine.model, meter)
        with ExitStack() as stack:
            try:
                response = stack.enter_context(self._sent(fields, deadline_s, meter))
            except EngineError as error:
                if error.id == "KNB609" and deadline is not None and time.monotonic() >= deadline:
                    raise too_slow(self.engine, f"deadline_s={deadline_s:g}") from None
                raise
            watch = Watch(response, quiet_s=self.timeout_s, deadline=deadline)
            stack.callback(watch.stop)
            try:
                yield from self._read(response, draft, watch)
            except EngineError as error:
                failure = error
                if watch.expired is not None:
                    limits = {
                        "quiet": f"timeout_s={self.timeout_s:g}",
                        "deadline": f"deadline_s={deadline_s}",
                    }
                    failure = too_slow(self.engine, limits[watch.expired])
                if draft.begun:
                    failure.partial = draft.reply()
                raise failure from None

    @contextmanager
    def _sent(
        self, fields: dict[str, Any], deadline_s: float | None, meter: Meter
    ) -> Generator[httpx2.Response, None, None]:
        """Send the request and give its response, whose body has not been read; close it at the end."""
        import httpx2
        import openai

        read_s = self.timeout_s if deadline_s is None else max(min(self.timeout_s, deadline_s), 0.001)
        known = {name: fields.pop(name) for name in ("messages", "model")}
        request = self.client.chat.completions.with_streaming_response.create(
            **known,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=fields,
            timeout=httpx2.Timeout(read_s, connect=_CONNECT_S),
        )
        sending = _SENDING.set(meter)
        try:
            response = request.__enter__()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.start + 1]
            raise _cannot_send(f"it holds half a character ({half!a})") from None
        except (TypeError, ValueError) as error:
            raise _cannot_send(f"it holds what JSON cannot ({error})") from None
        except openai.OpenAIError as error:
            raise explain(error, self.engine) from None
        finally:
            _SENDING.reset(sending)
        try:
            yield response.http_response
        finally:
            request.__exit__(None, None, None)

    def _read(self, response: httpx2.Response, draft: Draft, watch: Watch) -> Generator[Event, None, None]:
        import httpx2

        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise no_engine(self.engine, f"it sent {kind or 'no content type'} instead of a stream of events")
        try:
            for data in event_data(response.iter_bytes()):
                watch.beat()
                if data.startswith(b"[DONE]"):
                    break
                chunk = json.loads(data)
                if isinstance(chunk, dict):
                    if chunk.get("error"):
                        raise explain_event(chunk, self.engine)
                    yield from draft.add(chunk)
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise broken_stream(self.engine, str(error) or type(error).__name__) from None
        except (ValueError, RecursionError) as error:
            raise no_engine(self.engine, f"an event is not JSON ({error})") from None
        if watch.expired is not None or draft.finish_reason is None:
            raise broken_stream(self.engine, "the stream ended without a finish_reason")
        yield Done(draft.reply())


def _cannot_send(why: str) -> UsageError:
    return UsageError(
        "KNB622",
        "the request cannot be sent",
        why=why,
        fix="Use well-formed text, numbers, lists and mappings.",
    )


def _start_meter(_request: httpx2.Request) -> None:
    if (meter := _SENDING.get()) is not None:
        meter.start()


def _client(engine: Engine) -> openai.OpenAI:
    import httpx2
    import openai

    # A proxy named in the environment must not see, or swallow, what goes to this machine itself.
    local = urlsplit(engine.base_url).hostname in _LOOPBACK
    key = engine.api_key or "none"
    client = openai.OpenAI(
        base_url=engine.base_url,
        api_key=key,
        # Named here too, so that no OPENAI_CUSTOM_HEADERS of the environment can replace it.
        default_headers={"Authorization": f"Bearer {key}"},
        max_retries=0,
        http_client=httpx2.Client(
            trust_env=not local,
            follow_redirects=False,
            event_hooks={"request": [_start_meter]},
        ),
    )
    # Left to itself the package would add the OPENAI_ORG_ID and OPENAI_PROJECT_ID of the environment.
    client.organization = client.project = None
    return client
