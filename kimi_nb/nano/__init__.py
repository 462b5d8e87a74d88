"""nano: the laptop-sized model with Kimi K2.5's architecture that everything here can run on.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_nb.nano.make import make_nano, nano_path
    from kimi_nb.nano.shape import SHAPE, NanoShape
    from kimi_nb.nano.vocab import Vocab, vocabulary

__all__ = ["SHAPE", "NanoShape", "Vocab", "make_nano", "nano_path", "vocabulary"]

_HOME = {
    "SHAPE": "shape",
    "NanoShape": "shape",
    "Vocab": "vocab",
    "make_nano": "make",
    "nano_path": "make",
    "vocabulary": "vocab",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
