"""The planner: of several models or quants, contexts and ways, the plan for an objective, and its reasons.

It never lets llama.cpp fit anything by itself: that would cut the context to 4096 tokens first, and does
not look at main memory at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.model.candidates import Candidate
from kimi_nb.model.gguf_model import Model
from kimi_nb.plan.limits import Limits
from kimi_nb.plan.record import Plan, PlannedModel
from kimi_nb.plan.search import NEARLY, Objective, Option, Search, best

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kimi_nb.machine import Machine
    from kimi_nb.plan.profile import Profile

__all__ = ["OBJECTIVES", "Choice", "PlanResult", "make_plan"]

OBJECTIVES: tuple[Objective, ...] = ("decode", "prefill", "context", "quality")

_USUAL_CONTEXT = 32768
_LADDER = (16384, 8192, 4096)
_CONTEXT_STEP = 1024
_MOST_MIB = 1 << 40
_REFINED = 2


@dataclass(frozen=True)
class Choice:
    """An option for one of the candidates."""

    candidate: Candidate
    option: Option
    search: Search


@dataclass(frozen=True)
class PlanResult:
    """What came of planning.

    Attributes:
        plan: The plan; None where nothing runs.
        alternatives: Plans that are better at something else.
        reasons: Why candidates were left out, or why nothing runs.
        what_would_fit: What to change where nothing runs, or only with weights read from disk all the time.
    """

    plan: Plan | None
    alternatives: tuple[Plan, ...] = ()
    reasons: tuple[str, ...] = ()
    what_would_fit: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the result as ``kimi-nb plan --json`` prints it."""
        return {
            "plan": None if self.plan is None else self.plan.to_dict(),
            "alternatives": [plan.to_dict() for plan in self.alternatives],
            "reasons": list(self.reasons),
            "what_would_fit": list(self.what_would_fit),
        }


def make_plan(  # noqa: PLR0913 - every argument but the first two has a default
    models: Model | Candidate | Sequence[Model | Candidate],
    machine: Machine,
    *,
    objective: Objective = "decode",
    ctx_size: int | None = None,
    limits: Limits | None = None,
    profile: Profile | Callable[[Model], Profile | None] | None = None,
    parallel: int = 1,
    others: Sequence[Candidate] = (),
    exact: Callable[[Candidate], Candidate] | None = None,
    mmproj: str | None = None,
) -> PlanResult:
    """Plan how to run one of ``models`` on a machine.

    Args:
        models: One model, or several quants to choose from.
        machine: Where.
        objective: ``decode`` (fastest writing), ``prefill`` (fastest reading of prompts), ``context`` (the
            longest context) or ``quality`` (the largest quant that runs from memory).
        ctx_size: Tokens of context that are wanted, for all slots together; chosen if not given.
        limits: What must be left free; by the machine's size (:meth:`Limits.usual`) if not given.
        profile: What a rehearsal measured on that machine, or a function that finds it for a model; where
            it is for another model, it does not count.
        parallel: How many requests are to be answered at once.
        others: Other quants, to name one that would fit where none of ``models`` does.
        exact: Gets a chosen candidate whose header is a stand-in, and returns it with its own
            (:func:`kimi_nb.model.candidates.with_real_header`), if it can.
        mmproj: The file of the vision part; ``limits`` says what it takes.

    Raises:
        UsageError: KNB378, an argument is out of range.
        ModelFileError: KNB371, none of the models is covered.
    """
    listed = _candidates(models)
    limits = limits or Limits.usual(machine)
    _check(listed, objective, ctx_size, parallel, limits)
    planning = Planning(machine, objective, ctx_size, limits, profile, parallel, mmproj)
    return planning.result(listed, others, exact)


def _candidates(models: Model | Candidate | Sequence[Model | Candidate]) -> list[Candidate]:
    listed = [models] if isinstance(models, (Model, Candidate)) else list(models)
    return [Candidate(one, on_disk=True) if isinstance(one, Model) else one for one in listed]


