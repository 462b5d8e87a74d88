"""Options that several verbs take, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model

__all__ = ["add_machine", "add_model", "add_models_folder", "given_machine", "given_model"]

_FROM_HUB = "a model of the catalog; its headers are read from the Hub"


def add_model(
    parser: argparse.ArgumentParser, *, model: str = _FROM_HUB, quant: str | None = "which quant of --model"
) -> Any:
    """Declare ``--gguf``, ``--model`` and ``--quant``.

    Args:
        parser: The verb's.
        model: What ``--model`` is, in the help.
        quant: What ``--quant`` is; with None it is left to the caller, who has a third choice to add first.

    Returns:
        The group of the choices that exclude each other.
    """
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--gguf", metavar="FILE", type=Path, help="a GGUF file, or the first of its shards")
    what.add_argument("--model", metavar="M", help=model)
    if quant is not None:
        parser.add_argument("--quant", metavar="Q", help=quant)
    return what


def given_model(args: argparse.Namespace) -> Model:
    """Return the header of the model that was named.

    Raises:
        UsageError: There is no such model or quant, or no file.
        ModelFileError: The header cannot be read.
    """
    from kimi_nb.model import named_model, read_header

    return read_header(args.gguf) if args.gguf is not None else named_model(args.model, args.quant)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Declare ``--machine``."""
    parser.add_argument(
        "--machine", metavar="FILE", help="a saved machine or a shipped profile (default: this one)"
    )


def given_machine(args: argparse.Namespace) -> Machine:
    """Return the machine that was named, or this one.

    Raises:
        UsageError: There is no such machine.
    """
    from kimi_nb.machine import machine_named, probe

    return probe() if args.machine is None else machine_named(args.machine)


def add_models_folder(parser: argparse.ArgumentParser) -> None:
    """Declare ``--folder``."""
    parser.add_argument("--folder", metavar="DIR", type=Path, help="models folder (default: $KIMI_NB_MODELS)")
