"""Whether a model suits this machine at all: said before a night is spent on it, and forbidding nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.errors import KimiNbError

if TYPE_CHECKING:
    from kimi_nb.engine.fetch.manifest import Manifest
    from kimi_nb.machine import Machine
    from kimi_nb.model.candidates import Candidate

__all__ = ["outlook"]

MIB = 1024 * 1024

LARGE = 2 * 1024**3
"""Models below this are not worth looking at the machine for, which takes a second."""


def outlook(manifest: Manifest, machine: Machine | None = None) -> list[str]:
    """Return what a person should know of a model on this machine before they fetch it.

    For a model of the catalog the planner is asked (without network, so by sizes); of others only their
    size is compared with all memory there is.

    Args:
        manifest: What is to be fetched.
        machine: This one by default.
    """
    weights = sum(file.size for file in manifest.files if _is_weights(file.path))
    if weights < LARGE:
        return []
    from kimi_nb.machine import probe

    machine = machine or probe()
    candidate = _candidate(manifest)
    found = _planned(candidate, machine) if candidate is not None else None
    if found is not None:
        return found
    memory = machine.capacity_mib * MIB
    if weights <= memory:
        return []
    sizes = f"{weights / 1e9:.0f} GB of weights are more than this machine's {memory / 1e9:.0f} GB of memory"
    return [f"{sizes}: llama.cpp will read from the disk for every token"]


def _is_weights(path: str) -> bool:
    return path.endswith(".gguf") and not path.rsplit("/", 1)[-1].startswith("mmproj")


def _candidate(manifest: Manifest) -> Candidate | None:
    """Return what the catalog knows of the set, if it is there; it lies on a disk we look at ourselves."""
    from dataclasses import replace

    from kimi_nb.model import catalog
    from kimi_nb.model.candidates import candidates

    for model in catalog().models.values():
        for quant in model.quants:
            if (quant.repo, quant.name.lower()) == (manifest.repo, manifest.quant.lower()):
                try:
                    (found,) = candidates(model.key, quant.name)
                except KimiNbError:  # its size is not in the catalog
                    return None
                return replace(found, on_disk=True)
    return None


def _planned(candidate: Candidate, machine: Machine) -> list[str] | None:
    """Return the planner's word, or ``None`` if it has none."""
    from kimi_nb.plan.planner import make_plan

    try:
        result = make_plan(candidate, machine)
    except KimiNbError:
        return None
    more = f"kimi-nb plan --model {candidate.key} --quant {candidate.quant} says more"
    if result.plan is None:
        return [f"{' '.join(result.reasons)} {' '.join(result.what_would_fit[:1])} {more}."]
    paged = result.plan.memory.host.paged_mib * MIB
    if not paged:
        return []
    room = f"{candidate.label} does not find room in this machine's memory"
    slow = f"{paged / 1e9:.0f} GB of its weights would be read from the disk again and again"
    speed = f"about {result.plan.forecast.decode_tok_s} tokens/s (a guess)"
    return [f"{room}: {slow}, at {speed}. {more}."]
