"""The ``kimi-nb`` command: one verb, one module in :mod:`kimi_nb.commands`, loaded only when asked for."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import TYPE_CHECKING, Protocol, cast

from kimi_nb import __version__
from kimi_nb.errors import KimiNbError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VERBS", "main"]

VERBS = {
    "demo": "the whole path on nano: build, make the model, run all notebooks, write the report",
    "check": "look at this machine: GPUs, memory, processor, disk",
    "build": "build llama.cpp, once, for every later step",
    "download": "fetch a quant of a model, or nano, and verify it",
    "estimate": "the memory a model takes, device by device, as llama.cpp counts it",
    "models": "list what was downloaded, and remove it safely",
    "nano": "make the laptop-sized model that every notebook runs on",
    "serve": "start llama-server on 127.0.0.1 with a key of its own",
    "chat": "ask one question, streamed, in thinking or instant mode",
    "run": "run notebooks headless and record honestly what happened",
    "lab": "open the notebooks in JupyterLab",
}


class _Verb(Protocol):
    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def main(self, args: argparse.Namespace) -> int: ...


def _load(verb: str) -> _Verb:
    return cast("_Verb", importlib.import_module(f"kimi_nb.commands.{verb}"))


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kimi-nb",
        description="From 'can my machine run Kimi K2.5?' to a served model with tool calls.",
        epilog="Exit codes: 0 done, 1 the answer is no or something failed, 2 wrong use.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kimi-nb {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        sentence = summary[0].upper() + summary[1:] + "."
        sub = verbs.add_parser(name, help=summary, description=sentence, allow_abbrev=False)
        if name == chosen:
            _load(name).configure(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own by default) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    args = _parser(chosen).parse_args(words)
    try:
        return _load(args.verb).main(args)
    except KimiNbError as error:
        if getattr(args, "json", False):
            print(json.dumps({"error": error.as_dict()}, ensure_ascii=False))
        print(f"kimi-nb: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("kimi-nb: interrupted; what is finished is kept, the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main())
