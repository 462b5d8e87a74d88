"""Finding out by running llama.cpp's own programs on files that only look like the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.rehearse.ghost import Ghost, ghost_of
    from kimi_nb.rehearse.verify import Verified

__all__ = ["Ghost", "Verified", "ghost_of"]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Ghost": "ghost",
        "Verified": "verify",
        "ghost_of": "ghost",
    },
)
