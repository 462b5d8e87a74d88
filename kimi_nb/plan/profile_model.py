"""What of a model its speed depends on, and whether a profile of one model may stand for another."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_weights import weights_of
from kimi_nb.plan.profile import ProfileModel

if TYPE_CHECKING:
    from kimi_nb.model import Model
    from kimi_nb.plan.memory_weights import ModelWeights
    from kimi_nb.plan.profile import Profile

__all__ = ["layer_loads", "mismatch", "profile_model"]

_SAME = 1.15
"""Layers whose bytes differ by less than this are told apart by bytes alone; the costs are scaled."""


@lru_cache(maxsize=16)
def layer_loads(weights: ModelWeights) -> tuple[tuple[bool, float, float], ...]:
    """Return for each layer: whether it is dense; bytes a token reads of shared weights, and of experts."""
    share = weights.shape.n_expert_used / max(weights.shape.n_expert, 1)
    return tuple(
        (
            not any(entry.is_expert for entry in layer),
            float(sum(entry.on_host for entry in layer if not entry.is_expert)),
            share * sum(entry.on_host for entry in layer if entry.is_expert),
        )
        for layer in weights.layers
    )


@lru_cache(maxsize=16)
def profile_model(model: Model) -> ProfileModel:
    """Return what of a model its speed depends on.

    Raises:
        ModelFileError: KNB371, the model is not covered.
    """
    weights = weights_of(model)
    share = weights.shape.n_expert_used / max(weights.shape.n_expert, 1)
    loads = layer_loads(weights)
    dense = [rest for dense, rest, _ in loads if dense]
    moe = [(rest, used) for dense, rest, used in loads if not dense]
    attention = [
        float(sum(entry.on_host for entry in layer if entry.role.startswith("attn_")))
        for layer, load in zip(weights.layers, loads, strict=True)
        if not load[0]
    ]
    types: dict[str, Counter[str]] = {}
    for entry in (*weights.ends.values(), *(entry for layer in weights.layers for entry in layer)):
        types.setdefault(entry.role, Counter())[entry.kind] += 1
    used = _mean([used for _, used in moe])
    return ProfileModel(
        name=model.name,
        quant=model.quant,
        architecture=model.architecture,
        n_embd=model.embedding_length,
        n_dense=len(dense),
        n_moe=len(moe),
        n_expert=weights.shape.n_expert,
        n_expert_used=weights.shape.n_expert_used,
        n_vocab=model.vocab_size,
        dense_bytes=_mean(dense),
        rest_bytes=_mean([rest for rest, _ in moe]),
        attention_bytes=_mean(attention),
        used_bytes=used,
        experts_bytes=used / share if share else 0.0,
        head_bytes=float(weights.ends["output"].on_host),
        types={role: tuple(kind for kind, _ in counted.most_common()) for role, counted in types.items()},
    )


def mismatch(profile: Profile, model: Model) -> str | None:
    """Return why a profile does not hold for a model; None where it does.

    Raises:
        ModelFileError: KNB371, the model is not covered.
    """
    theirs, ours = profile.model, profile_model(model)
    for name in ("architecture", "n_embd", "n_expert", "n_expert_used"):
        if getattr(theirs, name) != getattr(ours, name):
            return f"it is for {name} {getattr(theirs, name)}, and this model has {getattr(ours, name)}"
    for role, kinds in ours.types.items():
        if role.endswith("_exps") and kinds[0] != (theirs.types.get(role) or ("none",))[0]:
            return f"it is for {role} of type {', '.join(theirs.types.get(role, ('none',)))}, here {kinds[0]}"
    for name in ("rest_bytes", "used_bytes"):
        one, other = getattr(theirs, name), getattr(ours, name)
        if max(one, other) > _SAME * min(one, other):
            return f"a layer reads {other / 2**20:.0f} MiB here, and {one / 2**20:.0f} MiB there"
    return None


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
