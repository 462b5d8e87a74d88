"""``kimi-nb lab``: open the notebooks in JupyterLab, on 127.0.0.1 and behind a token."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from kimi_nb.commands._types import whole

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--port",
        type=whole(0, 65535),
        metavar="N",
        help="port to listen on (default: the first free one from 8888)",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
    parser.add_argument(
        "arguments", nargs="*", metavar="-- ARGUMENT", help="passed on to JupyterLab, after --"
    )


def main(args: argparse.Namespace) -> int:
    """Become JupyterLab; this returns only if that fails."""
    from kimi_nb.run.lab import lab_command
    from kimi_nb.run.shipped import working_folder

    notebooks = working_folder()
    options = [f"--ServerApp.port={args.port}"] if args.port is not None else []
    if args.no_browser:
        options.append("--no-browser")
    command, env = lab_command(notebooks.folder, [*options, *args.arguments])
    for line in notebooks.told:
        print(line)
    sys.stdout.flush()
    # JupyterLab takes this process's place, so that signals and the exit code are its own.
    os.execve(command[0], command, env)  # noqa: S606 - an argument list of ours, and no shell
