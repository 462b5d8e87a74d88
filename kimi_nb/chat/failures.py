"""Turn what can go wrong with a request into one :class:`EngineError` that says what to do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import ChatError

if TYPE_CHECKING:
    import openai

    from kimi_nb.chat.events import Reply
    from kimi_nb.engine import Engine

__all__ = [
    "EngineError",
    "broken_stream",
    "cancelled",
    "explain",
    "explain_event",
    "explain_refusal",
    "explain_transport",
    "no_engine",
    "shown_address",
    "too_slow",
]

_SHOWN = 300
_LEAST_KEY = 8  # a shorter one would be found in every other word
_UNAVAILABLE = 503


class EngineError(ChatError):
    """A request failed.

    Attributes:
        partial: What had arrived before it failed; None when the engine never began to answer.
    """

    partial: Reply | None = None


def _short(text: str, engine: Engine) -> str:
    line = " ".join(text.split()).rstrip(".")
    if engine.api_key and len(engine.api_key) >= _LEAST_KEY:
        line = line.replace(engine.api_key, "[key]")
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def shown_address(engine: Engine) -> str:
    """Return the base URL without a name and password that it may carry."""
    return re.sub(r"//[^/@]*@", "//", engine.base_url)


def _where(engine: Engine) -> str:
    return f"{engine.kind} at {shown_address(engine)}"


def _fields(body: object) -> dict[str, Any]:
    """Return the error object of a reply's body, however the engine wrapped it."""
    if isinstance(body, dict):
        inner = body.get("error")
        return inner if isinstance(inner, dict) else body
    return {}


def _overflow(message: str, fields: dict[str, Any]) -> tuple[int, int] | None:
    """Return (prompt tokens, context tokens) if the engine says that the prompt does not fit."""
    if fields.get("type") == "exceed_context_size_error":
        return int(fields.get("n_prompt_tokens") or 0), int(fields.get("n_ctx") or 0)
    told = re.search(
        r"maximum context length is (\d+).*?(?:requested|contains at least|has) (\d+)", message, re.DOTALL
    )
    if told is None:
        told = re.search(r"model token limit: (\d+).*?requested: (\d+)", message, re.DOTALL)
    return (int(told[2]), int(told[1])) if told else None


def explain(error: openai.OpenAIError, engine: Engine) -> EngineError:
    """Return the error to raise for one of the openai package's."""
    import openai

    if isinstance(error, openai.APIConnectionError):  # of which a timeout is one kind
        return explain_transport(error.__cause__ or error, engine)
    fields = _fields(getattr(error, "body", None))
    raw = str(fields.get("message") or getattr(error, "message", "") or error)
    status = getattr(error, "status_code", None)
    return _by_message(raw, fields, engine) or _by_status(status, raw, engine)


def explain_refusal(status: int, body: bytes, engine: Engine) -> EngineError:
    """Return the error to raise for a response that is no answer."""
    try:
        fields = _fields(json.loads(body))
    except (ValueError, RecursionError):
        fields = {}
    raw = str(fields.get("message") or body.decode(errors="replace") or "no word of why")
    return _by_message(raw, fields, engine) or _by_status(status, raw, engine)


def explain_transport(error: BaseException, engine: Engine) -> EngineError:
    """Return the error to raise when no response came: one of httpx2's, or the system's."""
    import httpx2

    if isinstance(error, httpx2.TimeoutException):
        return too_slow(engine, "the wait for the next byte")
    return EngineError(
        "KNB601",
        f"cannot reach {_where(engine)}",
        why=_short(str(error) or type(error).__name__, engine),
        fix="Check that it is running (your own: kimi-nb serve), and that address and port are right.",
    )


def explain_event(event: dict[str, Any], engine: Engine) -> EngineError:
    """Return the error to raise for one that came in the middle of a stream."""
    fields = _fields(event)
    raw = str(fields.get("message") or event["error"])
    return _by_message(raw, fields, engine) or broken_stream(engine, raw)


