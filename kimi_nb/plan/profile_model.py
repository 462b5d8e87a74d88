"""What of a model its speed depends on, and whether a profile of one model may stand for another."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from kimi_nb.plan.memory_weights import weights_of
from kimi_nb.plan.profile import ProfileModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimi_nb.model import Model
    from kimi_nb.plan.memory_weights import Entry
    from kimi_nb.plan.profile import Profile

__all__ = ["is_dense", "layer_bytes", "mismatch", "profile_model"]

_SAME = 1.15
"""Layers whose bytes differ by less than this are told apart by bytes alone; the costs are scaled."""


def is_dense(layer: Iterable[Entry]) -> bool:
    """Whether a layer has no experts."""
    return not any(entry.is_expert for entry in layer)


def layer_bytes(layer: Iterable[Entry], used_share: float) -> tuple[float, float]:
    """Return the bytes a token reads in a layer: of the weights that every token uses, and of its experts."""
    rest = used = 0.0
    for entry in layer:
        if entry.is_expert:
            used += entry.on_host * used_share
        else:
            rest += entry.on_host
    return rest, used


@lru_cache(maxsize=16)
def profile_model(model: Model) -> ProfileModel:
    """Return what of a model its speed depends on.

    Raises:
        ModelFileError: KNB371, the model is not covered.
    """
    weights = weights_of(model)
    share = weights.shape.n_expert_used / max(weights.shape.n_expert, 1)
    dense = [layer_bytes(layer, share)[0] for layer in weights.layers if is_dense(layer)]
    moe = [layer_bytes(layer, share) for layer in weights.layers if not is_dense(layer)]
    attention = [
        float(sum(entry.on_host for entry in layer if entry.role.startswith("attn_")))
        for layer in weights.layers
        if not is_dense(layer)
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
