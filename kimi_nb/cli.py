"""The ``kimi-nb`` command: one verb, one module in :mod:`kimi_nb.commands`, loaded only when asked for."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from kimi_nb import __version__
from kimi_nb.errors import KimiNbError, SystemRefusedError, UsageError
from kimi_nb.streams import drop_output, fill_closed_streams, output_is_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VERBS", "main"]

VERBS = {
    "demo": "the whole path on nano: build llama.cpp, chat, call a tool, run all notebooks, write the report",
    "check": "look at this machine: GPUs, memory, processor, disk",
    "build": "build llama.cpp, once, for every later step",
    "download": "fetch a quant of a model, or nano, and verify it",
    "estimate": "the memory a model takes, device by device, as llama.cpp counts it",
    "rehearse": "measure on this machine how fast a model will be, without having it",
    "plan": "the settings for a model on a machine: what they take, how fast, and why",
    "models": "list what was downloaded, and remove it safely",
    "nano": "the laptop-sized model that every notebook runs on: where its file lies, or a copy in shards",
    "serve": "start llama-server on 127.0.0.1 with a key of its own",
    "recipe": "a saved plan as a shell script for production, on llama-server alone",
    "chat": "ask one question, streamed, in thinking or instant mode",
    "run": "run notebooks headless and record honestly what happened",
    "lab": "open the notebooks in JupyterLab",
}


class _Verb(Protocol):
    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def main(self, args: argparse.Namespace) -> int: ...


def _load(verb: str) -> _Verb:
    return cast("_Verb", importlib.import_module(f"kimi_nb.commands.{verb}"))


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are ours: one line with an id, and not a page of usage before it."""

    #: The verb that was asked for, where this is the parser above the verbs': it is told of words left over.
    chosen = ""
    #: The words it was given.
    words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override] # argparse's own signature is overloaded
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, and keep the words for what may have to be said of them."""
        self.words = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        asked = f"See {self.prog}{self.chosen and ' ' + self.chosen} --help."
        if (wrong := re.match(r"argument VERB: invalid choice: '([^']*)'", message)) is not None:
            message = f"there is no verb {wrong[1]!r}"
            if near := get_close_matches(wrong[1], VERBS, n=1):
                asked = f"Did you mean {self.prog} {near[0]}?"
        elif "invalid choice" in message and (unknown := self._unknown_option()) is not None:
            # argparse took the option's value for a word of its own, and complains of that.
            message = f"unrecognized arguments: {unknown}"
        raise UsageError("KNB001", "the command was not understood", why=message, fix=asked)

    def _unknown_option(self) -> str | None:
        options = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        return next((option for option in options if option not in self._option_string_actions), None)


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kimi-nb",
        description="From 'can my machine run Kimi K2.5?' to a served model with tool calls.",
        epilog="Exit codes: 0 done, 1 the answer is no or something failed, 2 wrong use, 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    parser.chosen = chosen if chosen in VERBS else ""
    parser.add_argument("--version", action="version", version=f"kimi-nb {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        sentence = summary[0].upper() + summary[1:] + "."
        sub = verbs.add_parser(name, help=summary, description=sentence, allow_abbrev=False)
        if name == chosen:
            _load(name).configure(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own by default) and return its exit code.

    Raises:
        SystemExit: The words were not understood (code 2), or asked for help or the version (code 0).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        _parser(None).print_help(sys.stderr)
        return 2
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    as_json = "--json" in words
    fill_closed_streams()
    chosen = next((word for word in words if not word.startswith("-")), None)
    try:
        try:
            args = _parser(chosen).parse_args(words)
        except UsageError as error:
            sys.exit(_tell(error, as_json=as_json))
        code = _load(args.verb).main(args)
        sys.stdout.flush()  # what cannot be written shows here, and not when Python ends
    except KimiNbError as error:
        return _tell(error, as_json=as_json)
    except KeyboardInterrupt:
        print("kimi-nb: interrupted; what is finished is kept, the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        drop_output()
        return 1
    except OSError as error:
        if error.errno is None:
            raise  # no answer of the system, but a slip of ours
        if error.filename is None and output_is_lost():
            drop_output()
        return _tell(SystemRefusedError(error), as_json=as_json)
    return code


def _tell(error: KimiNbError, *, as_json: bool) -> int:
    try:
        if as_json:
            print(json.dumps({"error": error.as_dict()}, ensure_ascii=False), flush=True)
    except OSError:
        drop_output()
    with suppress(OSError):
        print(f"kimi-nb: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
