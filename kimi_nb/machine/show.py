"""A machine and a first look at it for notebooks: as tables, as a figure, and with a list to pick from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kimi_nb.machine.read import MIB
from kimi_nb.tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from plotly.graph_objects import Figure

    from kimi_nb.machine.machine import Machine
    from kimi_nb.machine.verdict import FirstLook, QuantLook
    from kimi_nb.tables import Table

__all__ = ["first_look_figure", "first_look_table", "machine_table", "notes_table", "pick_machine"]

_GPU, _MEMORY, _NEITHER = "on the GPUs alone", "in GPU and main memory", "too large for memory"
_MARKS = {_GPU: ("#1b7837", ""), _MEMORY: ("#2166ac", "/"), _NEITHER: ("#8c510a", "x")}
"""Colour and pattern of each verdict's bars; the words stand beside them, so that colour is never alone."""


def machine_table(machine: Machine) -> Table:
    """Return the parts of a machine that matter for a model of Kimi's kind, each with the reason."""
    memory, disk, cpu = machine.memory, machine.disk, machine.cpu
    gpus = "; ".join(f"{gpu.name}, {_gib(gpu.total_mib)}" for gpu in machine.gpus)
    rows = [
        ("GPU", gpus or "none", "holds what every token needs: attention, the shared expert, the cache"),
        (
            "GPU memory in all",
            _gib(machine.gpu_mib) if machine.gpus else "none",
            "the more experts fit here, the faster it writes",
        ),
        (
            "main memory",
            f"{_gib(memory.total_mib)}, {_gib(memory.available_mib)} available",
            "holds the experts that do not fit on a GPU; its speed bounds the tokens per second",
        ),
        (
            "GPU and main memory together",
            _gib(machine.capacity_mib),
            "should exceed the size of the weights",
        ),
        (
            "processor",
            f"{cpu.model}, {cpu.physical_cores} cores, {cpu.usable_cores} usable",
            "computes the experts that lie in main memory",
        ),
        (
            "instruction sets",
            " ".join(cpu.features) or "none that llama.cpp has code for",
            "AVX2 or AVX-512 (x86) and dotprod (ARM) are what llama.cpp is fast with",
        ),
        (
            "memory nodes (NUMA)",
            str(len(machine.numa)) if machine.numa else "not known",
            "with 2 or more, memory that belongs to another socket is slower",
        ),
        (
            "disk for models",
            f"{_gib(disk.free_mib)} free, {disk.filesystem}" if disk else "not part of a profile",
            "the whole download must fit, with room to spare",
        ),
    ]
    return table(["part", "here", "why it matters"], rows, caption=machine.name)


def notes_table(machine: Machine) -> Table:
    """Return what stands out about a machine; what is healthy has no row."""
    rows = [(note.id, note.severity, f"{note.what}: {note.why}", note.fix) for note in machine.notes]
    columns = ["id", "kind", "what and why", "what to do"]
    return table(columns, rows or [("none", "", "nothing stands out", "")])


def first_look_table(look: FirstLook, publisher: str | None = None) -> Table:
    """Return one publisher's quants against a machine's memory and disk, the smallest first.

    Args:
        look: What to show.
        publisher: Whose quants; by default those of the model's first publisher.
    """
    rows = [
        (
            one.quant.name,
            one.quant.size,
            ("" if one.quant.exact else "~") + _gib((one.quant.bytes or 0) / MIB),
            _verdict(one),
            _spare(one.memory_spare_mib),
            *(() if one.disk_spare_mib is None else (_spare(one.disk_spare_mib),)),
        )
        for one in _of(look, publisher)
    ]
    caption = f"{look.model.name} by file size alone, against {_gib(look.memory_mib)} of memory (~: rounded)"
    columns = ["quant", "download", "weights", "where they could lie", "of memory"]
    columns += [] if look.disk_free_mib is None else ["of disk"]
    return table(columns, rows, caption=caption)


