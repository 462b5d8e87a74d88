"""What the plan panel plans for: the model and the machine that were chosen, and their controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home
from kimi_nb.machine import load_profile, profiles, typed_machine
from kimi_nb.model import catalog, named_model, read_header
from kimi_nb.model.candidates import Candidate, candidates
from kimi_nb.panel import nodes as n
from kimi_nb.panel.plan_view import Subject, whole
from kimi_nb.panel.words import and_so, gb, gib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.panel.nodes import Node

__all__ = [
    "FILE",
    "THIS",
    "TYPED",
    "candidate_of",
    "machine_control",
    "model_control",
    "outline_of",
    "quant_of",
    "subject_of",
    "typed_in",
]

FILE, THIS, TYPED = "a file", "this machine", "typed in"
_MOST_GIB, _MOST_GPUS, _MOST_CORES = 100_000, 64, 1024


def quant_of(source: str, wanted: str) -> str:
    """Return a quant as ``publisher/NAME``: the wanted one, else the model's first; empty if it has none."""
    models = catalog().models
    quants = models[source].quants if source in models else ()
    names = [f"{quant.publisher}/{quant.name}" for quant in quants]
    fitting = [name for name in names if wanted.lower() in {name.lower(), name.partition("/")[2].lower()}]
    return (fitting or names or [""])[0]


def subject_of(source: str, quant: str, file: str) -> Subject:
    """Return what is planned, with its own header: of a file, of nano, or read from the Hub.

    Raises:
        KimiNbError: The header cannot be read.
    """
    if source == FILE:
        path = at_home(file).absolute()
        return Subject(read_header(path), path, alias=path.stem or "model")
    model = named_model(source, quant or None)
    return Subject(model, _path(model, source, quant) if quant else Path(model.source), alias=source)


def outline_of(source: str, quant: str) -> Subject | None:
    """Return what is planned by the size that the catalog knows, if it does, until its header is read."""
    try:
        model = candidates(source, quant)[0].model
    except UsageError:
        return None
    return Subject(model, _path(model, source, quant), alias=source, approximate=True)


def candidate_of(subject: Subject, source: str, quant: str) -> Candidate:
    """Return what is planned as the planner takes it."""
    repo = catalog().model(source).quant(quant).repo if quant else None
    return Candidate(
        model=subject.model,
        key=source if quant or source in catalog().models else None,
        quant=quant.partition("/")[2] or None,
        repo=repo,
        on_disk=subject.path.exists(),
        approximate=subject.approximate,
    )


def _path(model: Model, source: str, quant: str) -> Path:
    """Return where the first file of a quant lies, or would lie once it is downloaded."""
    from kimi_nb.engine.fetch.shelf import Shelf

    found = catalog().model(source).quant(quant)
    folder = Shelf(None).root_of(found.repo)
    if found.shards is not None:
        return folder / found.file_names()[0]
    return folder / found.folder / Path(model.shards[0].name).name


def typed_in(chosen: Mapping[str, Any]) -> Machine:
    """Return the machine that was typed in.

    Raises:
        UsageError: KNB951, the GPUs cannot be understood.
    """
    cores = whole(chosen["cores"], 1, _MOST_CORES, 16)
    ram = whole(chosen["ram_gib"], 1, _MOST_GIB, 256)
    like = load_profile("cpu-512gb")
    return typed_machine(like, gpus_mib=_sizes(chosen["gpus_gib"]), ram_mib=ram * 1024, cores=cores)


def _sizes(text: str) -> list[int]:
    """Return the memory of each GPU in MiB, from a text such as ``24,24``."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    try:
        sizes = [int(float(word) * 1024) for word in words]
    except (ValueError, OverflowError):
        sizes = [0]
    if len(sizes) > _MOST_GPUS or any(not 0 < size <= _MOST_GIB * 1024 for size in sizes):
        raise UsageError(
            "KNB951",
            f"the GPUs cannot be {text[:40]!r}",
            why=f"it takes the GiB of each GPU with commas between, for {_MOST_GPUS} at most",
            fix="Such as 24 or 24,24; leave it empty for none.",
        )
    return sizes


def model_control(chosen: Mapping[str, Any], subject: Subject | None, *, reading: bool) -> Node:
    """Return the controls for the model, and what is known of it."""
    models = [(key, model.name) for key, model in catalog().models.items()]
    items = [n.select("source", "Model", chosen["source"], [*models, (FILE, "A GGUF file of mine")])]
    if chosen["source"] == FILE:
        hint = "Of its first shard, if it has several."
        items.append(n.field("file", "Path of the file", chosen["file"], hint=hint))
    elif quants := catalog().model(chosen["source"]).quants:
        options = [(f"{q.publisher}/{q.name}", f"{q.name}, {q.size} ({q.publisher})") for q in quants]
        items.append(n.select("quant", "Quant", chosen["quant"], options))
    if subject is not None:
        items.append(n.text(_facts(subject), tone="quiet", key="size"))
        if subject.approximate and reading:
            items.append(n.text("Reading its header, a few megabytes, for exact figures ...", key="header"))
        elif subject.approximate:
            near = "Its header was not read, so figures are near, not exact."
            items.append(n.text(f"{near} {subject.note}".strip(), tone="warn", key="header"))
            items.append(n.row([n.button("read", "Read its header", about="a few megabytes")], key="read"))
    return n.group("Model", items, quiet=True)


def _facts(subject: Subject) -> str:
    model = subject.model
    experts = f", {model.expert_count} experts" if subject.expert_layers else ""
    return f"{gb(model.file_bytes)}, {subject.layers - 1} layers{experts}"


def machine_control(chosen: Mapping[str, Any], machine: Machine | None, given: Machine | None) -> Node:
    """Return the controls for the machine, and what is known of it.

    Args:
        chosen: The choices.
        machine: What is planned for now.
        given: A machine that the panel was given and that is no shipped profile.
    """
    options = [(THIS, "This machine"), *((key, one.name) for key, one in profiles().items())]
    if given is not None:
        options.append((given.name, given.name))
    items = [n.select("machine", "Machine", chosen["machine"], [*options, (TYPED, "Hardware I type in")])]
    if chosen["machine"] == TYPED:
        hint = "Such as 24, or 24,24 for two; empty for none."
        numbers = [
            n.number("ram_gib", "RAM, GiB", chosen["ram_gib"], low=1, high=_MOST_GIB),
            n.number("cores", "Cores", chosen["cores"], low=1, high=_MOST_CORES),
        ]
        items += [n.field("gpus_gib", "GPUs, GiB each", chosen["gpus_gib"], hint=hint), n.row(numbers)]
    elif machine is not None:
        items.append(n.text(_hardware(machine), tone="quiet", key="hardware"))
    if chosen["machine"] == THIS:
        items.append(n.row([n.button("look", "Look again", about="at what is free on this machine")]))
    return n.group("Machine", items, quiet=True)


def _hardware(machine: Machine) -> str:
    cores = machine.cpu.usable_cores
    gpus = [f"{gpu.name} with {gib(gpu.total_mib)}" for gpu in machine.usable_gpus] or ["No GPU"]
    memory = machine.memory
    free = f"{gib(memory.available_mib)} of {gib(memory.total_mib)} RAM free"
    return f"{and_so(gpus)}; {free}; {cores} core{'' if cores == 1 else 's'}"
