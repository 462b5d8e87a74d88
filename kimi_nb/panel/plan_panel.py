"""The plan panel: choose a model, a machine and settings, and see at once what becomes of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from kimi_nb.errors import KimiNbError, UsageError
from kimi_nb.machine import load_profile, machine_named, probe, profiles, typed_machine
from kimi_nb.model import catalog, named_model, read_header
from kimi_nb.model.candidates import Candidate
from kimi_nb.panel import nodes as n
from kimi_nb.panel import plan_view as view
from kimi_nb.panel.plan_view import Subject
from kimi_nb.panel.widget import Panel
from kimi_nb.panel.words import gb
from kimi_nb.plan import Plan, make_plan
from kimi_nb.plan.record import PlannedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kimi_nb.machine import Machine
    from kimi_nb.panel.nodes import Node
    from kimi_nb.panel.plan_view import Computed
    from kimi_nb.plan import Settings
    from kimi_nb.plan.profile import Profile
    from kimi_nb.rehearse import Verified

__all__ = ["PlanPanel"]

_REHEARSING = "Rehearsing"
_BUDGET_S = 60.0
_FILE, _THIS, _TYPED = "a file", "this machine", "typed in"
_TEXTS = ("source", "quant", "file", "machine", "gpus_gib", "kv_type", "save_to")
_MOST_GIB, _MOST_GPUS, _MOST_CORES = 100_000, 64, 1024


@dataclass(frozen=True)
class _Planned:
    """What the planner chose, and for which choices that stands."""

    of: tuple[Any, ...]
    plan: Plan


def _place(chosen: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a plan belongs to: all choices but the name of a file to save it to."""
    return tuple(value for name, value in sorted(chosen.items()) if name != "save_to")


