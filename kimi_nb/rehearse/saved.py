"""Where profiles are kept, and finding the one that holds for a model on a machine."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from kimi_nb.errors import RehearsalError, UsageError
from kimi_nb.files import write_json
from kimi_nb.plan.profile import Profile
from kimi_nb.plan.profile_model import mismatch
from kimi_nb.records import read_json
from kimi_nb.rehearse.private_folder import rehearse_home

if TYPE_CHECKING:
    from pathlib import Path

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model

__all__ = ["find_profile", "load_profile", "machine_key", "save_profile", "saved_profiles"]


def machine_key(machine: Machine) -> str:
    """Return a short text that is the same for machines on which the same figures hold.

    Free memory changes from minute to minute and does not count; processors and GPUs do.
    """
    cpu = machine.cpu
    parts = [machine.system, cpu.model, cpu.architecture, str(cpu.usable_cores), *cpu.features]
    parts += [f"{gpu.name} {gpu.total_mib}" for gpu in machine.usable_gpus]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def save_profile(profile: Profile) -> Path:
    """Keep a profile, in place of an older one for the same machine, quant and build; return its path.

    Raises:
        RehearsalError: It cannot be written (KNB848).
    """
    name = "-".join(_plain(part) for part in (profile.model.name, profile.model.quant, profile.build))
    path = _home() / f"{profile.machine_key}-{name}.json"
    try:
        write_json(path, profile.to_dict())
    except OSError as error:
        raise RehearsalError(
            "KNB848",
            f"the profile could not be kept in {path.parent}",
            why=error.strerror or str(error),
            fix="Make that folder writable, or set KIMI_NB_CACHE to one that is.",
        ) from error
    return path


def load_profile(path: Path) -> Profile:
    """Read a profile from a file.

    Raises:
        UsageError: It cannot be read, or holds none (KNB841).
    """
    value = read_json(path, "profile", error_id="KNB841", fix="Measure anew with `kimi-nb rehearse`.")
    return Profile.from_dict(value, source=str(path))


def find_profile(model: Model, machine: Machine, *, build: str | None = None) -> Profile | None:
    """Return what was measured for a model on a machine: of several, the newest.

    Args:
        model: The model, from its header.
        machine: The machine.
        build: Only what was measured with this version of llama.cpp.
    """
    fitting = (profile for profile in saved_profiles(machine) if build in {None, profile.build})
    return next((profile for profile in fitting if mismatch(profile, model) is None), None)


def saved_profiles(machine: Machine) -> list[Profile]:
    """Return all that was measured on a machine, the newest first, passing over files that are no profile."""
    found = []
    for path in _home().glob(f"{machine_key(machine)}-*.json"):
        with suppress(UsageError):
            found.append(load_profile(path))
    return sorted(found, key=lambda profile: profile.made, reverse=True)


def _home() -> Path:
    return rehearse_home() / "profiles"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", text)[:60] or "unnamed"
