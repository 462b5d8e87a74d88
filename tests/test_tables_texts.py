"""Tables in a notebook: nothing in a text becomes markup, and without HTML nothing is lost."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from kimi_nb.tables import texts


class _Cells(HTMLParser):
    """Collect the text of each cell, and the name of every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in {"td", "th", "caption"}:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


TEXTS = ["<|im_end|>", "a\nb | c", "<script>alert(1)</script>", '你好 "مرحبا" & co']


def test_every_text_arrives_as_it_was() -> None:
    """Kimi's special tokens look like tags, and a model may write anything."""
    page = _Cells()
    page.feed(texts(["what", "text"], enumerate(TEXTS), "A <caption>")._repr_html_())
    assert page.cells[0] == "A <caption>"
    assert page.cells[1:3] == ["what", "text"]
    assert page.cells[4::2] == TEXTS
    assert "script" not in page.tags


def test_rows_are_named_for_screen_readers() -> None:
    """A cell is announced with its row and its column only when those are marked as headings."""
    shown = texts(["mode", "answer"], [["instant", "yes"]])._repr_html_()
    assert '<th scope="row"' in shown
    assert '<th scope="col"' in shown
    assert "<caption>" not in shown


def test_as_text_nothing_is_missing() -> None:
    """A terminal, a log and the plain form of an executed notebook show the text form."""
    shown = repr(
        texts(["mode", "answer", "seconds"], [["thinking", "a\nb", 1.5], ["instant", None, 2]], "Both")
    )
    expected = (
        "Both\nmode: thinking\n  answer: a\n    b\n  seconds: 1.5\nmode: instant\n  answer: -\n  seconds: 2"
    )
    assert shown == expected


def test_a_row_of_another_length_is_refused() -> None:
    """A cell that silently moved under another heading would say something false."""
    with pytest.raises(ValueError, match="row 1 has 1 cells, and there are 2 headings"):
        texts(["a", "b"], [[1, 2], [3]])