def _check(
    candidates: list[Candidate], objective: str, ctx_size: int | None, parallel: int, limits: Limits
) -> None:
    most = max((candidate.model.context_length for candidate in candidates), default=0)
    if not candidates:
        what, why = "there is no model to plan for", "the list of models is empty"
    elif objective not in OBJECTIVES:
        what, why = f"there is no objective {objective[:40]!r}", f"there are {', '.join(OBJECTIVES)}"
    elif ctx_size is not None and not 1 <= ctx_size <= most:
        what = f"a context of {ctx_size} tokens cannot be planned"
        why = f"the model was trained for 1 to {most:,}"
    elif not 1 <= parallel <= 256:  # noqa: PLR2004 - llama.cpp's own limit
        what, why = f"{parallel} slots cannot be planned", "llama-server takes 1 to 256"
    elif not all(0 <= mib < _MOST_MIB for mib in vars(limits).values()):
        what, why = "a margin cannot be kept", "each is a number of MiB that is not negative"
    else:
        return
    raise UsageError("KNB378", what, why=why, fix="Correct the call.")


def _unread(candidate: Candidate) -> bool:
    return candidate.approximate and not candidate.note


@dataclass(frozen=True)
class Planning:
    """One call of :func:`make_plan`, with its wishes."""

    machine: Machine
    objective: Objective
    ctx_size: int | None
    limits: Limits
    profile: Profile | Callable[[Model], Profile | None] | None
    parallel: int
    mmproj: str | None = None
    _searches: dict[Candidate, Search] = field(default_factory=dict, compare=False, repr=False)

    def result(
        self,
        candidates: list[Candidate],
        others: Sequence[Candidate],
        exact: Callable[[Candidate], Candidate] | None,
    ) -> PlanResult:
        """Plan for the best of the candidates."""
        from kimi_nb.plan.alternatives import alternatives
        from kimi_nb.plan.reasons import left_out, no_room, reasons, warnings
        from kimi_nb.plan.remedies import what_would_fit

        fitting = [one for one in candidates if self.disk_lacks(one) <= 0]
        out = left_out(self, [one for one in candidates if one not in fitting])
        chosen = self._choose(fitting)
        while exact is not None and chosen is not None and _unread(chosen.candidate):
            read = exact(chosen.candidate)
            fitting = [read if one is chosen.candidate else one for one in fitting]
            if read.approximate:  # it cannot be read, and so can none of the others
                chosen, exact = replace(chosen, candidate=read), None
            else:
                chosen = self._choose(fitting)
        if chosen is None:
            why = out or (no_room(fitting, self.machine, self.limits, self.ctx_size),)
            return PlanResult(None, (), why, what_would_fit(self, candidates, others))
        others_here = alternatives(self, chosen, fitting)
        option = chosen.search.with_best_threads(chosen.option)
        chosen = replace(chosen, option=chosen.search.with_prompt_cache(option))
        plan = self.plan(chosen, tuple(reasons(chosen, self, fitting)), tuple(warnings(chosen, self)))
        remedies = what_would_fit(self, candidates, others) if chosen.option.paged else ()
        return PlanResult(plan, others_here, out, remedies)

    def plan(self, choice: Choice, why: tuple[str, ...], warned: tuple[str, ...]) -> Plan:
        """Return a plan of a choice."""
        return Plan(
            model=PlannedModel.of(choice.candidate),
            machine=self.machine.name,
            objective=self.objective,
            settings=choice.option.settings,
            memory=choice.option.report,
            forecast=choice.option.forecast,
            limits=self.limits,
            reasons=why,
            warnings=warned,
        )

    def disk_lacks(self, candidate: Candidate) -> float:
        """Return how many MiB the disk lacks for a download."""
        disk = self.machine.disk
        if disk is None or candidate.on_disk:
            return 0.0
        return candidate.model.file_bytes / 2**20 + self.limits.disk_keep_free_mib - disk.free_mib

    # -- choosing among candidates

    def _choose(self, candidates: Sequence[Candidate]) -> Choice | None:
        """Look at all quickly, and closer at those that are best."""
        if len(candidates) == 1:
            return self.closely(candidates[0])
        quick = [choice for choice in (self.quickly(candidate) for candidate in candidates) if choice]
        ranked = sorted(quick, key=self._rank(quick), reverse=True)[:_REFINED]
        close = [choice for choice in (self.closely(choice.candidate) for choice in ranked) if choice]
        return max(close, key=self._rank(close)) if close else None

    def _rank(self, choices: Iterable[Choice]) -> Callable[[Choice], tuple[float, ...]]:
        """Return what makes one choice better than another; nearly the same speed is the same."""
        found = list(choices)

        def speed(choice: Choice) -> float:
            return choice.option.rate("prefill" if self.objective == "prefill" else "decode")

        top = max((speed(choice) for choice in found), default=0.0)

        def by_speed(choice: Choice) -> tuple[float, ...]:
            as_fast = speed(choice) >= NEARLY * top
            return (float(as_fast), choice.candidate.quality if as_fast else 0, speed(choice))

        def by_quality(choice: Choice) -> tuple[float, ...]:
            paged = choice.option.paged
            quality = choice.candidate.quality
            return (float(not paged), -quality if paged else quality, speed(choice))

        def by_context(choice: Choice) -> tuple[float, ...]:
            return (float(not choice.option.paged), choice.option.settings.ctx_size or 0, *by_speed(choice))

        return {"quality": by_quality, "context": by_context}.get(self.objective, by_speed)

    def _search(self, candidate: Candidate) -> Search:
        from kimi_nb.plan.profile_model import mismatch

        profile = self.profile(candidate.model) if callable(self.profile) else self.profile
        if profile is not None and mismatch(profile, candidate.model) is not None:
            profile = None
        known = self._searches.get(candidate)
        search = Search(
            candidate.model, self.machine, self.limits, profile, self.parallel, self.mmproj, known
        )
        self._searches[candidate] = search
        return search

    def quickly(self, candidate: Candidate) -> Choice | None:
        """Return nearly the best option for one candidate, in a few milliseconds."""
        search = self._search(candidate)
        for ctx_size in self._contexts(candidate.model):
            option = best(search.options(ctx_size, quick=True), self._speed)
            if option is not None:
                return Choice(candidate, option, search)
        return None

    def closely(self, candidate: Candidate) -> Choice | None:
        """Return the best option for one candidate."""
        search = self._search(candidate)
        if self.objective == "context" and self.ctx_size is None:
            option = self.longest(search)
        else:
            option = self._at_usual_context(search)
        return None if option is None else Choice(candidate, option, search)

    @property
    def _speed(self) -> Objective:
        return "prefill" if self.objective == "prefill" else "decode"

    # -- choosing the context

    def _contexts(self, model: Model) -> list[int]:
        """Return the contexts to try, the wanted one first."""
        if self.ctx_size is not None:
            return [self.ctx_size]
        usual = min(_USUAL_CONTEXT, model.context_length)
        return [usual, *(n for n in _LADDER if n < usual)]

    def _at_usual_context(self, search: Search) -> Option | None:
        """Return the best option with the context that is wanted, or else a usual one, or a shorter one."""
        fallback = None
        for ctx_size in self._contexts(search.model):
            option = best(search.options(ctx_size), self._speed)
            if option is not None and search.whole(option):
                return self._longer_for_nothing(search, option)
            fallback = fallback or option
        return fallback

    def _longer_for_nothing(self, search: Search, option: Option) -> Option:
        """Take a longer context where all of the model is in the fastest memory there is and stays there."""
        in_place = not option.report.gpus or search.all_on_gpus(option)
        if self.ctx_size is not None or not in_place or option.paged:
            return option
        limit = search.model.context_length
        for ctx_size in (limit, limit // 2, limit // 4):
            if ctx_size <= (option.settings.ctx_size or 0):
                break
            longer = best(search.options(ctx_size, quick=True), self._speed)
            if longer is None or longer.paged or longer.settings.cache_type_k != option.settings.cache_type_k:
                continue
            same = longer.settings.device == option.settings.device
            if same and (longer.settings.n_cpu_moe or 0) == (option.settings.n_cpu_moe or 0):
                return best(search.options(ctx_size), self._speed) or longer
        return option

    def longest(self, search: Search) -> Option | None:
        """Return the best option with the longest context that keeps every layer where it is fast."""
        limit = search.model.context_length

        def fits(ctx_size: int) -> Option | None:
            found = best(search.options(ctx_size, quick=True), "decode")
            return found if found is not None and search.whole(found) else None

        low, high = 0, -(-limit // _CONTEXT_STEP)
        if fits(limit) is not None:
            low = high
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle * _CONTEXT_STEP) else (low, middle)
        if not low:
            return self._at_usual_context(search)
        return best(search.options(min(low * _CONTEXT_STEP, limit)), "decode")
