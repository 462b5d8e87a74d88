"""The plan panel: choose a model, a machine and settings, and see at once what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from kimi_nb.errors import KimiNbError, UsageError
from kimi_nb.machine import load_profile, machine_named, probe, profiles, typed_machine
from kimi_nb.model import catalog, named_model, read_header
from kimi_nb.panel import nodes as n
from kimi_nb.panel import plan_view as view
from kimi_nb.panel.plan_view import Subject
from kimi_nb.panel.widget import Panel
from kimi_nb.panel.words import gb

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from kimi_nb.machine import Machine
    from kimi_nb.panel.nodes import Node
    from kimi_nb.panel.plan_view import Computed
    from kimi_nb.plan import Settings

__all__ = ["PlanPanel", "plan"]

_FILE, _THIS, _TYPED = "a file", "this machine", "typed in"
_MOST_GIB, _MOST_GPUS, _MOST_CORES = 100_000, 64, 1024


def plan(
    model: str | Path = "nano", quant: str | None = None, *, machine: str | Path | Machine | None = None
) -> PlanPanel:
    """Show the plan panel.

    Args:
        model: A key of the catalogue, such as ``kimi-k2.5``, ``nano``, or a GGUF file.
        quant: Which quant of the catalogue's model; its first by default.
        machine: A profile's name, a saved machine or its file; this machine by default.

    Raises:
        UsageError: There is no such machine.
    """
    return PlanPanel(model, quant, machine=machine)


class PlanPanel(Panel):
    """See :func:`plan`."""

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
            raise self._wrong or UsageError(
                "KNB950",
                "there is no plan yet",
                why="the model's header is being read",
                fix="Call wait() first.",
            )

    @property
    def settings(self) -> Settings:
        """The settings that the panel shows; raises as :attr:`computed` does."""
        return self.computed.settings

    def wait(self, timeout_s: float | None = None) -> PlanPanel:
        """Wait until the model's header has been read, or could not be; return this panel."""
        thread = self._loading
        if thread is not None:
            thread.join(timeout_s)
        return self

    @traitlets.validate("chosen")
    def _settle(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Make what is chosen possible, and compute what follows from it."""
        with self._lock:
            before = self.chosen
            chosen = self._with_model({**before, **proposal["value"]})
            moved = any(chosen[name] != before.get(name) for name in ("machine", "cores"))
            if moved and chosen["threads"] == before.get("threads"):
                chosen["threads"] = None  # as many as the new machine has cores
            self._computed = self._wrong = None
            try:
                self._machine = self._hardware(chosen)
                if self._subject is not None:
                    chosen = view.possible(chosen, self._subject, self._machine)
                    self._computed = view.compute(chosen, self._subject, self._machine)
            except KimiNbError as error:
                self._wrong = error
            return chosen

    def _with_model(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Begin to read the header, where another model is chosen than before."""
        models = catalog().models
        source = chosen["source"] if chosen["source"] in models else _FILE
        quants = models[source].quants if source in models else ()
        names = [f"{quant.publisher}/{quant.name}" for quant in quants]
        wanted = str(chosen["quant"]).lower()
        fitting = [name for name in names if wanted in {name.lower(), name.partition("/")[2].lower()}]
        quant = (fitting or names or [""])[0]
        chosen = {**chosen, "source": source, "quant": quant, "file": str(chosen["file"])}
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
        trouble = [] if self.trouble is None else [n.text(str(self.trouble), tone="bad", live=True)]
        return [
            n.text(said, tone=tone, live=True, key="verdict"),
            *trouble,
            n.group(f"Memory: estimated, {near}", view.bars(subject, machine, done), key="memory"),
            *view.speed(done),
            n.code("The command", view.command_text(subject, done.settings)),
        ]

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
