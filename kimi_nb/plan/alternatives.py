"""What else a person might want: a longer context, faster prompts, a better or a faster quant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_nb.plan.search import best

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kimi_nb.model.candidates import Candidate
    from kimi_nb.plan.planner import Choice, Planning
    from kimi_nb.plan.record import Plan

__all__ = ["alternatives"]

_MOST = 3
_BETTER = 1.2
"""An alternative must be better at something by this factor."""


def alternatives(planning: Planning, chosen: Choice, candidates: Sequence[Candidate]) -> tuple[Plan, ...]:
    """Return at most three plans that are better at something than the chosen one, and worse otherwise."""
    from kimi_nb.plan.reasons import trade, warnings

    found: list[Plan] = []
    for choice, gain in _others(planning, chosen, candidates):
        option = choice.search.with_best_threads(choice.option)
        full = replace(choice, option=choice.search.with_prompt_cache(option))
        plan = planning.plan(full, (trade(gain, full, chosen),), tuple(warnings(full, planning)))
        if all(plan.settings != one.settings or plan.model != one.model for one in found):
            found.append(plan)
    return tuple(found[:_MOST])


def _others(
    planning: Planning, chosen: Choice, candidates: Sequence[Candidate]
) -> Iterator[tuple[Choice, str]]:
    option, search = chosen.option, chosen.search
    context = option.settings.ctx_size or search.model.context_length
    yield from _quants(planning, chosen, candidates)
    if planning.ctx_size is None and not option.paged and context < search.model.context_length:
        longer = planning.longest(search)
        if longer is not None and (longer.settings.ctx_size or 0) >= 2 * context and not longer.paged:
            yield replace(chosen, option=longer), "context"
    options = search.options(context)
    faster = best(options, "prefill")
    if faster is not None and faster.rate("prefill") > _BETTER * option.rate("prefill"):
        yield replace(chosen, option=faster), "prefill"
    faster = best(options, "decode")
    if faster is not None and faster.rate("decode") > _BETTER * option.rate("decode"):
        yield replace(chosen, option=faster), "decode"


def _quants(
    planning: Planning, chosen: Choice, candidates: Sequence[Candidate]
) -> Iterator[tuple[Choice, str]]:
    """Look at the next larger and the next smaller quant."""
    by_quality = sorted(candidates, key=lambda one: (one.quality, -one.model.file_bytes))
    size = chosen.candidate.quality
    larger = [one for one in by_quality if one.quality > 1.02 * size]
    smaller = [one for one in by_quality if one.quality < size / 1.02]
    for candidate in larger[:1]:
        choice = planning.closely(candidate)
        if choice is not None and not choice.option.paged:
            yield choice, "quality"
    for candidate in smaller[-1:]:
        choice = planning.closely(candidate)
        if choice is not None and choice.option.rate("decode") > _BETTER * chosen.option.rate("decode"):
            yield choice, "decode"
