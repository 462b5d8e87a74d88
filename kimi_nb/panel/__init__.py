"""Panels for JupyterLab, each with one call in a notebook: plan, download, serve, chat, or all four.

A panel is a view of what the rest of the package does, and holds no logic of its own. In a headless run,
where nobody can press a button, it shows itself as a readable summary instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.panel.calls import chat, dashboard, download, plan, server

__all__ = ["chat", "dashboard", "download", "plan", "server"]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(__name__, dict.fromkeys(__all__, "calls"))
