"""Deciding how a model is to be run: llama.cpp's settings, checked before anything is started."""

from __future__ import annotations

from kimi_nb.plan.settings import Settings

__all__ = ["Settings"]
