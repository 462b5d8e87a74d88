"""``kimi-nb check``: look at this machine, or at one that was saved."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.commands._options import given_machine

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument(
        "--save", metavar="FILE", type=Path, help="save the machine, to plan for it elsewhere"
    )
    parser.add_argument(
        "--machine",
        metavar="FILE|PROFILE",
        help="show a saved machine, or one of the profiles: cpu-512gb, h100-80gb, h100x8, h200x8, "
        "m2-ultra-192gb, rtx3090x2-256gb, rtx4090-256gb",
    )


def main(args: argparse.Namespace) -> int:
    """Describe the machine and return 0."""
    from kimi_nb.machine import first_look
    from kimi_nb.machine.report import first_look_lines, machine_lines
    from kimi_nb.model import catalog

    machine = given_machine(args)
    look = first_look(machine, catalog().model("kimi-k2.5"))
    if args.save is not None:
        machine.save(args.save)
        print(
            f"Saved to {args.save}; show it again with: kimi-nb check --machine {args.save}", file=sys.stderr
        )
    if args.json:
        print(json.dumps({"machine": machine.to_json(), "first_look": look.to_json()}, ensure_ascii=False))
    else:
        print("\n".join([*machine_lines(machine), "", *first_look_lines(look)]))
    return 0
