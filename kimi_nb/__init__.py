"""kimi-nb: from "can my machine run Kimi K2.5?" to a served model with tool calls.

The package is a set of small subpackages that data flows through one way: ``model`` and ``machine`` describe,
``plan`` decides, ``engine`` builds, fetches and serves, ``chat`` talks, ``run`` executes notebooks and
records what happened. Importing this module loads none of them, so that ``import kimi_nb`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.errors import KimiNbError, UsageError

__all__ = ["KimiNbError", "UsageError", "__version__"]

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_exports(__name__, {"KimiNbError": "errors", "UsageError": "errors"})
