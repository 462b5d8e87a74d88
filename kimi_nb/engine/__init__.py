"""Building llama.cpp, and running models on it.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOME = {
    "Build": "build",
    "Engine": "endpoint",
    "InProcess": "in_process",
    "LlamaServer": "llama_server",
    "ensure_build": "build",
    "find_build": "build",
    "load_llama_cpp": "binding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
