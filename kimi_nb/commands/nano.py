"""``kimi-nb nano``: show, copy or cut the laptop-sized model, or make one with random weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.commands._types import whole

if TYPE_CHECKING:
    import argparse

    from kimi_nb.nano.make import Weights

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["make"],
        default="make",
        help="write nano's GGUF file, or find the shipped one (default)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the folder to write to (default: the shipped file is used where it lies)",
    )
    parser.add_argument(
        "--shards", type=whole(1), default=1, metavar="N", help="cut it into N files (default: 1)"
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="the same shape with random weights, which say nothing"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from kimi_nb.files import cache_home, sha256_file
    from kimi_nb.nano import SHAPE, make_nano, nano_path

    started = time.monotonic()
    weights: Weights = "random" if args.random_weights else "trained"
    if args.out is None and args.shards == 1 and weights == "trained":
        first = nano_path()
    else:
        folder = args.out or cache_home() / "nano" / f"{weights}-in-{args.shards}-shards"
        first = make_nano(folder, shards=args.shards, weights=weights)
    seconds = time.monotonic() - started
    total = f"-of-{args.shards:05d}.gguf"
    made = [first] if args.shards == 1 else sorted(first.parent.glob(f"nano-*{total}"))
    report = {
        "path": str(first),
        "parameters": SHAPE.n_params,
        "weights": weights,
        "seconds": round(seconds, 3),
        "files": [
            {"path": str(path), "size_bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in made
        ],
    }
    if args.json:
        print(json.dumps(report))
        return 0
    millions = SHAPE.n_params / 1e6
    print(f"nano: {millions:.1f} million parameters, {weights} weights, ready after {seconds:.2f} s")
    for path in made:
        print(f"  {path}  {path.stat().st_size / 1e6:.1f} MB  sha256 {sha256_file(path)}")
    return 0
