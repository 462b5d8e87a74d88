"""nano: the laptop-sized model with Kimi K2.5's architecture that everything here can run on.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.nano.make import make_nano, nano_facts, nano_path
    from kimi_nb.nano.shape import SHAPE, NanoShape
    from kimi_nb.nano.vocab import Vocab, vocabulary

__all__ = ["SHAPE", "NanoShape", "Vocab", "make_nano", "nano_facts", "nano_path", "vocabulary"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "NanoShape": "shape",
        "SHAPE": "shape",
        "Vocab": "vocab",
        "make_nano": "make",
        "nano_facts": "make",
        "nano_path": "make",
        "vocabulary": "vocab",
    },
)
