"""What a chat request carries, for each engine: one place for the client and its twin for asyncio."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kimi_nb.chat.functions import declarations
from kimi_nb.chat.messages import as_messages
from kimi_nb.chat.modes import mode_fields, resolve_mode
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2

    from kimi_nb.chat.modes import Mode
    from kimi_nb.engine import Engine

__all__ = ["ChatRequest", "chat_request", "check_timeout", "http_options"]

_CONNECT_S = 10.0
_REUSED = ("https",)
_IDLE_S = 2.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class ChatRequest:
    """One request, ready to be sent; ``mode`` is the mode it asks for."""

    engine: Engine
    mode: Mode
    body: bytes = field(repr=False)

    def on(self, client: httpx2.Client | httpx2.AsyncClient, *, read_s: float | None) -> httpx2.Request:
        """Return it as a request of an HTTP client, with so many seconds to wait for the next bytes."""
        import httpx2

        return client.build_request(
            "POST",
            self.engine.base_url.rstrip("/") + "/chat/completions",
            content=self.body,
            headers={
                "Authorization": f"Bearer {self.engine.api_key or 'none'}",
                "Content-Type": "application/json",
                "Accept": "text/event-stream",
            },
            timeout=httpx2.Timeout(read_s, connect=_CONNECT_S),
        )


def chat_request(  # noqa: PLR0913 - the knobs of one request; each has a default
    engine: Engine,
    messages: str | Sequence[Mapping[str, Any]],
    *,
    mode: Mode | None = None,
    tools: Sequence[Any] = (),
    tool_choice: str | Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> ChatRequest:
    """Return the request for ``engine``; the arguments are those of :meth:`kimi_nb.chat.Chat.stream`.

    Raises:
        UsageError: It cannot be sent so.
    """
    mode = resolve_mode(engine, mode)
    fields = mode_fields(engine, mode, temperature=temperature, top_p=top_p)
    fields |= {"messages": as_messages(messages), "model": engine.model}
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    if engine.kind == "vllm":
        for message in fields["messages"]:
            # vLLM renamed the field; older and newer ones each ignore the other's.
            if "reasoning_content" in message:
                message.setdefault("reasoning", message["reasoning_content"])
    if engine.kind == "llama-server":
        fields["return_progress"] = True
    if max_tokens is not None:
        fields["max_tokens"] = max_tokens
    if tools:
        fields["tools"] = declarations(tools)
        if tool_choice is not None:
            fields["tool_choice"] = tool_choice
        if engine.kind == "llama-server":
            from kimi_nb.model.tools_ts import encode_tools, in_kimis_order

            # Kimi was trained on TypeScript declarations; llama.cpp would show it JSON. Of the JSON it makes
            # the grammar of calls, which is to take arguments in the order that Kimi reads.
            switches = fields.setdefault("chat_template_kwargs", {})
            switches["tools_ts_str"] = encode_tools(fields["tools"])
            fields["tools"] = in_kimis_order(fields["tools"])
    for name, value in (extra_body or {}).items():
        known = fields.get(name)
        fields[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    return ChatRequest(engine, mode, _body(fields))


def _body(fields: dict[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise _cannot_send(f"it holds half a character ({half!a})") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise _cannot_send(f"it holds what JSON cannot ({error})") from None


def _cannot_send(why: str) -> UsageError:
    return UsageError(
        "KNB622",
        "the request cannot be sent",
        why=why,
        fix="Use well-formed text, numbers, lists and mappings.",
    )


def check_timeout(timeout_s: float) -> float:
    """Return a time limit in seconds, if it is one.

    Raises:
        UsageError: ``KNB622``, it is not above 0.
    """
    if timeout_s > 0:
        return timeout_s
    raise UsageError(
        "KNB622", f"timeout_s is {timeout_s}", why="it must be above 0", fix="Give it in seconds."
    )


def http_options(engine: Engine) -> dict[str, Any]:
    """Return how an HTTP client for ``engine`` is to be made."""
    import httpx2

    address = urlsplit(engine.base_url)
    # llama-server promises to keep a connection and closes it after each stream all the same, and vLLM after
    # 5 idle seconds: a request that meets the closing is lost, and must not be sent twice. So a connection
    # serves a second request only where making one takes long, and then soon.
    kept = None if address.scheme in _REUSED else 0
    return {
        # A proxy named in the environment must not see, or swallow, what goes to this machine itself.
        "trust_env": address.hostname not in _LOOPBACK,
        "follow_redirects": False,
        "limits": httpx2.Limits(max_keepalive_connections=kept, keepalive_expiry=_IDLE_S),
    }
