"""Building llama.cpp, and running models on it.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.engine.binding import load_llama_cpp
    from kimi_nb.engine.build import Build, ensure_build, find_build
    from kimi_nb.engine.endpoint import Engine
    from kimi_nb.engine.in_process import InProcess
    from kimi_nb.engine.llama_server import LlamaServer

__all__ = [
    "Build",
    "Engine",
    "InProcess",
    "LlamaServer",
    "ensure_build",
    "find_build",
    "load_llama_cpp",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Build": "build",
        "Engine": "endpoint",
        "InProcess": "in_process",
        "LlamaServer": "llama_server",
        "ensure_build": "build",
        "find_build": "build",
        "load_llama_cpp": "binding",
    },
)
