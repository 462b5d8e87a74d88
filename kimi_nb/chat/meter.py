"""Measure a stream: time to the first token, to the first answer token, and the speed, each with its formula.

Benchmarks give the same name to different figures, so a speed without its formula says little. Ours:

- the clock starts when the finished request is handed to the HTTP client, just before it goes on the wire;
- ``ttft_s`` ends with the first piece of reasoning, answer or tool call. The first chunks of a stream, which
  carry only a role or the prompt's progress, do not count;
- ``ttfa_s`` ends with the first piece of the answer or of a tool call;
- ``tok_s`` is decode speed alone, without the prompt. A chunk may carry several tokens (speculative
  decoding), and the end mark is a token without text, so the engine's own count is used, up to the chunk that
  says it has finished. The marks that begin a tool call are tokens too, and are held back until the call can
  be told: there the client cannot know, and llama-server's own figure is given. So it is where the client was
  too late: a short answer that lay there whole when a busy client came to read it "took" next to no time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Meter", "Reading"]

_MANY = 2  # a gap, and so a speed, needs two chunks
_LATE = 1.5  # times as fast as the engine wrote: so the client read what had been waiting for it
_SERVERS = "llama-server's predicted_per_second"


@dataclass(frozen=True)
class Reading:
    """What a :class:`Meter` measured; times in seconds, None where there was nothing to measure.

    Attributes:
        ttft_s: Request to first token of any kind.
        ttfa_s: Request to first token of the answer (or of a tool call).
        total_s: Request to the end of the stream.
        tok_s: Decode speed in tokens per second.
        tok_s_formula: How ``tok_s`` was computed.
        gap_p50_ms: Median gap between chunks that carried tokens.
        gap_p95_ms: 95th percentile of those gaps.
        server: llama-server's own ``timings``, under its own names, if it gave any.
    """

    ttft_s: float | None
    ttfa_s: float | None
    total_s: float
    tok_s: float | None
    tok_s_formula: str | None
    gap_p50_ms: float | None
    gap_p95_ms: float | None
    server: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """Return the figures a person wants, in one line."""
        parts = []
        if self.ttft_s is not None:
            parts.append(f"first token after {self.ttft_s:.2f} s")
        if self.ttfa_s is not None and self.ttfa_s != self.ttft_s:
            parts.append(f"answer after {self.ttfa_s:.2f} s")
        if self.tok_s is not None:
            parts.append(f"{self.tok_s:.1f} tokens/s")
        if self.tok_s_formula == _SERVERS:
            parts[-1] += " by the server's clock"
        elif "predicted_per_second" in self.server:
            parts.append(f"the server says {self.server['predicted_per_second']:.1f}")
        return ", ".join([*parts, f"{self.total_s:.2f} s in all"])


class Meter:
    """Note when tokens arrive; make one for each request. The clock runs from the start."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._answer: float | None = None
        self._finished: float | None = None
        self._tokens: list[float] = []

    def start(self) -> None:
        """Start the clock anew: the request goes out now."""
        self._start = self._clock()

    def token(self, *, answer: bool) -> None:
        """Note a chunk that carries tokens, of the answer or of the thinking."""
        now = self._clock()
        self._tokens.append(now)
        if answer and self._answer is None:
            self._answer = now

    def finish(self) -> None:
        """Note the chunk with which the engine says that it has finished."""
        self._finished = self._clock()

    def reading(
        self, completion_tokens: int | None, server: Mapping[str, float] | None = None, *, calls: bool = False
    ) -> Reading:
        """Return what was measured so far.

        Args:
            completion_tokens: The engine's count, if it gave one.
            server: llama-server's ``timings``, if it gave any.
            calls: Whether the reply holds tool calls.
        """
        at, end = self._tokens, self._clock()
        speed, formula = self._speed(completion_tokens, dict(server or {}), calls=calls)
        gaps = sorted(1000 * (later - sooner) for sooner, later in pairwise(at))
        return Reading(
            ttft_s=at[0] - self._start if at else None,
            ttfa_s=None if self._answer is None else self._answer - self._start,
            total_s=end - self._start,
            tok_s=speed,
            tok_s_formula=formula,
            gap_p50_ms=gaps[len(gaps) // 2] if gaps else None,
            gap_p95_ms=gaps[min(len(gaps) - 1, int(len(gaps) * 0.95))] if gaps else None,
            server=dict(server or {}),
        )

    def _speed(
        self, completion_tokens: int | None, server: dict[str, float], *, calls: bool
    ) -> tuple[float | None, str | None]:
        told = server.get("predicted_per_second")
        if calls:
            return told, None if told is None else _SERVERS
        at = self._tokens
        if completion_tokens is not None and self._finished is not None:
            count, last = completion_tokens, self._finished
            formula = "(completion_tokens - 1) / (time of finishing chunk - time of first chunk)"
        else:
            count, last = len(at), at[-1] if at else 0.0
            formula = "(chunks - 1) / (time of last chunk - time of first chunk)"
        if len(at) < _MANY or count < _MANY or last <= at[0]:
            return None, None
        speed = (count - 1) / (last - at[0])
        if told is not None and speed > _LATE * told:
            return told, _SERVERS
        return speed, formula
