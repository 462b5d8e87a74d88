"""GPUs on the PCI bus, whether or not a driver answers for them."""

from __future__ import annotations

from pathlib import Path

from kimi_nb.machine.machine import Note
from kimi_nb.machine.read import text

__all__ = ["nvidia_on_bus", "read_other_gpus"]

_NVIDIA, _AMD, _INTEL = "0x10de", "0x1002", "0x8086"
_DISPLAY, _VGA, _3D = "0x0380", "0x0300", "0x0302"


def nvidia_on_bus(root: Path = Path("/")) -> int:
    """Count NVIDIA's GPUs on the PCI bus."""
    return sum(vendor == _NVIDIA for vendor, _ in _displays(root))


def read_other_gpus(root: Path = Path("/")) -> list[Note]:
    """Say what of AMD's and Intel's is there; its memory is not read, so that no plan counts on it."""
    count = sum(vendor == _AMD for vendor, _ in _displays(root))
    # Most Intel display controllers are part of the processor; those with their own class are cards.
    count += sum(vendor == _INTEL and kind in {_DISPLAY, _3D} for vendor, kind in _displays(root))
    if not count:
        return []
    return [
        Note(
            id="KNB119",
            severity="info",
            what=f"{count} AMD or Intel GPU(s) found, whose memory is not read",
            why="only NVIDIA's and Apple's interfaces are asked",
            fix="llama.cpp can use them in a Vulkan build; their memory is left out of what is said here.",
        )
    ]


def _displays(root: Path) -> list[tuple[str, str]]:
    """Return vendor and class of each display controller, such as ``("0x10de", "0x0302")``."""
    found = []
    try:
        devices = sorted((root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return []
    for device in devices:
        kind = (text(device / "class") or "")[:6]
        if kind in {_DISPLAY, _VGA, _3D}:
            found.append(((text(device / "vendor") or "").strip(), kind))
    return found