def first_look_figure(look: FirstLook, name: str) -> Figure:
    """Draw the quants of the model's first publisher as bars against GPU memory and all memory.

    A quant more than twice as large as the released weights is left out: nobody runs it.

    Args:
        look: What to show.
        name: The machine's name, for the title.
    """
    import plotly.graph_objects as go

    looks = [one for one in _of(look, None) if not _unpacked(one, look)]
    labels = {one.quant.name: f"{one.quant.name}, {(one.quant.bytes or 0) / 2**30:,.0f} GiB" for one in looks}
    figure = go.Figure()
    for words, (colour, pattern) in _MARKS.items():
        mine = [one for one in looks if _verdict(one) == words]
        if mine:
            figure.add_bar(
                orientation="h",
                y=[labels[one.quant.name] for one in mine],
                x=[(one.quant.bytes or 0) / 2**30 for one in mine],
                name=words,
                marker={"color": colour, "pattern": {"shape": pattern}},
            )
        for one in mine:
            figure.add_annotation(
                x=1, xref="paper", xanchor="right", y=labels[one.quant.name], text=words, showarrow=False
            )
    lines = [(look.memory_mib, "solid", "all memory", 1.16 if look.gpu_mib else 1.08)]
    if look.gpu_mib:
        lines.append((look.gpu_mib, "dot", "GPU memory", 1.08))
    for mib, dash, words, height in lines:
        figure.add_vline(x=mib / 1024, line_dash=dash, line_width=2)
        figure.add_annotation(
            x=mib / 1024,
            y=height,
            yref="paper",
            xanchor="left",
            text=f"{words}: {_gib(mib)}",
            showarrow=False,
        )
    longest = max([look.memory_mib / 1024, *((one.quant.bytes or 0) / 2**30 for one in looks)])
    figure.update_layout(
        title={"text": f"{look.model.name}: weights against memory ({name})"},
        xaxis={"title": {"text": "GiB"}, "range": [0, 1.5 * longest]},
        yaxis={"categoryorder": "array", "categoryarray": list(labels.values())[::-1]},
        showlegend=False,  # the words at the end of each row say it
        barmode="overlay",
        height=480,
        margin={"t": 110},
    )
    return figure


def pick_machine(show: Callable[[str], object], chosen: str) -> None:
    """Show a list of machines, and call ``show`` below it with the name of each one that is picked.

    In a headless run, where nobody can pick, a line of text says how to look at another machine.

    Args:
        show: Gets ``this`` or a profile's name, and displays what it likes.
        chosen: The name that is shown already.
    """
    from kimi_nb.machine.shipped import profiles

    names = list(dict.fromkeys([chosen, "this", *profiles()]))
    if os.environ.get("KIMI_NB_HEADLESS") == "1":
        print(f"Looked at: {chosen}. For another machine, set the parameter `machine` to one of:")  # noqa: T201 - a notebook's text
        print(", ".join(name for name in names if name != chosen))  # noqa: T201 - likewise
        return
    import ipywidgets
    from IPython.display import display

    picker = ipywidgets.Dropdown(options=names, value=chosen, description="Machine:")
    below = ipywidgets.Output()

    def changed(change: dict[str, Any]) -> None:
        with below:
            below.clear_output(wait=True)
            show(change["new"])

    picker.observe(changed, names="value")
    display(picker, below)  # type: ignore[no-untyped-call]  # IPython annotates it in part


def _of(look: FirstLook, publisher: str | None) -> list[QuantLook]:
    publisher = publisher or look.model.publishers[0].name
    return sorted(
        (one for one in look.quants if one.quant.publisher == publisher), key=lambda one: one.quant.bytes or 0
    )


def _unpacked(one: QuantLook, look: FirstLook) -> bool:
    """Tell whether a quant has far more bits than the release, which would press the others together."""
    native = look.model.native
    return native is not None and (one.quant.bytes or 0) > 2 * native.bytes


def _verdict(one: QuantLook) -> str:
    if one.fits_gpu:
        return _GPU
    return _MEMORY if one.fits_memory else _NEITHER


def _gib(mib: float) -> str:
    return f"{mib / 1024:,.1f} GiB"


def _spare(mib: int) -> str:
    return f"{_gib(mib)} left" if mib >= 0 else f"{_gib(-mib)} short"
