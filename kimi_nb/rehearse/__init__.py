"""Finding out by running llama.cpp's own programs on files that only look like the model."""

from __future__ import annotations

from kimi_nb.lazy import lazy_exports

__all__: list[str] = []

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(__name__, {})
