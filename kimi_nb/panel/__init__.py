<<<<<<< HEAD
"""Panels for JupyterLab, each with one call in a notebook; so far for planning and for chatting.
=======
"""Panels for JupyterLab, each with one call in a notebook; at present the plan and the download panel.
>>>>>>> a123e5c (The download panel: what comes, how far it is, whether it is whole)

A panel is a view of what the rest of the package does, and holds no logic of its own. In a headless run,
where nobody can press a button, it shows itself as a readable summary instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
<<<<<<< HEAD
    from kimi_nb.panel.calls import chat, plan

__all__ = ["chat", "plan"]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(__name__, {"chat": "calls", "plan": "calls"})
=======
    from kimi_nb.panel.calls import download, plan

__all__ = ["download", "plan"]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(__name__, {"download": "calls", "plan": "calls"})
>>>>>>> a123e5c (The download panel: what comes, how far it is, whether it is whole)
