"""Whether a header describes a model that llama.cpp would load, as far as the memory formulas rely on it.

Written after ``load_arch_tensors`` in ``src/models/deepseek2.cpp``. A damaged or made-up header ends
here, with one clear error, and not somewhere in the arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.model import Model

__all__ = ["check_layer", "check_sizes", "not_covered"]

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MAX_SIZE = 1 << 24
_ANY = -1


def not_covered(model: Model, why: str) -> ModelFileError:
    """Return the error for a model whose memory cannot be worked out."""
    return ModelFileError(
        "KNB371",
        f"The memory of {model.name[:80]} cannot be worked out",
        why=why,
        fix="Take a current conversion of Kimi K2 to K2.7 or DeepSeek V3, or ask llama-fit-params.",
    )


def check_sizes(model: Model) -> None:
    """See that the hyperparameters are within llama.cpp's limits and fit one another.

    Raises:
        ModelFileError: KNB371.
    """
    if model.architecture != "deepseek2":
        raise not_covered(model, f"its architecture is {model.architecture[:40]}")
    if not model.is_mla:
        raise not_covered(model, "it was converted before latent attention was supported; its cache is huge")
    experts, used = model.expert_count, model.expert_used_count
    groups, groups_used = model.integer("expert_group_count", 0), model.integer("expert_group_used_count", 0)
    sizes = (
        model.embedding_length,
        model.head_count,
        model.kv_lora_rank,
        model.rope_dimension_count,
        model.value_length_mla,
        model.context_length,
    )
    fine = (
        0 < model.block_count <= _MAX_LAYERS
        and 0 <= model.nextn_predict_layers < model.block_count
        and all(0 < size < _MAX_SIZE for size in sizes)
        and model.rope_dimension_count < model.key_length_mla < _MAX_SIZE
        and 0 <= experts <= _MAX_EXPERTS
        and (0 < used <= experts if experts else True)
        and (groups <= 1 or (experts % groups == 0 and experts // groups > 1 and 0 < groups_used < groups))
    )
    if not fine:
        raise not_covered(model, "its hyperparameters contradict one another or llama.cpp's limits")


def check_layer(model: Model, name: str, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """See that a layer (or, with an empty name, the model's ends) has the tensors it needs, and no others.

    Args:
        model: The model.
        name: What stands before the roles: ``blk.3.``.
        tensors: Role to shape.

    Raises:
        ModelFileError: KNB371.
    """
    expected = _layer_shapes(model, tensors) if name else _end_shapes(model)
    optional = {"exp_probs_b"}
    missing = sorted(set(expected) - set(tensors) - optional)
    if missing:
        raise not_covered(model, f"it has no tensor {name}{missing[0]}")
    for role, shape in tensors.items():
        wanted = expected.get(role)
        if wanted is None:
            raise not_covered(model, f"it has a tensor {name}{role}, which is not expected")
        plain = shape + (1,) * (len(wanted) - len(shape))
        if len(plain) != len(wanted) or any(
            n != w and (w != _ANY or n < 1) for n, w in zip(plain, wanted, strict=True)
        ):
            raise not_covered(model, f"{name}{role} has the shape {list(shape)}")
    _check_widths(model, name, tensors)


def _end_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    width = model.embedding_length
    return {"token_embd": (width, _ANY), "output_norm": (width,), "output": (width, _ANY)}


def _layer_shapes(model: Model, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    width, heads, latent, rot = (
        model.embedding_length,
        model.head_count,
        model.kv_lora_rank,
        model.rope_dimension_count,
    )
    key, value, experts = model.key_length_mla, model.value_length_mla, model.expert_count
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "attn_kv_a_mqa": (width, latent + rot),
        "attn_kv_a_norm": (latent,),
        "attn_k_b": (key - rot, latent, heads),
        "attn_v_b": (latent, value, heads),
        "attn_output": (heads * value, width),
    }
    if "attn_q" in tensors:
        shapes["attn_q"] = (width, heads * key)
    else:
        rank = model.q_lora_rank
        shapes |= {"attn_q_a": (width, rank), "attn_q_a_norm": (rank,), "attn_q_b": (rank, heads * key)}
    if "ffn_gate_inp" not in tensors:
        return shapes | {"ffn_gate": (width, _ANY), "ffn_up": (width, _ANY), "ffn_down": (_ANY, width)}
    shapes |= {"ffn_gate_inp": (width, experts), "exp_probs_b": (experts,)}
    if "ffn_gate_up_exps" in tensors:
        shapes["ffn_gate_up_exps"] = (width, _ANY, experts)
    else:
        shapes |= {"ffn_gate_exps": (width, _ANY, experts), "ffn_up_exps": (width, _ANY, experts)}
    shapes |= {"ffn_down_exps": (_ANY, width, experts), "ffn_down_shexp": (_ANY, width)}
    return shapes | {"ffn_gate_shexp": (width, _ANY), "ffn_up_shexp": (width, _ANY)}


def _check_widths(model: Model, name: str, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """See that up, gate and down agree on their inner width."""
    for end in ("", "_exps", "_shexp"):
        down = tensors.get(f"ffn_down{end}")
        if down is None:
            continue
        wide = {tensors[role][1] for role in (f"ffn_up{end}", f"ffn_gate{end}") if role in tensors}
        if end == "_exps" and "ffn_gate_up_exps" in tensors:
            wide |= {tensors["ffn_gate_up_exps"][1] // 2}
        if wide != {down[0]} or down[0] < 1:
            raise not_covered(model, f"{name}ffn_down{end} does not suit its neighbours")
