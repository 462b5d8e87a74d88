"""A slice of a model: its true width and types, a few of its layers, and weights that are random.

What a layer costs depends on its shapes and types, not on what its weights say; but which experts a token is
sent to does matter, and with zeros every token takes the same ones. So the router and the token embeddings
are random, and so is everything else as long as it is written at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.model.ggml_types import TYPES_BY_NAME
from kimi_nb.model.gguf_values import NumberArray
from kimi_nb.rehearse.blocks import random_blocks
from kimi_nb.rehearse.gguf_write import TensorSpec, header_bytes, padded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kimi_nb.model import Model, TensorInfo

__all__ = ["Slice", "moe_bytes", "moe_layers", "slice_bytes", "slice_tensors", "write_slice"]

_EXPERT_ROLES = ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps")
_ROUTER_ROLES = ("ffn_gate_inp", "exp_probs_b")
_PATTERN_BYTES = 4 << 20
_WRITE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Slice:
    """How much of a model to write.

    Attributes:
        n_dense: Dense layers; where the model has fewer, its first is repeated.
        n_moe: Layers of experts, spread evenly over the model's, light and heavy ones alike.
        n_expert: Experts in each; as many are used for a token as in the model.
        n_vocab: Tokens of the vocabulary.
    """

    n_dense: int
    n_moe: int
    n_expert: int
    n_vocab: int


def moe_layers(model: Model) -> list[int]:
    """Return the model's layers of experts, by the bytes of their weights; equal ones in their order."""
    sizes: dict[int, int] = {}
    for tensor in model.tensors:
        layer = tensor.layer
        if layer is not None and model.leading_dense_block_count <= layer < _n_layer(model):
            sizes[layer] = sizes.get(layer, 0) + tensor.n_bytes
    return sorted(sizes, key=lambda layer: (sizes[layer], layer))


def slice_tensors(model: Model, part: Slice) -> list[TensorSpec]:
    """Return the tensors of a slice, in file order."""
    by_layer: dict[int, list[TensorInfo]] = {}
    ends = []
    for tensor in model.tensors:
        if tensor.layer is None:
            ends.append(tensor)
        else:
            by_layer.setdefault(tensor.layer, []).append(tensor)
    listed = [_resized(tensor, tensor.name, part) for tensor in ends]
    for number, source in enumerate(_sources(model, part)):
        for tensor in by_layer[source]:
            name = f"blk.{number}.{tensor.name.split('.', 2)[2]}"
            listed.append(_resized(tensor, name, part))
    return listed


def slice_bytes(model: Model, part: Slice) -> int:
    """Return the bytes of a slice's weights."""
    return sum(padded(spec.n_bytes) for spec in slice_tensors(model, part))


def moe_bytes(model: Model, part: Slice) -> float:
    """Return the bytes that one token reads in a slice's layer of experts, on average; 0 without any."""
    used = model.expert_used_count / max(part.n_expert, 1)
    total = 0.0
    for spec in slice_tensors(model, part):
        if spec.name.startswith("blk.") and int(spec.name.split(".")[1]) >= part.n_dense:
            total += spec.n_bytes * (used if _role(spec.name) in _EXPERT_ROLES else 1.0)
    return total / part.n_moe if part.n_moe else 0.0


