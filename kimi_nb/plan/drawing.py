"""Two kinds of picture, each drawn twice: by plotly for JupyterLab, and as SVG wherever nothing runs.

A reader without colours is told by patterns, dashes and words; one without a picture by the text.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Bars", "Curve", "Part", "Picture"]

_WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 130, 20, 40, 56
_ROW, _BAR = 56, 22
_FONT = 'font-family="sans-serif" font-size="12" fill="#222"'
_SMALL = _FONT.replace("12", "11")
_BLUE = "#2166ac"
_PATTERNS = {
    "": "",
    "/": '<path d="M0,8 L8,0" stroke="#fff" stroke-width="2"/>',
    ".": '<circle cx="4" cy="4" r="1.6" fill="#fff"/>',
    "x": '<path d="M0,0 L8,8 M0,8 L8,0" stroke="#fff" stroke-width="1.5"/>',
}


class Picture:
    """What a notebook's cell shows: a plotly figure, an SVG image and a text, of which one is chosen."""

    title: str

    def svg(self) -> str:
        """Return the picture as an SVG image that needs nothing else."""
        raise NotImplementedError

    def plotly(self) -> Any:
        """Return the picture as a plotly figure."""
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        del include, exclude
        return {
            "text/plain": repr(self),
            "image/svg+xml": self.svg(),
            "application/vnd.plotly.v1+json": json.loads(self.plotly().to_json()),
        }

    def _frame(self, height: float, body: Iterator[str]) -> str:
        patterns = "".join(
            f'<pattern id="p{number}" width="8" height="8" patternUnits="userSpaceOnUse">{lines}</pattern>'
            for number, lines in enumerate(_PATTERNS.values())
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
            f' height="{height:.0f}" role="img"'
            f' aria-label="{escape(repr(self), quote=True)}">'
            f'<defs>{patterns}</defs><rect width="{_WIDTH}" height="{height:.0f}" fill="#fff"/>'
            f'<text x="10" y="22" {_FONT} font-weight="bold">{escape(self.title)}</text>'
            f"{''.join(body)}</svg>"
        )


