"""The planner's choices, for real: against ``--fit`` and a grid, and against running out of memory."""

from __future__ import annotations

import random
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

from running import fitted, less_free, try_to_run
from speed import decode_tok_s, profile_of, quants
from stages import Figure, Proof, Stage
from trial_models import full_header, run_folder, trial_model

from kimi_nb.errors import KimiNbError
from kimi_nb.plan import Settings, memory_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kimi_nb.model import Model

__all__ = ["OOM", "PLANNER"]

Row = dict[str, Any]
_MIB = 1 << 20
_CONTEXT = 8192
_GRID_RUNS = 3
_ROUNDS, _ROUND_RUNS = 3, 3
_OF_BEST, _OF_FIT, _MOST_NOISE = 0.98, 1.0, 0.05
#: GPU memory left free, as a share of the trial model: little, and half of it.
_SHARES = (0.25, 0.5)


# -- the planner beside --fit and a grid


def _planner_tasks(proof: Proof) -> Iterator[tuple[str, Callable[[], Row]]]:
    for quant in quants(proof):
        for share in _SHARES if proof.machine.usable_gpus else (1.0,):
            yield f"{quant}, {share:.0%} of it free on the GPU", partial(planner_row, proof, quant, share)


def planner_row(proof: Proof, quant: str, share: float) -> Row:
    """Measure the planner's choice, what --fit chooses, and the best of a grid, with the same memory free.

    The best of many is partly the luckiest. So the grid only says which it is, and that one is then measured
    in turn with the other two.
    """
    from kimi_nb.plan.planner import make_plan

    model, path = trial_model(proof, quant)
    profile = profile_of(proof, quant, model)
    cores = max(int(proof.machine.cpu.usable_cores), 1)
    with less_free(proof, share * model.data_bytes / _MIB) as machine:
        plan = make_plan(model, machine, ctx_size=_CONTEXT, profile=profile).plan
        if plan is None:
            return {"error": "the planner finds nothing that fits"}
        by_fit = fitted(proof, path, _CONTEXT)
        grid: dict[str, Any] = {}
        found: list[tuple[float, Settings]] = []
        for settings in _grid(model, machine):
            try:
                rates = decode_tok_s(proof, path, settings, _counts(cores), runs=_GRID_RUNS)
            except KimiNbError as error:
                grid[_label(settings, 0)] = str(error)[:120]
                continue
            found += [(statistics.median(each), settings.replace(threads=n)) for n, each in rates.items()]
        grid |= {_label(settings, settings.threads or 0): round(rate, 2) for rate, settings in found}
        if not found:
            return {"error": f"nothing of the grid runs: {grid}"}
        best = max(found, key=lambda each: each[0])[1]
        again: dict[str, list[float]] = {"plan": [], "best": [], "fit": []}
        for _ in range(_ROUNDS):
            for name, settings in (("plan", plan.settings), ("best", best), ("fit", by_fit)):
                threads = settings.threads or cores
                again[name] += decode_tok_s(proof, path, settings, [threads], runs=_ROUND_RUNS)[threads]
    plan_tok_s, best_tok_s, fit_tok_s = (statistics.median(rates) for rates in again.values())
    return {
        "free_mib": [round(gpu.free_mib) for gpu in machine.usable_gpus],
        "plan": {name: value for name, value in plan.settings.to_dict().items() if name != "cache_ram"},
        "plan_tok_s": round(plan_tok_s, 2),
        "spread": round(max((max(each) - min(each)) / statistics.median(each) for each in again.values()), 4),
        "fit": by_fit.to_dict(),
        "fit_tok_s": round(fit_tok_s, 2),
        "grid": grid,
        "best": _label(best, best.threads or cores),
        "best_tok_s": round(best_tok_s, 2),
        "of_best": round(plan_tok_s / best_tok_s, 4),
        "of_fit": round(plan_tok_s / fit_tok_s, 4),
        "runs": {name: [round(rate, 3) for rate in rates] for name, rates in again.items()},
        "told": f"{plan_tok_s:.2f} tok/s; --fit {fit_tok_s:.2f}, best of the grid {best_tok_s:.2f}",
    }


