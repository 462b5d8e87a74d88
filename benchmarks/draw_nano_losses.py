"""Draw nano's loss curve: ``python benchmarks/draw_nano_losses.py [losses.json] > docs/nano-losses.svg``.

Takes what the package ships (columns stage, step and two losses), or what a training leaves (no stage).
"""

from __future__ import annotations

import argparse
import json
import math
from importlib.resources import files
from itertools import groupby
from pathlib import Path

LEFT, RIGHT, TOP, BOTTOM, DECADE = 64.0, 736.0, 49.8, 312.0, 74.43
"""The frame in pixels; a loss of 1 is at ``TOP``, and each tenth of it ``DECADE`` lower."""


def main() -> None:
    """Print the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    shipped = Path(str(files("kimi_nb.nano").joinpath("data", "losses.json")))
    parser.add_argument("losses", type=Path, nargs="?", default=shipped)
    told = json.loads(parser.parse_args().losses.read_text(encoding="utf-8"))
    rows = [row if "stage" in told["columns"] else [1, *row] for row in told["losses"]]
    stages = [list(stage) for _, stage in groupby(rows, key=lambda row: row[0])]
    before = [sum(stage[-1][1] for stage in stages[:number]) for number in range(len(stages) + 1)]

    def x(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * step / before[-1]

    def y(loss: float) -> float:
        return min(BOTTOM, TOP - DECADE * math.log10(loss))

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 360">',
           "<style>text { font: 12px sans-serif }</style>", '<rect width="760" height="360" fill="white"/>',
           '<text x="64" y="22">nano: loss for each token it is to write (log scale)</text>']  # fmt: skip
    for loss in ("1", "0.1", "0.01", "0.001"):
        height = y(float(loss))
        out.append(
            f'<line x1="{LEFT:.0f}" x2="{RIGHT:.0f}" y1="{height:.1f}" y2="{height:.1f}" stroke="#ddd"/>'
        )
        out.append(f'<text x="{LEFT - 8:.0f}" y="{height + 4:.1f}" text-anchor="end">{loss}</text>')
    for quarter in range(5):
        step = before[-1] * quarter / 4
        out.append(f'<text x="{x(step):.1f}" y="330" text-anchor="middle">{step:,.0f}</text>')
    out.append('<text x="400.0" y="350" text-anchor="middle">step</text>')
    for number, start in enumerate(before[1:-1], start=2):
        out.append(f'<path d="M{x(start):.1f} 40V312" stroke="#888" stroke-dasharray="4 3"/>')
        place, side = (x(start) + 6, "start") if x(start) < RIGHT - 150 else (x(start) - 6, "end")
        height = 96 + 18 * (number - 2)
        out.append(f'<text x="{place:.1f}" y="{height}" text-anchor="{side}">stage {number}</text>')
    for column, colour, name, height in ((2, "#1f77b4", "training", 52), (3, "#d62728", "validation", 70)):
        points = " ".join(
            f"{x(start + row[1]):.1f},{y(row[column]):.1f}"
            for start, stage in zip(before, stages, strict=False)
            for row in stage
        )
        out.append(f'<text x="646" y="{height}" fill="{colour}">{name}</text>')
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    print("\n".join([*out, "</svg>"]))


if __name__ == "__main__":
    main()
