"""The plan panel: choose a model, a machine and settings, and see at once what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from kimi_nb.errors import KimiNbError, UsageError
from kimi_nb.files import at_home
from kimi_nb.machine import load_profile, machine_named, probe, profiles
from kimi_nb.model import catalog
from kimi_nb.panel import nodes as n
from kimi_nb.panel import plan_outcome as outcome
from kimi_nb.panel import plan_view as view
from kimi_nb.panel.job import JobPanel
from kimi_nb.panel.plan_source import (
    FILE,
    THIS,
    TYPED,
    candidate_of,
    machine_control,
    model_control,
    outline_of,
    quant_of,
    subject_of,
    typed_in,
)
from kimi_nb.plan import Plan, make_plan
from kimi_nb.plan.record import PlannedModel

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from kimi_nb.machine import Machine
    from kimi_nb.panel.nodes import Node
    from kimi_nb.panel.plan_view import Computed, Subject
    from kimi_nb.plan import Settings
    from kimi_nb.plan.profile import Profile
    from kimi_nb.rehearse import Verified

__all__ = ["PlanPanel"]

_PLANNING, _VERIFYING, _REHEARSING = "Planning", "Verifying with llama.cpp", "Rehearsing"
_TEXTS = ("source", "quant", "file", "machine", "gpus_gib", "kv_type", "plan_file")
_NO_PLACE = ("plan_file", "budget_s")
_LEAST_S, _USUAL_S, _MOST_S = 5, 60, 3600


@dataclass(frozen=True)
class _Planned:
    """A plan, the choices that it stands for, and what of it outlives other choices."""

    of: tuple[Any, ...]
    plan: Plan
    what: tuple[str, ...]
    machine: Machine


def _place(chosen: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a plan belongs to: all choices that make one."""
    return tuple(value for name, value in sorted(chosen.items()) if name not in _NO_PLACE)


