"""Machines that are not here: typical values to plan with before one rents or buys."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home
from kimi_nb.machine.machine import Machine

__all__ = ["load_profile", "machine_named", "profiles"]


@cache
def profiles() -> dict[str, Machine]:
    """Return the machines that come with this package, by name; their values are typical, not measured."""
    found = {}
    for source in files("kimi_nb.machine").joinpath("profile_data").iterdir():
        if source.name.endswith(".json"):
            value = json.loads(source.read_text(encoding="utf-8"))
            found[source.name.removesuffix(".json")] = Machine.from_json(value, source=source.name)
    return dict(sorted(found.items()))


def load_profile(name: str) -> Machine:
    """Return the profile ``name``.

    Raises:
        UsageError: There is none of that name (KNB133); the nearest names are given.
    """
    try:
        return profiles()[name]
    except KeyError:
        near = get_close_matches(name, profiles(), n=3, cutoff=0.4)
        raise UsageError(
            "KNB133",
            f"there is no machine {name!r}",
            why=f"it is neither a file nor one of the profiles {', '.join(profiles())}",
            fix=f"Did you mean {' or '.join(near)}?"
            if near
            else "Name one of them, or a saved machine file.",
        ) from None


def machine_named(name: str) -> Machine:
    """Return the profile ``name``, or else the machine saved in the file ``name``.

    Raises:
        UsageError: It is neither (KNB133), or the file is not a machine file (KNB131, KNB132).
    """
    path = at_home(name)
    if name and name not in profiles() and path.exists():
        return Machine.load(path)
    return load_profile(name)