@dataclass(frozen=True)
class Part:
    """One kind of what bars are made of: name, colour, pattern, and its share of each row in percent."""

    name: str
    colour: str
    pattern: str
    percent: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Bars(Picture):
    """Stacked bars against a limit of 100 %.

    Attributes:
        title: What it shows.
        rows: The bars' names.
        words: What each bar says in words.
        parts: What they are made of, from the left.
        limit: What 100 % is.
    """

    title: str
    rows: tuple[str, ...]
    words: tuple[str, ...]
    parts: tuple[Part, ...]
    limit: str

    def __repr__(self) -> str:
        """Return what the picture says, in words."""
        said = "; ".join(f"{row}: {words}" for row, words in zip(self.rows, self.words, strict=True))
        return f"{self.title}. {said}"

    def svg(self) -> str:
        """Return the picture as an SVG image that needs nothing else."""
        return self._frame(_TOP + 20 + _ROW * len(self.rows) + 40, self._body())

    def _body(self) -> Iterator[str]:
        most = max(110.0, *(sum(part.percent[row] for part in self.parts) for row in range(len(self.rows))))
        scale = (_WIDTH - _LEFT - _RIGHT) / min(most, 300.0)
        bottom = _TOP + 20 + _ROW * len(self.rows)
        for number, (row, words) in enumerate(zip(self.rows, self.words, strict=True)):
            y = _TOP + 20 + _ROW * number
            yield f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end" {_FONT}>{escape(row)}</text>'
            x = float(_LEFT)
            for part in self.parts:
                width = min(part.percent[number] * scale, _WIDTH - _RIGHT - x)
                pattern = list(_PATTERNS).index(part.pattern)
                box = f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0):.1f}" height="{_BAR}"'
                yield f'{box} fill="{part.colour}"/>{box} fill="url(#p{pattern})"/>'
                x += max(width, 0)
            yield f'<text x="{_LEFT}" y="{y + _BAR + 14}" {_SMALL}>{escape(words)}</text>'
        edge = _LEFT + 100 * scale
        yield (
            f'<line x1="{edge:.1f}" x2="{edge:.1f}" y1="{_TOP + 8}" y2="{bottom}" stroke="#222"'
            f' stroke-width="2" stroke-dasharray="6 3"/><text x="{edge - 4:.1f}" y="{_TOP + 8}"'
            f' text-anchor="end" {_FONT}>{escape(self.limit)}</text>'
        )
        x = float(_LEFT)
        for part in self.parts:
            pattern = list(_PATTERNS).index(part.pattern)
            box = f'<rect x="{x:.0f}" y="{bottom + 10}" width="18" height="14"'
            yield f'{box} fill="{part.colour}"/>{box} fill="url(#p{pattern})"/>'
            yield f'<text x="{x + 24:.0f}" y="{bottom + 22}" {_FONT}>{escape(part.name)}</text>'
            x += 50 + 7.5 * len(part.name)

    def plotly(self) -> Any:
        """Return the picture as a plotly figure."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for part in self.parts:
            figure.add_bar(
                orientation="h",
                y=list(self.rows),
                x=list(part.percent),
                name=part.name,
                marker={"color": part.colour, "pattern": {"shape": part.pattern}},
                hovertext=list(self.words),
            )
        figure.add_vline(x=100, line_dash="dash", line_width=2, annotation_text=self.limit)
        figure.update_layout(
            title={"text": self.title},
            barmode="stack",
            xaxis={"title": {"text": "% of what is free there"}},
            yaxis={"autorange": "reversed"},
            height=220 + 40 * len(self.rows),
        )
        return figure


@dataclass(frozen=True, repr=False)
class Curve(Picture):
    """A figure that is known within a band, over something that can be chosen.

    Attributes:
        title: What it shows.
        x_name: What can be chosen.
        y_name: What follows from it.
        x: The choices.
        low: The least to expect at each.
        expected: What to expect.
        high: The most.
        chosen: The choice that the plan made.
        room: The last choice for which there is room; what comes after it is drawn hollow.
        note: What is said below.
    """

    title: str
    x_name: str
    y_name: str
    x: tuple[float, ...]
    low: tuple[float, ...]
    expected: tuple[float, ...]
    high: tuple[float, ...]
    chosen: float | None = None
    room: float | None = None
    note: str = ""

    def __repr__(self) -> str:
        """Return what the picture says, in words."""
        rows = zip(self.x, self.expected, self.low, self.high, strict=True)
        said = "; ".join(f"{x:,.0f}: {y:.3g} ({low:.3g} to {high:.3g})" for x, y, low, high in rows)
        chosen = "" if self.chosen is None else f" The plan: {self.chosen:,.0f}."
        return f"{self.title}. {self.y_name} by {self.x_name}: {said}.{chosen} {self.note}".strip()

    def _has_room(self, x: float) -> bool:
        return self.room is None or x <= self.room

    def svg(self) -> str:
        """Return the picture as an SVG image that needs nothing else."""
        return self._frame(360, self._body())

    def _body(self) -> Iterator[str]:
        right, bottom = _WIDTH - _RIGHT, 360 - _BOTTOM - 14
        ticks = _ticks(max([*self.high, 1e-9]))
        top_y = max(*self.high, ticks[-1])

        def at(number: int, y: float) -> tuple[float, float]:
            across = number / max(len(self.x) - 1, 1)
            return 80 + across * (right - 80), bottom - y / top_y * (bottom - _TOP)

        def points(ys: Sequence[float]) -> list[str]:
            return [f"{across:.1f},{down:.1f}" for across, down in (at(n, y) for n, y in enumerate(ys))]

        def line(ys: Sequence[float], more: str) -> str:
            return f'<polyline points="{" ".join(points(ys))}" fill="none" stroke="{_BLUE}" {more}/>'

        area = " ".join([*points(self.high), *points(self.low)[::-1]])
        yield f'<polygon points="{area}" fill="{_BLUE}" fill-opacity="0.12"/>'
        yield line(self.high, 'stroke-dasharray="2 4"') + line(self.low, 'stroke-dasharray="2 4"')
        yield line(self.expected, 'stroke-width="2.5"')
        for y in ticks:
            down = at(0, y)[1]
            yield f'<line x1="80" x2="{right}" y1="{down:.1f}" y2="{down:.1f}" stroke="#ccc"/>'
            yield f'<text x="72" y="{down + 4:.1f}" text-anchor="end" {_FONT}>{y:,.10g}</text>'
        step = max(1, -(-len(self.x) // 8))
        for number, (x, y) in enumerate(zip(self.x, self.expected, strict=True)):
            across, down = at(number, y)
            if number % step == 0:
                yield f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle" {_FONT}>{x:,.0f}</text>'
            mine = x == self.chosen
            look = f'fill="{_BLUE}"' if self._has_room(x) else f'fill="#fff" stroke="{_BLUE}"'
            yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{6 if mine else 2.5}" {look}/>'
            if mine:
                anchor = "start" if across < 200 else "end" if across > right - 120 else "middle"  # noqa: PLR2004
                yield (
                    f'<text x="{across:.1f}" y="{down - 12:.1f}" text-anchor="{anchor}" {_FONT}'
                    f' font-weight="bold">the plan: {y:.3g}</text>'
                )
        yield f'<text x="80" y="{bottom + 36}" {_FONT}>{escape(self.x_name)}</text>'
        yield (
            f'<text x="80" y="{_TOP - 2}" {_SMALL}>{escape(self.y_name)}; dotted: the band it'
            " should lie in</text>"
        )
        yield f'<text x="80" y="{bottom + 54}" {_SMALL}>{escape(self.note)}</text>'

    def plotly(self) -> Any:
        """Return the picture as a plotly figure."""
        import plotly.graph_objects as go

        figure = go.Figure()
        names = [f"{x:,.0f}" for x in self.x]
        for name, ys, dash in (("high", self.high, "dot"), ("low", self.low, "dot")):
            fill = {"fill": "tonexty", "fillcolor": "rgba(33,102,172,0.12)"} if name == "low" else {}
            figure.add_scatter(
                x=names,
                y=list(ys),
                name=name,
                mode="lines",
                line={"dash": dash, "color": _BLUE},
                **fill,
            )
        figure.add_scatter(
            x=names,
            y=list(self.expected),
            name="expected",
            mode="lines+markers",
            line={"color": _BLUE, "width": 3},
            marker={
                "size": 8,
                "symbol": ["circle" if self._has_room(x) else "circle-open" for x in self.x],
            },
        )
        if self.chosen in self.x:
            at = self.x.index(self.chosen)
            y = self.expected[at]
            figure.add_annotation(x=at, y=y, text=f"the plan: {y:.3g}", showarrow=True, arrowhead=2)
        figure.update_layout(
            title={"text": self.title, "subtitle": {"text": self.note}},
            xaxis={"title": {"text": self.x_name}, "type": "category"},
            yaxis={"title": {"text": self.y_name}, "rangemode": "tozero"},
            height=420,
        )
        return figure


def _ticks(top: float) -> list[float]:
    """Return round numbers from 0 to about ``top``, four to nine of them."""
    size = 10.0 ** math.floor(math.log10(top))
    step = next(size * part for part in (0.2, 0.5, 1.0, 2.0) if top / (size * part) < 9)  # noqa: PLR2004
    return [step * number for number in range(int(top / step) + 1)]
