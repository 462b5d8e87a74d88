"""Draw nano's loss curve from the data the package ships: ``python scripts/plot_nano_losses.py FILE.svg``."""

from __future__ import annotations

import json
import math
import sys
from importlib.resources import files
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 360, 64, 24, 40, 48
COLOURS = {"training": "#1f77b4", "validation": "#d62728"}
FLOOR = 3e-4
"""The lowest loss that is drawn."""


def main() -> None:
    """Write the picture."""
    data = files("kimi_nb.nano").joinpath("data", "losses.json").read_text(encoding="utf-8")
    rows = json.loads(data)["losses"]
    ends = [max(row[1] for row in rows if row[0] == stage) for stage in (1, 2)]
    steps = [row[1] + (ends[0] if row[0] == 2 else 0) for row in rows]  # noqa: PLR2004 - the second stage
    top = max(max(row[2:]) for row in rows)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / sum(ends)

    def y(loss: float) -> float:
        share = math.log(max(loss, FLOOR) / FLOOR) / math.log(top / FLOOR)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22">nano: loss for each token it is to write (log scale)</text>',
    ]
    for loss in (1, 0.1, 0.01, 0.001):
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss}</text>',
        ]
    for step in range(0, sum(ends) + 1, 4000):
        parts.append(
            f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:,}</text>'
        )
    parts += [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">step</text>',
        f'<path d="M{x(ends[0]):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#888" stroke-dasharray="4 3"/>',
        f'<text x="{x(ends[0]) + 6:.1f}" y="{TOP + 12}">second stage</text>',
    ]
    for place, (name, colour) in enumerate(COLOURS.items()):
        points = " ".join(
            f"{x(step):.1f},{y(row[2 + place]):.1f}" for step, row in zip(steps, rows, strict=True)
        )
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>',
            f'<text x="{WIDTH - RIGHT - 90}" y="{TOP + 12 + 18 * place}" fill="{colour}">{name}</text>',
        ]
    Path(sys.argv[1]).write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