def _by_message(raw: str, fields: dict[str, Any], engine: Engine) -> EngineError | None:
    """Recognise the troubles that Kimi's users meet, by what the engine says."""
    said = _short(raw, engine)
    if (numbers := _overflow(raw, fields)) is not None:
        prompt, context = numbers
        per_slot = (
            " for each slot (--ctx-size is divided among --parallel slots)"
            if engine.kind == "llama-server"
            else ""
        )
        return EngineError(
            "KNB604",
            f"the prompt has {prompt} tokens, and the engine holds {context}{per_slot}",
            why=f"it is {prompt - context} tokens too long"
            if prompt > context
            else "nothing is left for the answer",
            fix="Shorten the conversation, or start the server with a larger --ctx-size.",
        )
    if "peg-native" in raw:
        return EngineError(
            "KNB608",
            "llama-server could not parse the model's answer, and the whole answer is lost",
            why="the model wrote something round a tool call that Kimi's format does not have, which happens "
            "above all when the server was started with --special",
            fix="Start the server without --special, then ask again.",
        )
    if "invalid temperature" in raw or "invalid top_p" in raw:
        return EngineError(
            "KNB611",
            "the engine refuses this sampling",
            why=said,
            fix="Leave temperature and top_p out for this engine.",
        )
    if "reasoning_content is missing" in raw:
        return EngineError(
            "KNB612",
            "the engine wants the thinking of earlier tool calls back",
            why=said,
            fix="Put Reply.as_message() into the conversation, or use tool_loop, which does.",
        )
    if "enable-auto-tool-choice" in raw:
        return EngineError(
            "KNB605",
            "the engine refused the request",
            why=said,
            fix="Start vLLM with --enable-auto-tool-choice --tool-call-parser kimi_k2.",
        )
    return None


# What a status means: id, what happened after "ENGINE at ADDRESS", what to do. The first match counts.
_KEY = ("KNB602", "refused the key", "Give the key that this engine was started with.")
_BY_STATUS: tuple[tuple[range, tuple[str, str, str]], ...] = (
    (range(401, 402), _KEY),
    (range(403, 404), _KEY),
    (
        range(404, 405),
        (
            "KNB613",
            "knows no such address or model",
            "The base URL usually ends in /v1; GET /models lists the models.",
        ),
    ),
    (range(429, 430), ("KNB614", "is at its limit", "Wait a little, then ask again.")),
    (range(400, 500), ("KNB605", "refused the request", "Correct what it names, then ask again.")),
    (
        range(500, 600),
        (
            "KNB606",
            "failed on this request",
            "Look into the server's log. The request was sent once and is not repeated by itself.",
        ),
    ),
)


def _by_status(status: int | None, raw: str, engine: Engine) -> EngineError:
    said = _short(raw, engine)
    if status is None:
        return broken_stream(engine, said)
    if status == _UNAVAILABLE and "oading" in raw:
        return EngineError(
            "KNB603",
            f"{_where(engine)} is still loading the model",
            why=said,
            fix="Wait until it is ready (kimi-nb serve says when), then ask again.",
        )
    for statuses, (id_, what, fix) in _BY_STATUS:
        if status in statuses:
            return EngineError(id_, f"{_where(engine)} {what}", why=f"HTTP {status}, {said}", fix=fix)
    return no_engine(engine, said)


def no_engine(engine: Engine, said: str) -> EngineError:
    """Return the error for an answer that is not of the OpenAI kind."""
    return EngineError(
        "KNB615",
        f"what answers at {shown_address(engine)} does not speak the OpenAI protocol",
        why=_short(said, engine),
        fix="Check the base URL: it usually ends in /v1, and a proxy may sit in front of the engine.",
    )


def broken_stream(engine: Engine, said: str) -> EngineError:
    """Return the error for an answer that ended before its end."""
    return EngineError(
        "KNB607",
        f"the answer from {engine.kind} broke off",
        why=_short(said, engine),
        fix="Look into the server's log; the text that had arrived is kept in the error's partial.",
    )


def cancelled() -> EngineError:
    """Return the error for an answer that somebody did not want any more."""
    return EngineError(
        "KNB625",
        "the answer was cancelled",
        why="its cancel event was set",
        fix="Ask again; the text that had arrived is kept in the error's partial.",
    )


def too_slow(engine: Engine, what: str) -> EngineError:
    """Return the error for a wait that took too long."""
    return EngineError(
        "KNB609",
        f"{_where(engine)} took too long",
        why=f"{what} passed its limit; a large prompt on a processor can take many minutes",
        fix="Raise timeout_s or deadline_s, or look into the server's log to see whether it is stuck.",
    )
