"""A machine and a first look at it, as notebooks show them."""

from __future__ import annotations

import pytest

from kimi_nb.machine import first_look, load_profile, profiles
from kimi_nb.machine.show import (
    first_look_figure,
    first_look_table,
    machine_table,
    notes_table,
    pick_machine,
)
from kimi_nb.model import catalog

KIMI = catalog().model("kimi-k2.5")


def test_tables_of_a_machine_with_gpu_say_where_the_weights_could_lie() -> None:
    look = first_look(load_profile("rtx4090-256gb"), KIMI)
    rows = {row[0]: row for row in first_look_table(look).rows}
    assert rows["UD-TQ1_0"][3] == "in GPU and main memory"
    assert rows["UD-Q4_K_XL"][3] == "too large for memory"
    assert rows["UD-Q4_K_XL"][4].endswith("short")
    assert first_look_table(look).columns[-1] == "of memory"  # a profile has no disk
    assert "RTX 4090" in repr(machine_table(load_profile("rtx4090-256gb")))


@pytest.mark.parametrize("name", list(profiles()))
def test_the_figure_says_in_words_what_its_colours_say(name: str) -> None:
    machine = load_profile(name)
    look = first_look(machine, KIMI)
    figure = first_look_figure(look, machine.name)
    notes = {note.y: note.text for note in figure.layout.annotations if isinstance(note.y, str)}
    said = {label.partition(",")[0]: words for label, words in notes.items()}
    drawn = [row for row in first_look_table(look).rows if row[0] != "BF16"]
    assert said == {row[0]: row[3] for row in drawn}
    for bar in figure.data:
        assert {notes[label] for label in bar.y} == {bar.name}
    assert len({bar.marker.pattern.shape for bar in figure.data}) == len(figure.data)
    lines = [note.text for note in figure.layout.annotations if not isinstance(note.y, str)]
    assert any(line.startswith("all memory") for line in lines)
    assert any(line.startswith("GPU memory") for line in lines) == bool(machine.gpus)


def test_no_notes_are_said_in_words() -> None:
    machine = load_profile("h200x8")
    assert machine.notes == ()
    assert "nothing stands out" in repr(notes_table(machine))


def test_headless_the_list_is_a_line(monkeypatch, capsys) -> None:
    monkeypatch.setenv("KIMI_NB_HEADLESS", "1")
    pick_machine(pytest.fail, "this")
    said = capsys.readouterr().out
    assert "Looked at: this" in said
    assert all(name in said for name in profiles())


def test_picking_a_machine_shows_it(monkeypatch) -> None:
    import IPython.display

    monkeypatch.delenv("KIMI_NB_HEADLESS", raising=False)
    displayed = []
    monkeypatch.setattr(IPython.display, "display", lambda *things: displayed.extend(things))
    picked = []
    pick_machine(picked.append, "this")
    picker = displayed[0]
    assert picker.value == "this"
    picker.value = "h100-80gb"
    assert picked == ["h100-80gb"]
