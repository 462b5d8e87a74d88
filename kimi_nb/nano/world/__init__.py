"""The small world that nano learns: conversations in Kimi K2.5's format, made by seeded code, nothing downloaded."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_nb.nano.world.sample import Sample
from kimi_nb.nano.world.words import SPLITS, Split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimi_nb.nano.world.foreign import Abroad
    from kimi_nb.nano.world.phrasing import Phrasings

__all__ = ["EDITION", "SPLITS", "Sample", "Split", "conversations", "phrasings"]

EDITION = 5
"""Counts up when what is asked, or what is right, changes: weights know the edition that they were trained on."""

_SYSTEM = (
    "You are a helpful assistant.",
    "You are Kimi, an AI assistant created by Moonshot AI.",
    "You are nano, a small model.",
    "Answer briefly.",
    "Be short and exact.",
    "You help with code and with daily questions.",
    "Use the tools when they help.",
    "You are a helpful assistant. Answer in one sentence.",
    "You answer questions about Kimi K2.5.",
    "You are an agent that works on code. Call tools when you need them.",
    "Think before you answer.",
    "Do not guess. Call a tool where one helps.",
    "你是一个有用的助手。",
    "أنت مساعد مفيد.",
)


def conversations(seed: int, split: Split = "train", *, kinds: tuple[str, ...] = ()) -> Iterator[Sample]:
    """Yield conversations without end; the same seed gives the same ones.

    Args:
        seed: Any integer.
        split: ``train``, ``valid`` or ``test``; no two share a phrasing that is held out, or a name.
        kinds: Keep only samples whose ``kind`` starts with one of these; all when empty.
    """
    from kimi_nb.nano.world.foreign import foreign
    from kimi_nb.nano.world.own import own
    from kimi_nb.nano.world.talk import TALK, short_list, units
    from kimi_nb.nano.world.tools import TOOLS, single, unsuitable

    rng = random.Random(f"{seed}/{split}")  # noqa: S311 - reproducible text, not a secret
    makers = {**TALK, **TOOLS, foreign: 5, own: 5}
    if split == "train":  # where the ways to ask are most, more is to be learnt
        makers |= {single: 20, unsuitable: 8, foreign: 8, own: 8, units: 5, short_list: 5}
    names, weights = list(makers), list(makers.values())
    # Share of plain conversations in which tools are offered that are not needed; training knows so many ways to ask
    # for a call that it needs more of them.
    distracted = 0.4 if split == "train" else 0.25
    continued = 0.2  # share of conversations that begin with small talk
    instructed = 0.2  # share of conversations with a system message of their own
    while True:
        sample = rng.choices(names, weights)[0](rng, split)
        if not sample.tools and not sample.kind.startswith("tool") and rng.random() < distracted:
            sample = _with_idle_tools(rng, sample, split)
        if rng.random() < continued:
            earlier = [rng.choice(list(TALK))(rng, split) for _ in range(rng.choice([1, 1, 2, 3]))]
            messages = [message for each in earlier for message in each.messages]
            sample = replace(sample, messages=[*messages, *sample.messages])
        if rng.random() < instructed:
            system = {"role": "system", "content": rng.choice(_SYSTEM)}
            sample = replace(sample, messages=[system, *sample.messages])
        if not kinds or sample.kind.startswith(kinds):
            yield sample


def phrasings() -> dict[str, Phrasings | Abroad]:
    """Return all ways to ask for a call, by the key of what is held out of them; strange tools have their own."""
    from kimi_nb.nano.world.asks import ASKS
    from kimi_nb.nano.world.foreign import ABROAD
    from kimi_nb.nano.world.own import ASKED
    from kimi_nb.nano.world.tools import BOTH, CHAIN, MIXED

    english = (*ASKS.values(), *BOTH.values(), CHAIN, MIXED, *ASKED.values())
    return {**{each.key: each for each in english}, **{each.key: each for each in ABROAD}}


def _with_idle_tools(rng: random.Random, sample: Sample, split: Split) -> Sample:
    """Offer tools that the conversation does not need, so that not calling is learnt as well."""
    from kimi_nb.nano.world.own import DECLARED
    from kimi_nb.nano.world.strange import strange
    from kimi_nb.nano.world.tools import FAMILIES, Offer

    ours = 0.15
    if sample.kind not in {"sum", "units"} and rng.random() < ours:
        return replace(sample, tools=rng.sample(list(DECLARED.values()), rng.randint(1, len(DECLARED))))
    # With a calculator, or a converter, a sum would be for the tool.
    families = [family for family in FAMILIES if family.key not in {"calculate", "convert"}]
    idle = rng.sample(families, rng.randint(1, 3))
    if split == "train":
        idle = [strange(rng, split) if rng.random() < 0.3 else family for family in idle]
    offers = [Offer(rng, family, split) for family in idle]
    tools = [offer.declaration for offer in offers]
    return replace(sample, tools=tools)
