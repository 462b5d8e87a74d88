"""``kimi-nb recipe``: a shell script for production, made from a saved plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.commands._types import whole

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    from kimi_nb.recipe.shell import PORT

    add = parser.add_argument
    add(
        "--plan",
        metavar="FILE",
        type=Path,
        required=True,
        help="a plan saved by `kimi-nb plan` or the plan panel",
    )
    add("--port", type=whole(1, 65535), default=PORT, metavar="N", help=f"on 127.0.0.1; default: {PORT}")
    add("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    from kimi_nb.plan.record import Plan
    from kimi_nb.recipe import shell_script

    text = shell_script(Plan.load(args.plan), port=args.port).rstrip("\n")
    print(json.dumps({"form": "shell", "text": text}, ensure_ascii=False) if args.json else text)
    return 0
