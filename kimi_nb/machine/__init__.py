"""The machine: what it has, what this process may use of it, and what is worth saying about it.

:func:`probe` looks at this one; :func:`load_profile` and :meth:`Machine.load` give one that is elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.lazy import lazy_exports

if TYPE_CHECKING:
    from kimi_nb.machine.look import probe
    from kimi_nb.machine.machine import (
        Cpu,
        Disk,
        Gpu,
        HostMemory,
        JupyterFacts,
        Machine,
        Note,
        NumaNode,
        NvidiaDriver,
    )
    from kimi_nb.machine.shipped import load_profile, machine_named, profiles
    from kimi_nb.machine.typed import typed_machine, with_gpus
    from kimi_nb.machine.verdict import FirstLook, QuantLook, first_look

__all__ = [
    "Cpu",
    "Disk",
    "FirstLook",
    "Gpu",
    "HostMemory",
    "JupyterFacts",
    "Machine",
    "Note",
    "NumaNode",
    "NvidiaDriver",
    "QuantLook",
    "first_look",
    "load_profile",
    "machine_named",
    "probe",
    "profiles",
    "typed_machine",
    "with_gpus",
]

# No module here bears the name of something this package exports: importing it would hide that.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Cpu": "machine",
        "Disk": "machine",
        "FirstLook": "verdict",
        "Gpu": "machine",
        "HostMemory": "machine",
        "JupyterFacts": "machine",
        "Machine": "machine",
        "Note": "machine",
        "NumaNode": "machine",
        "NvidiaDriver": "machine",
        "QuantLook": "verdict",
        "first_look": "verdict",
        "load_profile": "shipped",
        "machine_named": "shipped",
        "probe": "look",
        "profiles": "shipped",
        "typed_machine": "typed",
        "with_gpus": "typed",
    },
)
