"""Put a reply together from the chunks of a stream, and see what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.chat.events import (
    ContentDelta,
    PromptProgress,
    ReasoningDelta,
    Reply,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from kimi_nb.chat.messages import whole_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimi_nb.chat.events import Event
    from kimi_nb.chat.meter import Meter
    from kimi_nb.chat.modes import Mode

__all__ = ["Draft"]


class _Call:
    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments: list[str] = []


class Draft:
    """A reply in the making.

    Args:
        mode: The mode that was asked for.
        model: The model's name until the engine gives its own.
        meter: Started just before the request was sent.
    """

    def __init__(self, mode: Mode, model: str, meter: Meter) -> None:
        self.finish_reason: str | None = None
        self._mode = mode
        self._model = model
        self._meter = meter
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, int] = {}
        self._usage = Usage()
        self._timings: dict[str, float] = {}

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has arrived."""
        return bool(self._content or self._reasoning or self._calls)

    def add(self, chunk: Any) -> Iterator[Event]:
        """Take in one chunk of the openai package's, and yield what it brings."""
        extra: dict[str, Any] = getattr(chunk, "model_extra", None) or {}
        self._model = getattr(chunk, "model", None) or self._model
        if isinstance(timings := extra.get("timings"), dict):
            self._timings = {name: value for name, value in timings.items() if isinstance(value, int | float)}
        self._count(getattr(chunk, "usage", None))
        if isinstance(progress := extra.get("prompt_progress"), dict):
            known = (progress.get(name) for name in ("processed", "total", "cache"))
            yield PromptProgress(*(value if isinstance(value, int) else 0 for value in known))
        for choice in _list(getattr(chunk, "choices", None))[:1]:
            if finished := getattr(choice, "finish_reason", None):
                self.finish_reason = str(finished)
            # Moonshot's API puts the usage here.
            self._count((getattr(choice, "model_extra", None) or {}).get("usage"))
            if (delta := getattr(choice, "delta", None)) is not None:
                yield from self._take(delta)
            if finished:
                self._meter.finish()

    def _take(self, delta: Any) -> Iterator[Event]:
        extra: dict[str, Any] = getattr(delta, "model_extra", None) or {}
        # vLLM renamed reasoning_content to reasoning, and for a while sent both.
        reasoning = extra.get("reasoning_content") or extra.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            self._meter.token(answer=False)
            self._reasoning.append(reasoning)
            yield ReasoningDelta(reasoning)
        content = getattr(delta, "content", None)
        if isinstance(content, str) and content:
            self._meter.token(answer=True)
            self._content.append(content)
            yield ContentDelta(content)
        for piece in _list(getattr(delta, "tool_calls", None)):
            self._meter.token(answer=True)
            yield self._take_call(piece)

    def _take_call(self, piece: Any) -> ToolCallDelta:
        function = getattr(piece, "function", None)
        id_ = _text(getattr(piece, "id", None))
        name = _text(getattr(function, "name", None))
        arguments = _text(getattr(function, "arguments", None))
        index = getattr(piece, "index", None)
        key = index if isinstance(index, int) else 0
        place = self._by_index.get(key)
        # Some servers give every call the index 0: a new id with a new name is a new call all the same.
        if place is None or (id_ and name and self._calls[place].name):
            place = self._by_index[key] = len(self._calls)
            self._calls.append(_Call())
        call = self._calls[place]
        call.id = call.id or id_
        call.name = call.name or name
        call.arguments.append(arguments)
        return ToolCallDelta(place, id_, name, arguments)

    def _count(self, usage: Any) -> None:
        if usage is None:
            return
        cached = _field(_field(usage, "prompt_tokens_details"), "cached_tokens")
        if cached is None:  # Moonshot's API says it here
            cached = _field(usage, "cached_tokens")
        given = (_field(usage, "prompt_tokens"), _field(usage, "completion_tokens"), cached)
        self._usage = Usage(*(value if isinstance(value, int) else None for value in given))

    def reply(self) -> Reply:
        """Return what has arrived so far as a reply."""
        content, reasoning = whole_text("".join(self._content)), whole_text("".join(self._reasoning))
        calls = tuple(
            ToolCall(whole_text(call.id), whole_text(call.name), whole_text("".join(call.arguments)))
            for call in self._calls
        )
        return Reply(
            content=content,
            reasoning=reasoning,
            tool_calls=calls,
            finish_reason=self.finish_reason,
            usage=self._usage,
            meter=self._meter.reading(self._usage.completion_tokens, self._timings, calls=bool(calls)),
            mode=self._mode,
            model=self._model,
            hints=tuple(self._hints(content, reasoning)) if self.finish_reason else (),
        )

    def _hints(self, content: str, reasoning: str) -> Iterator[str]:
        if not content.strip() and not self._calls:
            if self.finish_reason == "length":
                spent = "thinking" if reasoning else "nothing that can be shown"
                yield (
                    f"KNB610: the answer is empty because max_tokens was spent on {spent}: raise max_tokens "
                    "(thinking alone can take thousands), or use mode='instant'"
                )
            else:
                yield "KNB610: the answer is empty: the model stopped after thinking; ask it to answer now"
        if self._mode == "instant" and reasoning:
            yield (
                "KNB616: there is thinking although instant mode was asked for: this engine's chat template "
                "does not know Kimi's switch, chat_template_kwargs {'thinking': false}"
            )
        if "<|tool_call_begin|>" in content or "<|tool_calls_section_begin|>" in content:
            yield (
                "KNB617: a tool call stands in the text: declare the tools in the request, and do not set "
                "tool_choice='none'"
            )
        if "<|im_end|>" in content:
            yield "KNB618: the end mark stands in the text: start llama-server without --special"
        if "<think>" in content or "</think>" in content:
            yield (
                "KNB619: the thinking stands in the answer: start vLLM with --reasoning-parser kimi_k2, and "
                "llama-server with --reasoning-format auto"
            )


# The openai package builds its objects without checking them: a field may hold anything that JSON can.
def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
