"""``kimi-nb plan``: the settings for a model on a machine, what they take, how fast, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.commands._options import add_machine, add_model, given_machine

if TYPE_CHECKING:
    import argparse

    from kimi_nb.model.candidates import Candidate
    from kimi_nb.plan.planner import PlanResult

__all__ = ["configure", "main"]

_GPU = "MiB to leave free on each GPU, beside what CUDA itself takes; default: 300"
_RAM = "MiB to leave free in main memory; default: 2 %% of it, and no less than 1024"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    from kimi_nb.plan.planner import OBJECTIVES

    add = parser.add_argument
    what = add_model(parser, model="a model of the catalog, such as kimi-k2.5 or nano", quant=None)
    what.add_argument(
        "--plan", metavar="FILE", type=Path, help="a plan that was saved, here or in the plan panel: show it"
    )
    add("--quant", metavar="Q", help="which quant of --model; default: the one that suits the objective")
    add("--ctx", metavar="N", type=int, help="tokens of context; default: a usual one that fits")
    add("--objective", choices=OBJECTIVES, default="decode", help="what counts most; default: decode")
    add("--parallel", metavar="N", type=int, default=1, help="requests to answer at once; default: 1")
    add("--mmproj", metavar="FILE", type=Path, help="the vision part, to be counted and started as well")
    add_machine(parser)
    add("--keep-gpu-mib", metavar="N", type=float, help=_GPU)
    add("--keep-ram-mib", metavar="N", type=float, help=_RAM)
    add("--offline", action="store_true", help="read no headers from the Hub: sizes from the catalog only")
    add("--save", metavar="FILE", type=Path, help="keep the plan, for `kimi-nb serve --plan FILE`")
    add("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Print the plan; return 1 if nothing runs."""
    from kimi_nb.plan.text import plan_lines

    result = _made(args) if args.plan is None else _saved(args)
    if args.save is not None and result.plan is not None:
        result.plan.save(args.save)
    if args.json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    else:
        print("\n".join(plan_lines(result, (args.save or args.plan) and str(args.save or args.plan))))
    return 1 if result.plan is None else 0


def _saved(args: argparse.Namespace) -> PlanResult:
    """Return the plan that was saved, as it is: what would make another one is refused."""
    from kimi_nb.errors import UsageError
    from kimi_nb.plan.planner import PlanResult
    from kimi_nb.plan.record import Plan

    others = [name for name in ("quant", "ctx", "machine") if getattr(args, name) is not None]
    if others:
        raise UsageError(
            "KNB379",
            f"--{others[0]} cannot go with --plan",
            why="a plan that was saved is shown as it is",
            fix=f"Leave out --{others[0]}, or plan anew with --model or --gguf.",
        )
    return PlanResult(Plan.load(args.plan))


def _made(args: argparse.Namespace) -> PlanResult:
    from kimi_nb.model.candidates import with_real_header
    from kimi_nb.model.vision import vision_mib
    from kimi_nb.plan.limits import Limits
    from kimi_nb.plan.planner import make_plan
    from kimi_nb.rehearse.saved import find_profile

    machine = given_machine(args)
    models, others = _models(args)
    return make_plan(
        models,
        machine,
        objective=args.objective,
        ctx_size=args.ctx,
        limits=Limits.usual(
            machine,
            gpu_keep_free_mib=args.keep_gpu_mib,
            host_keep_free_mib=args.keep_ram_mib,
            mmproj_mib=vision_mib(args.mmproj),
        ),
        mmproj=args.mmproj and str(args.mmproj),
        profile=lambda model: find_profile(model, machine),
        parallel=args.parallel,
        others=others,
        exact=None if args.offline else with_real_header,
    )


def _models(args: argparse.Namespace) -> tuple[list[Candidate], list[Candidate]]:
    """Return what to choose from, and what to name where none of it runs."""
    from kimi_nb.model import read_header
    from kimi_nb.model.candidates import Candidate, candidates

    if args.gguf is not None:
        return [Candidate(read_header(args.gguf), on_disk=True)], []
    return candidates(args.model, args.quant), candidates(args.model) if args.quant else []
