"""The record in a finished build's folder: what it was made from, and the hash of every file in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kimi_nb.files import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NAME", "faults", "inventory", "looks_complete", "read"]

NAME = "manifest.json"


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Return each file of ``folder`` with its size and sha256, or its link; the disk then has them all."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            found[path.name] = {"link": str(path.readlink())}
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            found[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return found


def read(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in ``folder``, or None where there is none that can be read."""
    try:
        value = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("files"), dict) else None


def looks_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether every file is there with its size; cheap, so it is asked on every use."""
    return all(
        _fault(folder / "bin" / name, entry, hashes=False) is None
        for name, entry in manifest["files"].items()
    )


def faults(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Read every file again and return one line for each that is missing or not what was built."""
    checked = (_fault(folder / "bin" / name, entry, hashes=True) for name, entry in manifest["files"].items())
    return [fault for fault in checked if fault]


def _fault(path: Path, entry: dict[str, Any], *, hashes: bool) -> str | None:
    try:
        if "link" in entry:
            return None if str(path.readlink()) == entry["link"] else f"{path.name} leads elsewhere"
        size = path.stat().st_size
    except OSError:
        return f"{path.name} is missing"
    if size != entry["bytes"]:
        return f"{path.name} has {size} bytes and should have {entry['bytes']}"
    if hashes and sha256_file(path) != entry["sha256"]:
        return f"{path.name} has other content than what was built"
    return None
