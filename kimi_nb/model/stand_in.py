"""A stand-in for a header that was not read: the catalog's shapes, with types chosen to give its size.

How a publisher spreads its bits is not known without the file. Here all that is no expert gets 8 bits
where that leaves enough, and the experts two neighbouring types, so that the sum is the catalog's. A plan
made from it is near, and must be labelled so.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError
from kimi_nb.model.ggml_types import TYPES_BY_NAME
from kimi_nb.model.gguf_model import Model, Shard
from kimi_nb.model.gguf_tensors import TensorInfo

if TYPE_CHECKING:
    from kimi_nb.model.catalog_records import Architecture, CatalogModel, Quant
    from kimi_nb.model.gguf_values import Value

__all__ = ["stand_in"]

_EXPERT_TYPES = (
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "Q2_K",
    "IQ3_XXS",
    "Q3_K",
    "IQ4_XS",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_0",
    "BF16",
)
_REST_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
_GATING = {"softmax": 1, "sigmoid": 2}

Shape = tuple[int, ...]


def stand_in(model: CatalogModel, quant: Quant) -> Model:
    """Return a model of a quant's size and the catalog's shapes.

    Raises:
        UsageError: KNB395, the catalog knows no size or no shapes to make it from.
    """
    shape = model.architecture
    if quant.bytes is None or shape is None:
        raise UsageError(
            "KNB395",
            f"nothing can be said of {quant.name} of {model.name} without its header",
            why="the catalog does not know its size",
            fix="Be online, so that the header can be read, or choose another quant.",
        )
    ends = {"token_embd": (shape.n_embd, shape.n_vocab), "output_norm": (shape.n_embd,)}
    ends["output"] = (shape.n_embd, shape.n_vocab)
    layers = [_layer(shape, dense=number < shape.n_layer_dense_lead) for number in range(shape.n_layer)]
    rest, experts = _types(layers, ends, quant.bytes)
    tensors: list[TensorInfo] = []
    for role, ne in ends.items():
        tensors.append(_tensor(f"{role}.weight", ne, rest, tensors))
    for number, layer in enumerate(layers):
        for role, ne in layer.items():
            kind = experts[number] if role.endswith("_exps") else "F32" if role == "ffn_gate_inp" else rest
            name = f"blk.{number}.{role}.{'bias' if role == 'exp_probs_b' else 'weight'}"
            tensors.append(_tensor(name, ne, kind, tensors))
    tail = f"-00001-of-{quant.shards:05}" if quant.shards and quant.shards > 1 else ""
    name = f"{quant.stem}{tail}.gguf"
    shard = Shard(name=name, source=name, size_bytes=quant.bytes, data_offset=0, header=b"")
    return Model((shard,), _metadata(model.name, shape), {}, tuple(tensors))


def _layer(shape: Architecture, *, dense: bool) -> dict[str, Shape]:
    """Return a layer's tensors by role (``load_arch_tensors`` in llama.cpp's ``deepseek2.cpp``)."""
    width, heads, key = shape.n_embd, shape.n_head, shape.n_embd_head_nope + shape.n_rot
    roles: dict[str, Shape] = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "attn_kv_a_norm": (shape.n_lora_kv,),
        "attn_q_a_norm": (shape.n_lora_q,),
        "attn_q_a": (width, shape.n_lora_q),
        "attn_q_b": (shape.n_lora_q, heads * key),
        "attn_kv_a_mqa": (width, shape.n_lora_kv + shape.n_rot),
        "attn_k_b": (shape.n_embd_head_nope, shape.n_lora_kv, heads),
        "attn_v_b": (shape.n_lora_kv, shape.n_embd_head_v, heads),
        "attn_output": (heads * shape.n_embd_head_v, width),
    }
    parts = {"ffn_gate": (width, shape.n_ff), "ffn_up": (width, shape.n_ff), "ffn_down": (shape.n_ff, width)}
    if dense:
        return roles | parts
    inner, count, shared = shape.n_ff_exp, shape.n_expert, shape.n_ff_exp * shape.n_expert_shared
    return roles | {
        "ffn_gate_inp": (width, count),
        "exp_probs_b": (count,),
        "ffn_gate_exps": (width, inner, count),
        "ffn_up_exps": (width, inner, count),
        "ffn_down_exps": (inner, width, count),
        "ffn_gate_shexp": (width, shared),
        "ffn_up_shexp": (width, shared),
        "ffn_down_shexp": (shared, width),
    }


def _types(layers: list[dict[str, Shape]], ends: dict[str, Shape], n_bytes: int) -> tuple[str, list[str]]:
    """Return the type of what is no expert, and of each layer's experts, that together give a size."""
    experts = [prod(ne) for layer in layers for role, ne in layer.items() if role.endswith("_exps")]
    others = [
        (role, ne) for part in (ends, *layers) for role, ne in part.items() if not role.endswith("_exps")
    ]
    bits, rest = 0.0, ""
    for rest in _REST_TYPES:
        taken = sum(_bytes("F32" if role == "ffn_gate_inp" else rest, ne) for role, ne in others)
        bits = 8 * (n_bytes - taken) / max(sum(experts), 1)
        if bits >= TYPES_BY_NAME[_EXPERT_TYPES[0]].bits_per_weight:
            break
    steps = [TYPES_BY_NAME[name].bits_per_weight for name in _EXPERT_TYPES]
    low = max(0, min(sum(step <= bits for step in steps) - 1, len(steps) - 2))
    share = min(max((bits - steps[low]) / (steps[low + 1] - steps[low]), 0.0), 1.0)
    count = len(layers)
    first = round(count * share)
    return rest, [_EXPERT_TYPES[low + (number < first)] for number in range(count)]


def _tensor(name: str, ne: Shape, kind: str, before: list[TensorInfo]) -> TensorInfo:
    kind = kind if len(ne) > 1 else "F32"
    offset = before[-1].offset + before[-1].n_bytes if before else 0
    return TensorInfo(name, ne, kind, _bytes(kind, ne), 0, offset)


def _bytes(kind: str, ne: Shape) -> int:
    block = TYPES_BY_NAME[kind]
    fits = ne[0] % block.block_size == 0
    return (block if fits else TYPES_BY_NAME["F32"]).row_size(ne[0]) * prod(ne[1:])


def _metadata(name: str, shape: Architecture) -> dict[str, Value]:
    arch = shape.gguf_architecture
    integers = {
        "block_count": shape.n_layer,
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "leading_dense_block_count": shape.n_layer_dense_lead,
        "vocab_size": shape.n_vocab,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": shape.n_lora_q,
        "attention.kv_lora_rank": shape.n_lora_kv,
        "attention.key_length": shape.n_lora_kv + shape.n_rot,
        "attention.value_length": shape.n_lora_kv,
        "attention.key_length_mla": shape.n_embd_head_nope + shape.n_rot,
        "attention.value_length_mla": shape.n_embd_head_v,
        "expert_feed_forward_length": shape.n_ff_exp,
        "expert_count": shape.n_expert,
        "expert_used_count": shape.n_expert_used,
        "expert_shared_count": shape.n_expert_shared,
        "expert_gating_func": _GATING.get(shape.expert_gating, 0),
        "rope.dimension_count": shape.n_rot,
    }
    values: dict[str, Value] = {f"{arch}.{key}": value for key, value in integers.items()}
    return values | {
        "general.architecture": arch,
        "general.name": name,
        f"{arch}.expert_weights_scale": shape.expert_weights_scale,
        f"{arch}.expert_weights_norm": shape.expert_weights_norm,
    }