def write_slice(
    model: Model,
    part: Slice,
    path: Path,
    *,
    holes: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Write a slice of ``model`` to ``path``.

    Args:
        model: The model, from its header.
        part: How much of it.
        path: The file; it belongs into a private folder, for it is no model.
        holes: Leave the experts as holes of the file, which read as zeros; to be run with load mode ``none``.
        progress: Called with the fraction written.

    Raises:
        UsageError: The model has no layers of experts to take (KNB843).
        OSError: It cannot be written, as on a full disk.
    """
    specs = slice_tensors(model, part)
    total = max(sum(padded(spec.n_bytes) for spec in specs), 1)
    done = 0
    with path.open("xb", buffering=0) as file:
        file.write(header_bytes(_keys(model, part), specs))
        for number, spec in enumerate(specs):
            size = padded(spec.n_bytes)
            if holes and _role(spec.name) in _EXPERT_ROLES:
                file.seek(size, os.SEEK_CUR)
            else:
                for piece in _pieces(spec, number):
                    file.write(piece)
                    done += len(piece)
                    if progress is not None:
                        progress(done / total)
        file.truncate(file.tell())
    return path


def _n_layer(model: Model) -> int:
    return model.block_count - model.nextn_predict_layers


def _sources(model: Model, part: Slice) -> list[int]:
    """Return which of the model's layers each of the slice's is taken from."""
    dense = model.leading_dense_block_count
    experts = moe_layers(model)
    if (part.n_dense and not dense) or (part.n_moe and not experts):
        raise UsageError(
            "KNB843",
            f"{model.name} cannot be cut into slices",
            why="it has no dense layers at its start, or no layers of experts after them",
            fix="Rehearse a model of Kimi's kind; for others measure the model itself with llama-bench.",
        )
    spread = [experts[(2 * n + 1) * len(experts) // (2 * part.n_moe)] for n in range(part.n_moe)]
    return [min(n, dense - 1) for n in range(part.n_dense)] + sorted(spread)


def _resized(tensor: TensorInfo, name: str, part: Slice) -> TensorSpec:
    role, shape = _role(name), tensor.shape
    if role in {"token_embd", "output"} or role in _EXPERT_ROLES or role in _ROUTER_ROLES:
        last = part.n_vocab if role in {"token_embd", "output"} else part.n_expert
        shape = (*shape[:-1], min(shape[-1], last))
    return TensorSpec(name, shape, tensor.type)


def _role(name: str) -> str:
    parts = name.split(".")
    return parts[2] if parts[0] == "blk" else parts[0]


def _keys(model: Model, part: Slice) -> dict[str, tuple[str, Any]]:
    """Return the model's hyperparameters with the slice's numbers, and no tokenizer."""
    start = f"{model.architecture}."
    changed = {
        "block_count": part.n_dense + part.n_moe,
        "leading_dense_block_count": part.n_dense,
        "expert_count": min(part.n_expert, model.expert_count),
        "vocab_size": min(part.n_vocab, model.vocab_size),
    }
    keys: dict[str, tuple[str, Any]] = {
        "general.architecture": ("str", model.architecture),
        "general.name": ("str", "a slice with random weights, no model"),
        "tokenizer.ggml.model": ("str", "none"),
    }
    for name, value in model.metadata.items():
        key = name.removeprefix(start)
        if key == name or key in changed or key == "nextn_predict_layers":
            continue
        one_each = isinstance(value, NumberArray) and len(value) >= model.block_count
        keys[name] = (
            model.types[name],
            [value[n] for n in _sources(model, part)] if one_each else value,  # type: ignore[index] # an array
        )
    return keys | {start + key: ("u32", value) for key, value in changed.items()}


def _pieces(spec: TensorSpec, seed: int) -> Iterator[bytes]:
    """Yield a tensor's data, padding included."""
    import numpy as np

    kind = TYPES_BY_NAME[spec.type]
    blocks = spec.n_bytes // kind.type_size
    role = _role(spec.name)
    if len(spec.shape) == 1:
        value = 0.0 if role == "exp_probs_b" else 1.0
        data = np.full(spec.shape[0], value, dtype=np.float32).tobytes()
        yield data if spec.type == "F32" else random_blocks(spec.type, blocks, deviation=0.0).tobytes()
    else:
        whole = role in _ROUTER_ROLES  # it decides where tokens go: nothing in it repeats
        count = blocks if whole else min(blocks, _odd(_PATTERN_BYTES // kind.type_size))
        deviation = 1.0 if role == "token_embd" else spec.shape[0] ** -0.5
        yield from _repeated(random_blocks(spec.type, count, deviation=deviation, seed=seed), spec.n_bytes)
    yield bytes(padded(spec.n_bytes) - spec.n_bytes)


def _odd(count: int) -> int:
    """Return a number near ``count`` without small factors, so that rows begin at different places."""
    found = max(count | 1, 3)
    while any(found % factor == 0 for factor in (3, 5, 7, 11, 13)):
        found += 2
    return found


def _repeated(pattern: Any, n_bytes: int) -> Iterator[bytes]:
    import numpy as np

    times = min(max(_WRITE_BYTES // len(pattern), 1), -(-n_bytes // len(pattern)))
    piece = np.tile(pattern, times).tobytes()
    for left in range(n_bytes, 0, -len(piece)):
        yield piece if left >= len(piece) else piece[:left]
