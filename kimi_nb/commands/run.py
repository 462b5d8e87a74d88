"""``kimi-nb run``: run notebooks headless and record honestly what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.progress import ProgressLine

if TYPE_CHECKING:
    import argparse

    from kimi_nb.run import Run

#: What a shell reports for a process that ended by these signals.
_EXIT = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "notebooks",
        nargs="+",
        metavar="NOTEBOOK",
        help="a notebook, a folder that holds some, or the number or name of one that comes with kimi-nb",
    )
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a value for a parameter, read as the type that the notebook declares; may be repeated",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="the run's folder (default: runs/DATE-TIME)")
    parser.add_argument(
        "--cell-timeout",
        type=int,
        default=600,
        metavar="S",
        help="seconds that one cell may take (default: 600)",
    )
    parser.add_argument(
        "--wall",
        type=float,
        default=1800,
        metavar="S",
        help="seconds that one notebook may take (default: 1800)",
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def main(args: argparse.Namespace) -> int:
    """Run the notebooks; return 0 if all succeeded, 1 if one did not, and as a shell would for a signal."""
    from kimi_nb.run import Text, html_report, run_notebooks

    run = run_notebooks(
        args.notebooks,
        out=args.out,
        parameters={name: Text(value) for name, value in args.parameter},
        cell_timeout_s=args.cell_timeout,
        wall_s=args.wall,
        progress=ProgressLine(),
    )
    report = html_report(run)
    if args.json:
        print(
            json.dumps(
                {**run.to_json(), "out": str(run.out), "report": str(report)}, indent=2, ensure_ascii=False
            )
        )
    else:
        print(_summary(run))
        print(f"Record: {run.out / 'run.json'}\nReport: {report}")
    return exit_code(run)


def exit_code(run: Run) -> int:
    """Return 0 if all notebooks succeeded, 1 if one did not, and for a signal what a shell reports."""
    if run.interrupted_by is not None:
        return _EXIT.get(run.interrupted_by, 1)
    return 0 if run.status == "succeeded" else 1


def _summary(run: Run) -> str:
    good = sum(notebook.status == "succeeded" for notebook in run.notebooks)
    return f"{run.status}: {good} of {len(run.notebooks)} notebooks succeeded in {run.seconds:.0f} s"
