"""Texts for production made from a plan; at present a shell script that starts what was planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.recipe.shell import shell_script

__all__ = ["shell_script"]

__getattr__, __dir__ = lazy_exports(__name__, {"shell_script": "shell"})
