"""Where an engine answers, and with which key: all that a client needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Engine", "EngineKind"]

EngineKind = Literal["llama-server", "vllm", "moonshot"]


@dataclass(frozen=True)
class Engine:
    """Something that answers OpenAI-style chat.

    Args:
        kind: Which one it is; they differ in small ways that the client knows.
        base_url: Up to and with ``/v1``.
        api_key: Never shown by ``repr``.
        model: The name to ask for.
    """

    kind: EngineKind
    base_url: str
    api_key: str = field(repr=False)
    model: str