class PlanPanel(JobPanel):
    """See :func:`kimi_nb.panel.plan`."""

    def __init__(
        self,
        model: str | Path,
        quant: str | None = None,
        *,
        machine: str | Path | Machine | None = None,
        saved: str | Path | None = None,
        offline: bool = False,
    ) -> None:
        self._offline = offline
        self._given: Machine | None = None
        self._header_trouble: KimiNbError | None = None
        where = THIS if machine is None else str(machine)
        if machine is not None and where not in profiles():
            self._given = machine_named(where) if isinstance(machine, str | Path) else machine
            where = self._given.name
        self._measured_for: tuple[Subject, Machine] | None = None
        self._profile: Profile | None = None
        self._planned: _Planned | None = None
        self._verified: tuple[tuple[Subject, Machine, Settings], Verified] | None = None
        self._probed: Machine | None = None
        self._machine: Machine | None = None
        self._subject: Subject | None = None
        self._what: tuple[str, ...] = ()
        self._loading: threading.Thread | None = None
        self._computed: Computed | None = None
        self._wrong: KimiNbError | None = None
        known = isinstance(model, str) and model in catalog().models
        super().__init__(
            {
                "source": model if known else FILE,
                "quant": quant or "",
                "file": "" if known else str(model),
                "machine": where,
                "gpus_gib": "24",
                "ram_gib": 256,
                "cores": 16,
                "plan_file": "plan.json" if saved is None else str(saved),
                "budget_s": _USUAL_S,
                **dict.fromkeys(view.KNOBS),
            }
        )
        if saved is not None:
            self.show_plan(Plan.load(saved))

    # What is planned

    @property
    def computed(self) -> Computed:
        """The figures that the panel shows.

        Raises:
            KimiNbError: There are none, for what is chosen cannot be used.
        """
        with self._lock:
            if self._computed is not None:
                return self._computed
            raise (
                self._header_trouble
                or self._wrong
                or UsageError(
                    "KNB950",
                    "there is no plan yet",
                    why="the model's header is being read",
                    fix="Call wait() first.",
                )
            )

    @property
    def settings(self) -> Settings:
        """The settings that the panel shows; raises as :attr:`computed` does."""
        return self.computed.settings

    @property
    def planned_model(self) -> PlannedModel:
        """The model that the panel shows; raises as :attr:`computed` does."""
        with self._lock:
            return PlannedModel.of(candidate_of(self._shown(), *self._what[:2]))

    @property
    def alias(self) -> str:
        """What a server is to call the model; raises as :attr:`computed` does."""
        with self._lock:
            return self._shown().alias

    def wait(self, timeout_s: float | None = None) -> PlanPanel:
        """Wait until what is under way has ended: reading the header, planning, verifying, rehearsing."""
        for thread in (self._loading, self._working):
            if thread is not None:
                thread.join(timeout_s)
        return self

    @traitlets.validate("chosen")
    def _settle(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Make what is chosen possible, and compute what follows from it."""
        with self._lock:
            before = self.chosen
            given = {**before, **proposal["value"]}
            chosen = self._with_model({**given, **{name: str(given[name]) for name in _TEXTS}})
            moved = any(chosen[name] != before.get(name) for name in ("machine", "cores"))
            if moved and chosen["threads"] == before.get("threads"):
                chosen["threads"] = None  # as many as the new machine has cores
            self._computed = self._wrong = None
            try:
                self._machine = self._hardware(chosen)
                if self._subject is not None:
                    chosen = view.possible(chosen, self._subject, self._machine)
                    self._computed = self._compute(chosen, self._subject, self._machine)
            except KimiNbError as error:
                self._wrong = error
            return chosen

    def _compute(self, chosen: dict[str, Any], subject: Subject, machine: Machine) -> Computed:
        if (subject, machine) != self._measured_for:
            from kimi_nb.rehearse import find_profile

            self._measured_for, self._profile = (subject, machine), find_profile(subject.model, machine)
        planned = self._planned
        if planned is not None and planned.of == _place(chosen):
            settings = planned.plan.settings  # which may say more than the panel has controls for
        else:
            same = planned is not None and (planned.what, planned.machine) == (self._what, machine)
            base = planned.plan.settings if planned is not None and same else None
            settings = view.settings_of(chosen, subject, machine, base)
        return view.compute(settings, subject, machine, self._profile)

    def _with_model(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Begin to read the header, where another model is chosen than before."""
        source = chosen["source"] if chosen["source"] in catalog().models else FILE
        quant = quant_of(source, chosen["quant"])
        chosen = {**chosen, "source": source, "quant": quant}
        what = (source, quant, chosen["file"] if source == FILE else "")
        if what != self._what:
            self._what, self._subject, self._header_trouble = what, None, None
            outline = outline_of(source, quant) if quant else None
            if outline is not None and self._offline:
                self._subject, self._loading = outline, None
            elif quant:
                self._subject = outline  # figures at once, near ones
                self._loading = self.in_background(lambda: self._read_behind(what), "header")
            else:
                self._loading = None
                self._read(what)
        return chosen

    def _read(self, what: tuple[str, str, str]) -> None:
        subject, trouble = None, None
        try:
            subject = subject_of(*what)
        except KimiNbError as error:
            trouble = error
        with self._lock:
            if what != self._what:  # something else was chosen meanwhile
                return
            if subject is None and self._subject is not None:
                self._subject = replace(self._subject, note=str(trouble))
            else:
                self._subject, self._header_trouble = subject, trouble

    def _read_behind(self, what: tuple[str, str, str]) -> None:
        self._read(what)
        with self._lock:
            if what == self._what:
                self._loading = None
                self.settle()

    def settle(self) -> None:
        """Compute anew what follows from the choices."""
        self.chosen = dict(self.chosen)
        self.refresh()

    def _hardware(self, chosen: Mapping[str, Any]) -> Machine:
        where = chosen["machine"]
        if where == THIS:
            if self._probed is None:
                self._probed = probe()
            return self._probed
        if where == TYPED:
            return typed_in(chosen)
        given = self._given
        return given if given is not None and where == given.name else load_profile(where)

    # What is shown

    def draw(self) -> list[Node]:
        """Return the panel as it is now."""
        reading = self._loading is not None
        choices = [
            model_control(self.chosen, self._subject, reading=reading),
            machine_control(self.chosen, self._machine, self._given),
        ]
        if self._subject is not None and self._machine is not None and self._computed is not None:
            choices += view.knobs(self.chosen, self._subject, self._machine)
        becomes = n.group("What becomes of it", self._outcome(), key="outcome", quiet=True)
        return [
            n.heading("Plan: will it fit, and how fast?", level=2),
            n.columns([n.group("Choices", choices, key="choices", quiet=True), becomes]),
        ]

    def _outcome(self) -> list[Node]:
        done, subject, machine = self._computed, self._subject, self._machine
        if done is None or subject is None or machine is None:
            wrong = self._header_trouble or self._wrong
            if wrong is not None:
                return [n.text(str(wrong), tone="bad", live=True, key="verdict")]
            words = f"Reading the header of {self._what[1]}: a few megabytes of it ..."
            return [n.text(words, live=True, key="verdict")]
        plan = self._planned
        said, tone = outcome.verdict(done.report)
        memory, sure = outcome.bars(subject, machine, done), outcome.how_sure(subject, done)
        if (answer := self._answer()) is not None:
            memory.append(outcome.verified(answer))
            sure = "verified with llama.cpp" if answer.agrees else "llama.cpp gives other figures: see below"
        return [
            n.text(said, tone=tone, live=True, key="verdict"),
            n.group(f"Memory: {sure}", memory, key="memory"),
            *outcome.speed(done),
            *self._doing(done),
            n.code("The command", outcome.command_text(subject, done.settings)),
            *([outcome.why(plan.plan)] if plan is not None and plan.of == _place(self.chosen) else []),
        ]

    def _answer(self) -> Verified | None:
        """Return llama.cpp's figures, if they are for what is shown."""
        if self._verified is None or self._computed is None:
            return None
        of, answer = self._verified
        return answer if of == (self._subject, self._machine, self._computed.settings) else None

    def _doing(self, done: Computed) -> list[Node]:
        elsewhere = "" if self.chosen["machine"] == THIS else "Only this machine can be measured here."
        unread = ""
        if self._subject is not None and self._subject.approximate:
            unread = "This needs the model's own header, which has not been read."
        found = [
            n.row(
                [
                    n.button("choose", "Let the planner choose", main=True, disabled=self.busy),
                    n.button("verify", "Verify with llama.cpp", disabled=self.busy or unread),
                ],
                key="buttons",
            ),
            n.row(
                [
                    n.number(
                        "budget_s", "Seconds to measure", self.chosen["budget_s"], low=_LEAST_S, high=_MOST_S
                    ),
                    n.button("rehearse", "Rehearse", disabled=self.busy or elsewhere or unread),
                    *([n.text(elsewhere or unread, tone="quiet")] if elsewhere or unread else []),
                ],
                key="measuring",
            ),
            *self.progress(can_end=self.job in {_VERIFYING, _REHEARSING}),
        ]
        unfit = "" if done.report.fits else "It does not fit, so there is no plan to save."
        saving = [
            n.field("plan_file", "File of the plan", self.chosen["plan_file"]),
            n.button("save", "Save plan", disabled=unfit),
            n.button("open", "Open plan", disabled=self.busy),
        ]
        return [*found, n.row(saving, key="saving")]

    # Buttons

    def press_read(self, _fields: Mapping[str, str]) -> None:
        """Read the header now."""
        self._what, self._offline = (), False
        self.settle()

    def press_look(self, _fields: Mapping[str, str]) -> None:
        """Look at this machine again: what is free changes."""
        self._probed = None
        self.settle()

    def press_choose(self, _fields: Mapping[str, str]) -> None:
        """Let the planner choose the settings."""
        what, machine = self._what, self._machine

        def work() -> None:
            if (reading := self._loading) is not None:
                reading.join()
            subject = self._shown()
            if machine is None:
                return
            result = make_plan(candidate_of(subject, *what[:2]), machine, profile=self._profile)
            with self.at_once():
                if (self._subject, self._machine) != (subject, machine):
                    self.note = "Something else was chosen meanwhile, so the plan was dropped."
                elif result.plan is None:
                    self.note = " ".join(["Nothing runs here.", *result.reasons, *result.what_would_fit])
                else:
                    self.note = "The planner has chosen."
                    self._take(result.plan, subject)

        self.begin(_PLANNING, work)

    def _take(self, plan: Plan, subject: Subject) -> None:
        """Move the controls to a plan, and keep what it says beyond them."""
        if self._machine is None:
            return
        moved = {**self.chosen, **view.knobs_of(plan.settings, subject)}
        self._planned = _Planned(_place(moved), plan, self._what, self._machine)
        self.chosen = moved
        self.settle()  # where no control moved, the plan may still say more

    def press_verify(self, _fields: Mapping[str, str]) -> None:
        """Ask llama.cpp itself."""
        subject, machine, settings = self._shown(), self._machine, self.settings

        def work() -> None:
            from kimi_nb.engine import ensure_build
            from kimi_nb.rehearse.verify import verify

            if machine is None:
                return
            answer = verify(subject.model, settings, machine, ensure_build(progress=self.tell))
            self.stop_if_cancelled()
            with self._lock:
                self._verified = ((subject, machine, settings), answer)
                self.note = f"Verified in {answer.seconds:.1f} s: " + (
                    "llama.cpp's figures are the same." if answer.agrees else "llama.cpp's figures differ."
                )

        self.begin(_VERIFYING, work)

    def press_rehearse(self, _fields: Mapping[str, str]) -> None:
        """Measure on this machine."""
        subject, machine = self._shown(), self._machine
        budget = view.whole(self.chosen["budget_s"], _LEAST_S, _MOST_S, _USUAL_S)

        def work() -> None:
            from kimi_nb.engine import ensure_build
            from kimi_nb.rehearse import rehearse, save_profile

            if machine is None:
                return
            profile = rehearse(
                subject.model,
                machine,
                budget_s=budget,
                build=ensure_build(progress=self.tell),
                progress=self.tell,
                cancelled=self._cancel.is_set,
            )
            self.stop_if_cancelled()
            save_profile(profile)
            with self._lock:
                self._measured_for = None
                self.note = "Measured: the speed above now comes from this machine."
                self.settle()

        self.begin(_REHEARSING, work)

    def press_save(self, _fields: Mapping[str, str]) -> None:
        """Save the plan to a file that `kimi-nb serve` and others read."""
        done, subject, machine = self.computed, self._shown(), self._machine
        path = at_home(self.chosen["plan_file"]).absolute()
        if machine is None or done.forecast is None:
            raise UsageError(
                "KNB952",
                f"no plan was saved to {path.name}",
                why="with these settings the model does not fit, so it would not run",
                fix="Change them, or let the planner choose.",
            )
        if path.exists():
            Plan.load(path)  # what is no plan is not overwritten
        planned = self._planned
        kept = planned.plan if planned is not None and planned.of == _place(self.chosen) else None
        Plan(
            model=PlannedModel.of(candidate_of(subject, *self._what[:2])),
            machine=machine.name,
            objective="decode" if kept is None else kept.objective,
            settings=done.settings,
            memory=done.report,
            forecast=done.forecast,
            reasons=("Chosen by hand in the plan panel.",) if kept is None else kept.reasons,
            warnings=() if kept is None else kept.warnings,
        ).save(path)
        self.note = f"Saved to {path}."

    def press_open(self, _fields: Mapping[str, str]) -> None:
        """Show a plan that was saved."""
        path = at_home(self.chosen["plan_file"]).absolute()
        self.show_plan(Plan.load(path))
        self.note = f"Opened {path}."

    def show_plan(self, plan: Plan) -> None:
        """Move the controls to a plan.

        Its figures are worked out anew: for the shipped machine that it was made for, else for the machine
        that is chosen already.
        """
        models, shipped = catalog().models, profiles()
        where = next(
            (key for key, one in shipped.items() if one.name == plan.machine), self.chosen["machine"]
        )
        known = plan.model.key is not None and plan.model.key in models
        publisher = (plan.model.repo or "").partition("/")[0]
        model = {
            "source": plan.model.key if known else FILE,
            "quant": f"{publisher}/{plan.model.quant}" if known and publisher else "",
            "file": "" if known else plan.model.file,
        }
        with self.at_once():
            self.choose(machine=where, **model)
            self._take(plan, self._shown())

    def _shown(self) -> Subject:
        """Return the model that is shown; raises as :attr:`computed` does."""
        if self._subject is None:
            _ = self.computed
            raise AssertionError  # there are no figures without a model
        return self._subject