def _counts(cores: int) -> list[int]:
    return sorted({cores, max(cores * 3 // 4, 1), max(cores // 2, 1)})


def _grid(model: Model, machine: Any) -> list[Settings]:
    """Return the smallest number of layers' experts on the host that fits, and some more."""
    common = Settings(ctx_size=_CONTEXT, ubatch_size=512, batch_size=2048)
    if not machine.usable_gpus:
        return [common.replace(n_gpu_layers=0), common.replace(n_gpu_layers=0, repack=False)]
    whole = common.replace(n_gpu_layers=999)
    fits = [
        n
        for n in range(model.block_count + 1)
        if memory_report(model, whole.replace(n_cpu_moe=n), machine).fits
    ]
    least = min(fits, default=model.block_count)
    return [whole.replace(n_cpu_moe=n) for n in range(least, model.block_count + 1, 2)][:3]


def _label(settings: Settings, threads: int) -> str:
    on_host = "processor only" if settings.n_gpu_layers == 0 else f"ncmoe {settings.n_cpu_moe}"
    repack = ", no repack" if settings.repack is False else ""
    return f"{on_host}{repack}, {threads} threads"


def _planner_figures(rows: Sequence[Row]) -> list[Figure]:
    good = [row for row in rows if row.get("of_best")]
    if not good:
        return [Figure("planner's choice", "no row", "-", None)]
    # What is measured to be slower by no more than measurements differ among themselves is as fast; where
    # they differ by more than a little, something else was busy, and nothing is proven.
    noise = {row["key"]: min(row["spread"], _MOST_NOISE) for row in good}
    worst = min(good, key=lambda row: row["of_best"] - min(_OF_BEST, 1 - noise[row["key"]]))
    behind = min(good, key=lambda row: row["of_fit"] + noise[row["key"]])
    most, least = min(_OF_BEST, 1 - noise[worst["key"]]), _OF_FIT - noise[behind["key"]]
    return [
        Figure(
            f"worst share of the grid's best (98 %; its spread {worst['spread']:.1%})",
            f"{worst['of_best']:.1%}",
            f">= {most:.1%}",
            worst["of_best"] >= most,
        ),
        Figure(
            f"worst share of --fit's (its spread {behind['spread']:.1%})",
            f"{behind['of_fit']:.1%}",
            f">= {least:.1%}",
            behind["of_fit"] >= least,
        ),
    ]


PLANNER = Stage(
    "planner",
    "The planner's choice beside --fit and a grid",
    _planner_tasks,
    _planner_figures,
    ("key", "free_mib", "plan", "plan_tok_s", "fit_tok_s", "best_tok_s", "of_best"),
)


# -- running out of memory


def _oom_tasks(proof: Proof) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield the trials, those with the same model after one another, for there is room for one."""
    trials = []
    kinds = [("fits", proof.options["plans"])]
    if proof.machine.usable_gpus:
        kinds.append(("refused", proof.options["refused"]))
    for kind, count in kinds:
        for number in range(count):
            chance = random.Random(f"{kind} {proof.options['seed']} {number}")  # noqa: S311 - no secrets
            # What is assumed for CUDA itself must be small beside the 2 per cent that are to be lacking.
            quants_of, few = (
                (("TQ1", "IQ1M", "Q2K", "Q4K"), (1, 3)) if kind == "fits" else (("Q2K", "Q4K"), (3, 4))
            )
            quant, layers = chance.choice(quants_of), chance.randint(*few)
            row = fits_row if kind == "fits" else refused_row
            trials.append((quant, layers, f"{kind} {number}", partial(row, proof, quant, layers, chance)))
    for *_, key, call in sorted(trials, key=lambda trial: trial[:3]):
        yield key, call


def _hollow(proof: Proof, quant: str, layers: int) -> tuple[Model, Path]:
    """Return a model with experts of zeros, written if it is not the one that is there."""
    from kimi_nb.model import read_header
    from kimi_nb.rehearse.slices import Slice, write_slice

    path = run_folder(proof) / f"hollow-{quant}-{layers}.gguf"
    if not path.exists():
        for other in path.parent.glob("hollow-*"):
            other.unlink()
        header = full_header(quant, small=bool(proof.options["small"]), n_layer=layers + 1)
        part = Slice(n_dense=1, n_moe=layers, n_expert=header.expert_count, n_vocab=header.vocab_size)
        partial_file = path.with_suffix(".partial")
        write_slice(header, part, partial_file, holes=True)
        partial_file.rename(path)
    return read_header(path, allow_header_only=True), path


def _random_plan(model: Model, machine: Any, chance: random.Random) -> Any:
    from kimi_nb.plan.planner import make_plan

    return make_plan(
        model,
        machine,
        objective=chance.choice(("decode", "decode", "prefill", "context")),
        ctx_size=chance.choice((4096, 8192, 32768, 65536, 131072)),
    ).plan


def fits_row(proof: Proof, quant: str, layers: int, chance: random.Random) -> Row:
    """Start for real what the planner says fits, with a random part of the GPU taken."""
    model, path = _hollow(proof, quant, layers)
    with less_free(proof, chance.uniform(0.25, 1.3) * model.data_bytes / _MIB + 3000) as machine:
        plan = _random_plan(model, machine, chance)
        if plan is None:
            return {"planned": False, "told": "nothing fits, says the planner"}
        ran = try_to_run(proof, path, plan.settings)
    return {
        "planned": True,
        "model": f"{quant}, {layers} layers of experts",
        "free_mib": [round(gpu.free_mib) for gpu in machine.usable_gpus],
        "needed_mib": [round(gpu.needed_mib) for gpu in plan.memory.gpus],
        "plan": plan.settings.to_dict(),
        **ran,
        "told": "ran" if ran["ran"] else f"DID NOT RUN: {ran['last']}",
    }


def refused_row(proof: Proof, quant: str, layers: int, chance: random.Random) -> Row:
    """Start what lacks 2 to 10 per cent of the GPU memory that it is said to need."""
    model, path = _hollow(proof, quant, layers)
    settings = Settings(
        ctx_size=chance.choice((8192, 32768, 65536)),
        n_gpu_layers=999,
        n_cpu_moe=chance.randint(0, 2),  # the first layer has no experts
        ubatch_size=chance.choice((512, 1024, 2048)),
        batch_size=2048,
        split_mode="none",  # one GPU, so that it is clear which lacks memory
    )
    lacks = chance.uniform(0.02, 0.10)
    needed = memory_report(model, settings, proof.machine).gpus[0].needed_mib
    with less_free(proof, needed * (1 - lacks)) as machine:
        report = memory_report(model, settings, machine)
        if report.fits:
            return {"error": f"the memory could not be taken: {machine.usable_gpus[0].free_mib} MiB are free"}
        ran = try_to_run(proof, path, settings)
    return {
        "model": f"{quant}, {layers} layers of experts",
        "free_mib": [round(gpu.free_mib) for gpu in machine.usable_gpus],
        "needed_mib": [round(gpu.needed_mib) for gpu in report.gpus],
        "lacks": round(1 - machine.usable_gpus[0].free_mib / report.gpus[0].needed_mib, 4),
        "plan": settings.to_dict(),
        **ran,
        "told": "RAN although refused" if ran["ran"] else "did not run, as said",
    }


def _oom_figures(rows: Sequence[Row]) -> list[Figure]:
    found = []
    fits = [row for row in rows if row["key"].startswith("fits") and row.get("planned")]
    if fits:
        ran = sum(row["ran"] for row in fits)
        found.append(Figure("plans that fit, and ran", f"{ran} of {len(fits)}", "all", ran == len(fits)))
    refused = [row for row in rows if row["key"].startswith("refused") and "ran" in row]
    if refused:
        ran = sum(row["ran"] for row in refused)
        found.append(
            Figure("refused by 2 to 10 %, and ran all the same", f"{ran} of {len(refused)}", "none", ran == 0)
        )
    return found


OOM = Stage(
    "oom",
    "Plans started for real with memory taken",
    _oom_tasks,
    _oom_figures,
    ("key", "model", "free_mib", "needed_mib", "plan", "told"),
)
