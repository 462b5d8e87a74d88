"""Models to run for real: true width and types, twenty layers, as many experts as disk and memory take.

Their weights are random, so that tokens are sent to all experts. They lie in a folder whose name no code of
ours takes a model from, and are removed at the end of a proof.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.model import read_header
from kimi_nb.model.header_only import SUFFIX

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from header_models import ORACLE_MODELS, ModelShape, kimi_types

if TYPE_CHECKING:
    from stages import Proof

    from kimi_nb.model import Model

__all__ = ["full_header", "run_folder", "trial_model"]

_MIB = 1 << 20
_DISK_SHARE, _MEMORY_SHARE = 0.6, 0.4
#: Beside the oracle's: experts of a type that CUDA has to unpack while a prompt is read.
_SHAPES = ORACLE_MODELS | {"IQ1M": ModelShape(types=kimi_types("Q4_K", "IQ1_M", "IQ1_M", "Q6_K"))}
_EXPERTS = (384, 256, 192, 128, 96, 64, 32)
#: For machines without a GPU: the same architecture at a size that a laptop runs in seconds.
_SMALL: dict[str, Any] = {
    "n_embd": 1024,
    "n_ff": 2048,
    "n_ff_exp": 256,
    "n_head": 16,
    "q_lora": 512,
    "n_vocab": 8192,
    "n_expert": 64,
}


def run_folder(proof: Proof) -> Path:
    """Return the folder for models that are run."""
    folder = proof.folder / f"trials{SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def full_header(quant: str, *, small: bool, n_layer: int = 61, n_expert: int = 384) -> Model:
    """Return the header of Kimi's shape in one quant, with so many layers and experts."""
    shape = replace(_SHAPES[quant], n_layer=n_layer, n_expert=n_expert)
    if small:
        shape = ModelShape(**{**_SMALL, "n_layer": n_layer, "types": shape.types})
    with tempfile.TemporaryDirectory() as folder:
        return shape.read(Path(folder) / f"{quant}.gguf")


def trial_model(proof: Proof, quant: str) -> tuple[Model, Path]:
    """Return a model of :attr:`Proof.options` ``layers`` layers of experts, written before the first use."""
    from kimi_nb.rehearse.slices import Slice, slice_bytes, write_slice

    layers = proof.options["layers"]
    path = run_folder(proof) / f"trial-{quant}-{layers}.gguf"
    if not path.exists():
        others = list(path.parent.glob("trial-*.gguf"))
        n_bytes = sum(other.stat().st_size for other in others)
        free = shutil.disk_usage(path.parent).free
        memory = proof.machine.memory.total_mib * _MIB
        room = min((free + n_bytes) * _DISK_SHARE, memory * _MEMORY_SHARE)
        small, most = bool(proof.options["small"]), proof.options["experts"]
        for n_expert in (min(number, most) for number in _EXPERTS):
            model = full_header(quant, small=small, n_layer=layers + 1, n_expert=n_expert)
            part = Slice(n_dense=1, n_moe=layers, n_expert=model.expert_count, n_vocab=model.vocab_size)
            if slice_bytes(model, part) <= room:
                break
        # Both stay where there is room, also where the folder lies in memory: two stages use them in turn.
        if slice_bytes(model, part) > free * _DISK_SHARE or n_bytes + slice_bytes(model, part) > memory / 2:
            for other in others:
                other.unlink()
        print(f"  writing {path.name}: {slice_bytes(model, part) / 1e9:.1f} GB", flush=True)
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        write_slice(model, part, partial)
        partial.rename(path)
        os.sync()  # what is still to be written to a disk would disturb what is measured next
    return read_header(path, allow_header_only=True), path
