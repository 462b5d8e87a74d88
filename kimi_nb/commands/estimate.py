"""``kimi-nb estimate``: what a model takes on each device, as llama.cpp counts it, loading nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from kimi_nb.commands._options import add_machine, add_model, given_machine, given_model
from kimi_nb.errors import KimiNbError, UsageError

if TYPE_CHECKING:
    import argparse

    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan import Settings

__all__ = ["configure", "main"]

_SHORT = {
    "--ctx": "--ctx-size",
    "--batch": "--batch-size",
    "--ubatch": "--ubatch-size",
    "--ngl": "--n-gpu-layers",
}
"""Shorter names for the settings that people change most."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    from kimi_nb.plan.arguments import add_settings
    from kimi_nb.plan.settings import CACHE_TYPES

    add_model(parser)
    add_machine(parser)
    parser.add_argument(
        "--gpus", metavar="MIB,MIB", help="plan for GPUs of these sizes instead of the machine's"
    )
    parser.add_argument("--kv-type", choices=CACHE_TYPES, help="type of the cache, keys and values alike")
    parser.add_argument(
        "--verify", action="store_true", help="ask the real llama.cpp as well, on a file without weights"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_settings(parser)
    for option, full in _SHORT.items():
        known = parser._option_string_actions[full]  # noqa: SLF001 - argparse has no way to add an alias later
        parser._option_string_actions[option] = known  # noqa: SLF001
        known.option_strings = [*known.option_strings, option]


def main(args: argparse.Namespace) -> int:
    """Print what each device must hold; return 1 if that does not fit."""
    from kimi_nb.model.vision import vision_mib
    from kimi_nb.plan.arguments import read_settings
    from kimi_nb.plan.memory_verdict import Extras, memory_report
    from kimi_nb.plan.speed import forecast
    from kimi_nb.plan.text import report_lines
    from kimi_nb.rehearse.saved import find_profile

    settings = read_settings(args)
    if args.kv_type is not None:
        settings = settings.replace(cache_type_k=args.kv_type, cache_type_v=args.kv_type)
    machine = given_machine(args)
    if args.gpus is not None:
        machine = _with_gpus(machine, args.gpus)
    model = given_model(args)
    extras = Extras(mmproj_mib=vision_mib(settings.mmproj))
    report = memory_report(model, settings, machine, extras=extras)
    speed = forecast(model, settings, machine, find_profile(model, machine), report=report)
    told: dict[str, Any] = {
        "settings": settings.to_dict(),
        **report.as_dict(),
        "exact": report.exact,
        "forecast": speed and speed.as_dict(),
        "verified": None,
    }
    if args.verify:
        told |= _verified(model, settings, machine)
    if args.json:
        print(json.dumps(told))
    else:
        print("\n".join(report_lines(report, speed)))
        _show_verified(told["verified"])
    return 0 if report.fits else 1


def _verified(model: Model, settings: Settings, machine: Machine) -> dict[str, Any]:
    """Return llama.cpp's own answer, or why there is none: the estimate stands without it."""
    from kimi_nb.engine import ensure_build
    from kimi_nb.rehearse.verify import verify

    try:
        return {"verified": verify(model, settings, machine, ensure_build(progress=_say)).as_dict()}
    except KimiNbError as error:
        print(f"kimi-nb: not verified: {error}", file=sys.stderr)
        return {"not_verified": error.as_dict()}


def _say(text: str, _fraction: float | None) -> None:
    print(text, file=sys.stderr)


def _with_gpus(machine: Machine, sizes: str) -> Machine:
    from kimi_nb.machine import with_gpus

    try:
        mib = [int(size) for size in sizes.split(",")] if sizes else []
    except ValueError:
        mib = [-1]
    if any(size <= 0 for size in mib):
        raise UsageError(
            "KNB374",
            f"--gpus cannot be {sizes!r}",
            why="it takes the memory of each GPU in MiB, with commas between",
            fix="Such as --gpus 24564 or --gpus 24576,24576; an empty text means no GPU.",
        )
    return with_gpus(machine, mib)


def _show_verified(verified: dict[str, Any] | None) -> None:
    if verified is None:
        return
    print(f"llama.cpp {verified['llama_cpp']} itself, in {verified['seconds']:.1f} s; our difference:")
    parts = ("model_mib", "context_mib", "compute_mib")
    for device in [*verified["devices"], verified["host"]]:
        theirs = "".join(f"{device[part]:>10}" for part in parts)
        difference = ", ".join(f"{device['difference'][part]:+d}" for part in parts)
        print(f"{device['name']:<8}{theirs}   {difference}")
    for name in verified["left_out"]:
        print(f"llama-fit-params does not know {name}: both answers are without it")
