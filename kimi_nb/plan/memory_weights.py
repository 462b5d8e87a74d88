"""A model's weights, sorted so that placing them and adding them up takes microseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from kimi_nb.plan.memory_allocator import GPU_ALIGNMENT, HOST_ALIGNMENT, gpu_bytes
from kimi_nb.plan.memory_graph import Shape
from kimi_nb.plan.memory_schedule import MATMUL_KINDS
from kimi_nb.plan.memory_shapes import check_layer, check_sizes

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from kimi_nb.model import Model, TensorInfo

__all__ = ["Entry", "Form", "ModelWeights", "named_weights", "weights_of"]

_NAME = re.compile(r"blk\.(0|[1-9]\d{0,3})\.([a-z0-9_]+)\.(weight|bias)")
# What -cmoe and -ncmoe keep in host memory (LLM_FFN_EXPS_REGEX in common/common.h).
_EXPERTS = re.compile(r"ffn_(up|down|gate_up|gate)_(ch|)exps")
_SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID


@dataclass(frozen=True, slots=True)
class Entry:
    """One weight: its full name, its role in the graph, and what it takes on a GPU and in host memory."""

    name: str
    role: str
    kind: str
    ne: tuple[int, ...]
    on_gpu: int
    on_host: int
    is_expert: bool

    @property
    def gpu_can(self) -> bool:
        """Whether CUDA computes with this type; if not, llama.cpp keeps the weight in host memory."""
        return self.kind in MATMUL_KINDS


@dataclass(frozen=True, eq=False)
class Form:
    """What a layer's graph depends on: its weights' roles and shapes, and whether CUDA computes with them.

    Layers of the same form share one object, whichever model they are of, so that what was found out for one
    quant serves the others.
    """

    roles: tuple[tuple[str, tuple[int, ...], bool], ...]
    has_experts: bool

    @classmethod
    def of(cls, layer: tuple[Entry, ...]) -> Form:
        """Return the form of a layer."""
        roles = tuple((entry.role, entry.ne, entry.gpu_can) for entry in layer)
        form = _forms.get(roles)
        if form is None:
            form = _forms[roles] = cls(roles, any(entry.is_expert for entry in layer))
        return form


_forms: WeakValueDictionary[tuple[tuple[str, tuple[int, ...], bool], ...], Form] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """What the memory formulas need of a model.

    Attributes:
        shape: Hyperparameters of the graph.
        layers: The weights of each layer.
        ends: ``token_embd``, ``output_norm`` and ``output``.
        forms: The form of each layer.
        kinds: For each layer a number; layers of equal numbers have the same types throughout.
        sums: For each layer the bytes of experts and of the rest, on a GPU and in host memory.
        plain: Whether every weight may lie on a GPU.
        n_layer_all: The layers and those that only predict further tokens, which are not loaded but counted.
        cache_width: Values that the cache holds for a token and layer.
    """

    name: str
    shape: Shape
    layers: tuple[tuple[Entry, ...], ...]
    ends: dict[str, Entry]
    forms: tuple[Form, ...]
    kinds: tuple[int, ...]
    sums: tuple[tuple[int, int, int, int], ...]
    plain: bool
    n_layer_all: int
    cache_width: int
    context_length: int


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _entry(tensor: TensorInfo, role: str) -> Entry:
    return Entry(
        name=tensor.name,
        role=role,
        kind=tensor.type,
        ne=tensor.shape,
        on_gpu=_padded(
            gpu_bytes(tensor.type, tensor.shape[0] if tensor.shape else 1, tensor.n_bytes), GPU_ALIGNMENT
        ),
        on_host=_padded(tensor.n_bytes, HOST_ALIGNMENT),
        is_expert=_EXPERTS.match(role) is not None,
    )


@lru_cache(maxsize=16)
def weights_of(model: Model) -> ModelWeights:
    """Sort a model's weights.

    Raises:
        ModelFileError: KNB371, the model is of an architecture or an age that the formulas do not cover.
    """
    check_sizes(model)
    n_layer = model.block_count - model.nextn_predict_layers
    layers: list[list[Entry]] = [[] for _ in range(n_layer)]
    ends: dict[str, Entry] = {}
    for tensor in model.tensors:
        found = _NAME.fullmatch(tensor.name)
        if found is None:
            role = tensor.name.removesuffix(".weight")
            ends[role] = _entry(tensor, role)
        elif int(found[1]) < n_layer:
            layers[int(found[1])].append(_entry(tensor, found[2]))
    if "output" not in ends and "token_embd" in ends:
        ends["output"] = ends["token_embd"]  # tied: llama.cpp puts a second copy where the output is computed
    seen: set[Hashable] = set()
    for number, layer in enumerate(layers):
        shapes = tuple((entry.role, entry.ne) for entry in layer)
        if shapes not in seen:
            check_layer(model, f"blk.{number}.", dict(shapes))
            seen.add(shapes)
    check_layer(model, "", {role: entry.ne for role, entry in ends.items()})
    frozen = tuple(tuple(layer) for layer in layers)
    return ModelWeights(
        name=model.name,
        shape=_shape(model),
        layers=frozen,
        ends=ends,
        forms=tuple(Form.of(layer) for layer in frozen),
        kinds=_numbered(tuple((e.role, e.kind) for e in layer) for layer in frozen),
        sums=tuple(_sums(layer) for layer in frozen),
        plain=all(e.gpu_can for layer in frozen for e in layer) and ends["output"].gpu_can,
        n_layer_all=model.block_count,
        cache_width=model.kv_lora_rank + model.rope_dimension_count,
        context_length=model.context_length,
    )


@lru_cache(maxsize=16)
def named_weights(weights: ModelWeights) -> dict[str, tuple[Entry, int | None]]:
    """Return each weight by its full name, with the layer it belongs to, if any."""
    ends: dict[str, tuple[Entry, int | None]] = {one.name: (one, None) for one in weights.ends.values()}
    return ends | {
        entry.name: (entry, layer) for layer, entries in enumerate(weights.layers) for entry in entries
    }


def _shape(model: Model) -> Shape:
    gating = model.integer("expert_gating_func", 0)
    scale = model.metadata.get(f"{model.architecture}.expert_weights_scale", 0.0)
    return Shape(
        n_embd=model.embedding_length,
        n_head=model.head_count,
        n_rot=model.rope_dimension_count,
        n_lora_kv=model.kv_lora_rank,
        n_embd_head_k_mla=model.key_length_mla,
        n_expert=model.expert_count,
        n_expert_used=model.expert_used_count,
        n_expert_groups=model.integer("expert_group_count", 0),
        n_group_used=model.integer("expert_group_used_count", 0),
        sigmoid_gating=gating == _SIGMOID,
        expert_weights_norm=bool(model.metadata.get(f"{model.architecture}.expert_weights_norm", False)),
        expert_weights_scale=scale not in {0.0, 1.0},
    )


def _numbered(keys: Iterable[Hashable]) -> tuple[int, ...]:
    """Return for each key a number, equal for equal keys."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)


def _sums(layer: tuple[Entry, ...]) -> tuple[int, int, int, int]:
    experts = [entry for entry in layer if entry.is_expert]
    rest = [entry for entry in layer if not entry.is_expert]
    return (
        sum(e.on_gpu for e in experts),
        sum(e.on_host for e in experts),
        sum(e.on_gpu for e in rest),
        sum(e.on_host for e in rest),
    )
