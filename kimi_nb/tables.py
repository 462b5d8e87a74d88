"""Small tables for notebooks: HTML where it can be shown, text everywhere else.

:func:`table` is for data, with numbers grouped and backticks as code; :func:`texts` for prompts, answers and
whatever else must be shown exactly as it is, line breaks and markup included.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Table", "Texts", "table", "texts"]

#: A name of up to so many characters is not broken into lines.
_SHORT = 20
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of text and numbers under headings, as the last line of a notebook's cell shows them.

    Attributes:
        columns: The headings.
        rows: As many cells each; the first one names its row.
        caption: What the table shows.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    caption: str = ""

    def __repr__(self) -> str:
        """Return the table as aligned text."""
        cells = [[_plain(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        lines = [self.columns, ["-" * width for width in widths], *cells]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([*([self.caption] if self.caption else []), *text])

    def _repr_html_(self) -> str:
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        head = "".join(
            f'<th scope="col" style="text-align:left">{html.escape(name)}</th>' for name in self.columns
        )
        body = "".join(f"<tr>{_row(row)}</tr>" for row in self.rows)
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str | int | float]], *, caption: str = "") -> Table:
    """Make a table.

    Args:
        columns: The headings.
        rows: As many cells each; words between backticks are shown as code, numbers are grouped by thousands.
        caption: What the table shows, in a few words.

    Raises:
        ValueError: A row has more or fewer cells than there are headings.
    """
    given = tuple(tuple(row) for row in rows)
    if any(len(row) != len(columns) for row in given):
        msg = f"every row needs {len(columns)} cells"
        raise ValueError(msg)
    return Table(tuple(columns), given, caption)


def _row(row: Sequence[str | int | float]) -> str:
    first, *others = row
    whole = "; white-space:nowrap" if len(_plain(first)) <= _SHORT else ""
    return f'<th scope="row" style="text-align:left{whole}">{_marked(first)}</th>' + "".join(
        f'<td style="text-align:{"left" if isinstance(cell, str) else "right"}">{_marked(cell)}</td>'
        for cell in others
    )


def _plain(cell: str | float) -> str:
    return cell.replace("`", "") if isinstance(cell, str) else f"{cell:,}"


def _marked(cell: str | float) -> str:
    return _CODE.sub(r"<code>\1</code>", html.escape(cell if isinstance(cell, str) else f"{cell:,}"))


# Line breaks are kept, since prompts and answers have them; words are broken in answers, not in headings.
_NAME = "text-align: left; vertical-align: top; white-space: pre-wrap"
_CELL = f"{_NAME}; overflow-wrap: anywhere"


@dataclass(frozen=True, repr=False)
class Texts:
    """A table of texts, made by :func:`texts`.

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


def texts(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Texts:
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
    return Texts(tuple(head), made, caption)
