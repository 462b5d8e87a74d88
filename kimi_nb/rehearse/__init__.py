"""Finding out by running llama.cpp's own programs on files that only look like the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.rehearse.ghost import Ghost, ghost_of
    from kimi_nb.rehearse.rehearsal import rehearse
    from kimi_nb.rehearse.saved import find_profile, load_profile, save_profile, saved_profiles
    from kimi_nb.rehearse.verify import Verified

__all__ = [
    "Ghost",
    "Verified",
    "find_profile",
    "ghost_of",
    "load_profile",
    "rehearse",
    "save_profile",
    "saved_profiles",
]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Ghost": "ghost",
        "Verified": "verify",
        "find_profile": "saved",
        "ghost_of": "ghost",
        "load_profile": "saved",
        "rehearse": "rehearsal",
        "save_profile": "saved",
        "saved_profiles": "saved",
    },
)
