"""Show rows of text in a notebook: an HTML table there, plain text everywhere else."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Table", "table"]

# Line breaks are kept, since prompts and answers have them; words are broken in answers, not in headings.
_NAME = "text-align: left; vertical-align: top; white-space: pre-wrap"
_CELL = f"{_NAME}; overflow-wrap: anywhere"


@dataclass(frozen=True, repr=False)
class Table:
    """A table of texts, made by :func:`table`.

    Attributes:
        head: The columns' headings.
        rows: As many texts in each row as there are headings; the first one names the row.
        caption: What the table shows; may be empty.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __repr__(self) -> str:
        """Return the table as text: each row's name, and below it what the other columns say of it."""
        lines = [self.caption] if self.caption else []
        for name, *others in self.rows:
            lines.append(f"{self.head[0]}: {name}" if self.head[0] else name)
            for heading, text in zip(self.head[1:], others, strict=True):
                lines.append(f"  {heading}: " + text.replace("\n", "\n    "))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # dir="auto": an answer in Arabic runs from right to left, whatever stands beside it.
        head = "".join(f'<th scope="col" style="{_NAME}">{html.escape(text)}</th>' for text in self.head)
        rows = "".join(
            f'<tr><th scope="row" style="{_NAME}">{html.escape(name)}</th>'
            + "".join(f'<td dir="auto" style="{_CELL}">{html.escape(text)}</td>' for text in others)
            + "</tr>"
            for name, *others in self.rows
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Table:
    """Return a table to display; whatever is no text is shown as ``str`` gives it, and None as a dash.

    Args:
        head: The columns' headings.
        rows: The cells, row by row.
        caption: What the table shows.

    Raises:
        ValueError: A row has another number of cells than there are headings.
    """
    made = tuple(tuple("-" if cell is None else str(cell) for cell in row) for row in rows)
    for number, row in enumerate(made):
        if len(row) != len(head):
            raise ValueError(f"row {number} has {len(row)} cells, and there are {len(head)} headings")
    return Table(tuple(head), made, caption)