class PlanPanel(Panel):
    """See :func:`kimi_nb.panel.plan`."""

    def __init__(
        self, model: str | Path, quant: str | None = None, *, machine: str | Path | Machine | None = None
    ) -> None:
        self._given: Machine | None = None
        self._header_trouble: KimiNbError | None = None
        where = (
            _THIS if machine is None else str(machine) if isinstance(machine, str | Path) else machine.name
        )
        if machine is not None and where not in profiles():
            self._given = machine_named(where) if isinstance(machine, str | Path) else machine
        self._given_name = where
        self._measured_for: tuple[Subject, Machine] | None = None
        self._profile: Profile | None = None
        self._planned: _Planned | None = None
        self._verified: tuple[Settings, Machine, Verified] | None = None
        self._working: threading.Thread | None = None
        self._job = ""
        self._job_fraction: float | None = None
        self._cancel = threading.Event()
        self._note = ""
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
                "source": model if known else _FILE,
                "quant": quant or "",
                "file": "" if known else str(model),
                "machine": where,
                "gpus_gib": "24",
                "ram_gib": 256,
                "cores": 16,
                "save_to": "plan.json",
                **dict.fromkeys(view.KNOBS),
            }
        )

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
        settings = view.settings_of(chosen, subject, machine)
        if self._planned is not None and self._planned.of == _place(chosen):
            settings = self._planned.plan.settings  # the planner sets more than the panel has knobs for
        return view.compute(settings, subject, machine, self._profile)

    def _with_model(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Begin to read the header, where another model is chosen than before."""
        models = catalog().models
        source = chosen["source"] if chosen["source"] in models else _FILE
        quants = models[source].quants if source in models else ()
        names = [f"{quant.publisher}/{quant.name}" for quant in quants]
        wanted = chosen["quant"].lower()
        fitting = [name for name in names if wanted in {name.lower(), name.partition("/")[2].lower()}]
        quant = (fitting or names or [""])[0]
        chosen = {**chosen, "source": source, "quant": quant}
        what = (source, quant, chosen["file"] if source == _FILE else "")
        if what == self._what:
            return chosen
        self._what, self._subject, self._header_trouble = what, None, None
        if quants:
            self._loading = self.in_background(lambda: self._read_behind(what), "header")
        else:
            self._loading = None
            self._read(what)
        return chosen

    def _read(self, what: tuple[str, str, str]) -> None:
        subject, trouble = None, None
        try:
            subject = _subject_of(*what)
        except KimiNbError as error:
            trouble = error
        with self._lock:
            if what == self._what:  # else something else was chosen meanwhile
                self._subject, self._header_trouble = subject, trouble

    def _read_behind(self, what: tuple[str, str, str]) -> None:
        self._read(what)
        with self._lock:
            if what == self._what:
                self._loading = None
                self.chosen = dict(self.chosen)  # settles it anew, now with a model

    def _hardware(self, chosen: Mapping[str, Any]) -> Machine:
        where = chosen["machine"]
        if where == _THIS:
            if self._probed is None:
                self._probed = probe()
            return self._probed
        if where == _TYPED:
            cores = view.whole(chosen["cores"], 1, _MOST_CORES, 16)
            ram = view.whole(chosen["ram_gib"], 1, _MOST_GIB, 256)
            like = load_profile("cpu-512gb")
            return typed_machine(like, gpus_mib=_sizes(chosen["gpus_gib"]), ram_mib=ram * 1024, cores=cores)
        return self._given if self._given is not None and where not in profiles() else load_profile(where)

    # What is shown

    def draw(self) -> list[Node]:
        """Return the panel as it is now."""
        choices = [self._models(), self._machines()]
        if self._subject is not None and self._machine is not None and self._computed is not None:
            choices += view.knobs(self.chosen, self._subject, self._machine)
        outcome = n.group("What becomes of it", self._outcome(), key="outcome")
        return [
            n.heading("Plan: will it fit, and how fast?", level=2),
            n.columns([n.group("Choices", choices, key="choices"), outcome]),
        ]

    def _outcome(self) -> list[Node]:
        done, subject, machine = self._computed, self._subject, self._machine
        if done is None or subject is None or machine is None:
            wrong = self._header_trouble or self._wrong
            if wrong is not None:
                return [n.text(str(wrong), tone="bad", live=True, key="verdict")]
            words = f"Reading the header of {self._what[1]}: a few megabytes of it ..."
            return [n.text(words, live=True, key="verdict")]
        said, tone = view.verdict(done.report)
        near = "as llama.cpp counts it" if done.report.exact else "near what llama.cpp counts"
        memory, sure = view.bars(subject, machine, done), f"estimated, {near}"
        if (answer := self._answer()) is not None:
            memory.append(view.verified(answer))
            sure = "verified with llama.cpp" if answer.agrees else "llama.cpp gives other figures: see below"
        return [
            n.text(said, tone=tone, live=True, key="verdict"),
            n.group(f"Memory: {sure}", memory, key="memory"),
            *view.speed(done),
            *self._doing(done),
            n.code("The command", view.command_text(subject, done.settings)),
        ]

    def _answer(self) -> Verified | None:
        """Return llama.cpp's figures, if they are for what is shown."""
        if self._verified is None or self._computed is None:
            return None
        settings, machine, answer = self._verified
        return answer if (settings, machine) == (self._computed.settings, self._machine) else None

    def _doing(self, done: Computed) -> list[Node]:
        busy = "Something is under way." if self._job else ""
        elsewhere = "" if self.chosen["machine"] == _THIS else "Only this machine can be measured here."
        unfit = "" if done.report.fits else "It does not fit, so it cannot be run from a plan."
        buttons = [
            n.button("choose", "Let the planner choose", main=True, disabled=busy),
            n.button("verify", "Verify with llama.cpp", disabled=busy),
            n.button("rehearse", "Rehearse", disabled=busy or elsewhere),
        ]
        found = [n.row(buttons, key="buttons")]
        if self._job:
            line = n.progress(self._job, self._job_fraction, self._note or "under way", key="job")
            found += [line, n.button("cancel", "Cancel")] if self._job == _REHEARSING else [line]
        if self.trouble is not None:
            found.append(n.text(str(self.trouble), tone="bad", live=True, key="trouble"))
        elif self._note and not self._job:
            found.append(n.text(self._note, live=True, key="note"))
        if self._planned is not None and self._planned.of == _place(self.chosen):
            why = [*self._planned.plan.reasons, *(f"Note: {line}" for line in self._planned.plan.warnings)]
            reasons = [n.text(line, key=str(i)) for i, line in enumerate(why)]
            found.append(n.fold("Why the planner chose this", reasons, key="reasons", opened=True))
        name = n.field("save_to", "File for this plan", self.chosen["save_to"])
        found.append(n.row([name, n.button("save", "Save plan", disabled=unfit)], key="saving"))
        return found

    # Buttons

    def press_choose(self, _fields: Mapping[str, str]) -> None:
        """Let the planner choose the settings."""
        subject, machine = self._subject, self._machine
        if subject is None or machine is None:
            return
        candidate, profile = self._candidate(subject), self._profile

        def work() -> None:
            result = make_plan(candidate, machine, profile=profile)
            with self.at_once():
                if (self._subject, self._machine) != (subject, machine):
                    return  # something else was chosen meanwhile
                if result.plan is None:
                    self._note = " ".join(["Nothing runs here.", *result.reasons, *result.what_would_fit])
                    return
                knobs = view.knobs_of(result.plan.settings, subject)
                self._planned = _Planned(_place({**self.chosen, **knobs}), result.plan)
                self._note = "The planner has chosen."
                self.chosen = {**self.chosen, **knobs}

        self._begin("Planning", work)

    def press_verify(self, _fields: Mapping[str, str]) -> None:
        """Ask llama.cpp itself."""
        subject, machine, settings = self._subject, self._machine, self.computed.settings
        if subject is None or machine is None:
            return

        def work() -> None:
            from kimi_nb.engine import ensure_build
            from kimi_nb.rehearse.verify import verify

            answer = verify(subject.model, settings, machine, ensure_build(progress=self._tell))
            with self._lock:
                self._verified = (settings, machine, answer)
                self._note = f"Verified in {answer.seconds:.1f} s: " + (
                    "llama.cpp's figures are the same." if answer.agrees else "llama.cpp's figures differ."
                )

        self._begin("Verifying with llama.cpp", work)

    def press_rehearse(self, _fields: Mapping[str, str]) -> None:
        """Measure on this machine."""
        subject, machine = self._subject, self._machine
        if subject is None or machine is None:
            return

        def work() -> None:
            from kimi_nb.rehearse import rehearse, save_profile

            try:
                profile = rehearse(
                    subject.model,
                    machine,
                    budget_s=_BUDGET_S,
                    progress=self._tell,
                    cancelled=self._cancel.is_set,
                )
            except KeyboardInterrupt:
                self._note = "The rehearsal was cancelled; nothing was kept."
                return
            save_profile(profile)
            with self._lock:
                self._measured_for = None
                self._note = "Measured: the speed below now comes from this machine."
                self.chosen = dict(self.chosen)

        self._begin(_REHEARSING, work)

    def press_cancel(self, _fields: Mapping[str, str]) -> None:
        """End the rehearsal."""
        self._cancel.set()
        self._note = "ending ..."

    def press_save(self, _fields: Mapping[str, str]) -> None:
        """Save the plan to a file that `kimi-nb serve` and others read."""
        done, subject, machine = self.computed, self._subject, self._machine
        if subject is None or machine is None or done.forecast is None:
            return
        planned = self._planned
        kept = planned.plan if planned is not None and planned.of == _place(self.chosen) else None
        saved = kept or Plan(
            model=PlannedModel.of(self._candidate(subject)),
            machine=machine.name,
            objective="decode",
            settings=done.settings,
            memory=done.report,
            forecast=done.forecast,
            reasons=("Chosen by hand in the plan panel.",),
        )
        path = Path(self.chosen["save_to"]).expanduser().absolute()
        saved.save(path)
        self._note = f"Saved to {path}."

    def _candidate(self, subject: Subject) -> Candidate:
        key = self._what[0] if self._what[1] else None
        quant = self._what[1].partition("/")[2] or None
        repo = catalog().model(key).quant(self._what[1]).repo if key else None
        here = subject.path.exists()
        return Candidate(model=subject.model, key=key, quant=quant, repo=repo, on_disk=here)

    def _begin(self, job: str, work: Callable[[], None]) -> None:
        if self._job:
            return  # pressed again before the first press was seen
        self._job, self._job_fraction, self._note = job, None, ""
        self._cancel.clear()

        def run() -> None:
            try:
                work()
            finally:
                self._job = ""

        self._working = self.in_background(run, job)

    def _tell(self, words: str, fraction: float | None) -> None:
        with self._lock:
            self._note, self._job_fraction = words, fraction
        self.refresh()

    def _models(self) -> Node:
        chosen = self.chosen
        models = [(key, model.name) for key, model in catalog().models.items()]
        items = [n.select("source", "Model", chosen["source"], [*models, (_FILE, "A GGUF file of mine")])]
        if chosen["source"] == _FILE:
            hint = "Of its first shard, if it has several."
            items.append(n.field("file", "Path of the file", chosen["file"], hint=hint))
        elif quants := catalog().model(chosen["source"]).quants:
            options = [(f"{q.publisher}/{q.name}", f"{q.name}, {q.size} ({q.publisher})") for q in quants]
            items.append(n.select("quant", "Quant", chosen["quant"], options))
        if self._subject is not None:
            model = self._subject.model
            items.append(n.text(f"{model.name}, {gb(model.file_bytes)}", tone="quiet", key="size"))
        return n.group("Model", items)

    def _machines(self) -> Node:
        chosen = self.chosen
        options = [(_THIS, "This machine"), *((key, one.name) for key, one in profiles().items())]
        if self._given is not None:
            options.append((self._given_name, self._given.name))
        items = [
            n.select("machine", "Machine", chosen["machine"], [*options, (_TYPED, "Hardware I type in")])
        ]
        if chosen["machine"] == _TYPED:
            hint = "Such as 24, or 24,24 for two; empty for none."
            numbers = [
                n.number("ram_gib", "RAM, GiB", chosen["ram_gib"], low=1, high=_MOST_GIB),
                n.number("cores", "Cores", chosen["cores"], low=1, high=_MOST_CORES),
            ]
            items += [n.field("gpus_gib", "GPUs, GiB each", chosen["gpus_gib"], hint=hint), n.row(numbers)]
        return n.group("Machine", items)


def _subject_of(source: str, quant: str, file: str) -> Subject:
    if source == _FILE:
        path = Path(file).expanduser().absolute()
        return Subject(read_header(path), path, alias=path.stem or "model")
    model = named_model(source, quant or None)
    if not quant:
        return Subject(model, Path(model.source), alias=source)
    from kimi_nb.engine.fetch.shelf import Shelf

    found = catalog().model(source).quant(quant)
    folder = Shelf(None).root_of(found.repo) / found.folder
    return Subject(model, folder / model.shards[0].name, alias=source)


def _sizes(text: Any) -> list[int]:
    """Return the memory of each GPU in MiB, from a text such as ``24,24``."""
    words = [word.strip() for word in str(text).split(",")] if str(text).strip() else []
    try:
        sizes = [int(float(word) * 1024) for word in words]
    except (ValueError, OverflowError):
        sizes = [0]
    if len(sizes) > _MOST_GPUS or any(not 0 < size <= _MOST_GIB * 1024 for size in sizes):
        raise UsageError(
            "KNB951",
            f"the GPUs cannot be {str(text)[:40]!r}",
            why=f"it takes the GiB of each GPU with commas between, for {_MOST_GPUS} at most",
            fix="Such as 24 or 24,24; leave it empty for none.",
        )
    return sizes
