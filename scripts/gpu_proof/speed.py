"""Forecasts beside measurements: a rehearsal on small slices, then the trial model itself."""

from __future__ import annotations

import json
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

from stages import Figure, OutOfTime, Proof, Stage
from trial_models import trial_model

from kimi_nb.files import write_json
from kimi_nb.plan import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kimi_nb.model import Model
    from kimi_nb.rehearse.bench import BenchRow, BenchTests

__all__ = ["SPEED", "case_of", "decode_tok_s", "joined", "profile_of", "quants", "speed_figures"]

Row = dict[str, Any]
QUANTS = ("TQ1", "Q2K")
#: Allowed error: median and worst, or the spread of the measurements where that is larger.
TARGETS = {"decode": (0.05, 0.12), "prefill": (0.10, 0.25)}
_LEAST_BUDGET = 60.0
_PROMPT, _WRITTEN, _RUNS = 2048, 64, 5
_CHOICE_WRITTEN = 16
_SMALL_PROMPT, _SMALL_WRITTEN, _SMALL_RUNS = 64, 4, 2


def profile_of(proof: Proof, quant: str, model: Model) -> Any:
    """Return the rehearsal's profile for a model, made before the first use and kept."""
    from kimi_nb.plan.profile import Profile
    from kimi_nb.rehearse.rehearsal import rehearse

    path = proof.folder / f"{quant}.profile.json"
    if path.exists():
        found = Profile.from_dict(json.loads(path.read_text(encoding="utf-8")))
        if found.model.n_expert == model.expert_count:
            return found
    budget = min(proof.options["budget"], proof.left_s())
    if budget < min(_LEAST_BUDGET, proof.options["budget"]):
        raise OutOfTime
    print(f"  rehearsing {quant} for {budget:.0f} s", flush=True)
    profile = rehearse(model, proof.machine, budget_s=budget, build=proof.build)
    write_json(path, profile.to_dict())
    return profile


def quants(proof: Proof) -> tuple[str, ...]:
    """Return the quants whose models are run."""
    return QUANTS[:1] if proof.options["small"] else QUANTS


def _cases(proof: Proof) -> list[tuple[str, Settings]]:
    """Return one entry for each loading of the model; threads are varied within it."""
    layers = proof.options["layers"]
    found = []
    for ubatch in (512, 2048):
        common = Settings(ctx_size=8192, ubatch_size=ubatch, batch_size=2048)
        if proof.machine.usable_gpus:
            # As plans have it where memory is enough: a GPU fetches weights faster from memory of our own.
            whole = common.replace(n_gpu_layers=999, load_mode="none")
            found += [
                (f"experts of {n} layers on the host, ubatch {ubatch}", whole.replace(n_cpu_moe=n + 1))
                for n in (layers, layers // 2)
            ]
        else:
            found.append((f"processor, ubatch {ubatch}", common.replace(n_gpu_layers=0)))
    return found


def _tasks(proof: Proof) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield the programs to run, those of one setting as far from each other as can be.

    What runs within one program differs less than programs do: on half of the cores of a virtual machine with
    an H200, programs with one slice began with 5.8 to 7.9 ms a layer, and went down to 5.3 to 5.8.
    """
    runs = _SMALL_RUNS if proof.options["small"] else _RUNS
    for quant in quants(proof):
        for number in range(1, runs + 1):
            for name, settings in _cases(proof):
                at = f"{quant}, {name}"
                yield f"{at}, run {number}", partial(speed_row, proof, quant, at, settings)


def speed_row(proof: Proof, quant: str, at: str, settings: Settings) -> Row:
    """Measure one way to run the trial model, on all and on half of the cores, and set forecasts beside."""
    from kimi_nb.plan.speed import forecast
    from kimi_nb.rehearse.bench import BenchTests

    model, path = trial_model(proof, quant)
    profile = profile_of(proof, quant, model)
    cores = max(int(proof.machine.cpu.usable_cores), 1)
    small = proof.options["small"]
    tests = BenchTests(
        threads=tuple(dict.fromkeys((cores, max(cores // 2, 1)))),
        prompts=(_SMALL_PROMPT if small else _PROMPT,),
        writes=(_SMALL_WRITTEN if small else _WRITTEN,),
        repetitions=1,
    )
    cases = []
    for row in _all_rows(proof, path, settings, tests):
        kind = "decode" if row.written_tokens else "prefill"
        rates = [(row.written_tokens or row.prompt_tokens) / ms * 1000 for ms in row.samples_ms]
        on = settings.replace(threads=row.threads)
        if forecast(model, on, proof.machine, profile) is None:
            cases.append({"kind": kind, "threads": row.threads, "error": "the planner says it does not fit"})
            continue
        cases.append(case_of(profile, model, on, proof.machine, kind, rates, tests.prompts[0]))
    worst = max((case["error"] for case in cases if isinstance(case["error"], float)), default=0.0)
    return {
        "setting": at,
        "quant": quant,
        "layers": proof.options["layers"],
        "small": proof.options["small"],
        "prompt": tests.prompts[0],
        "settings": settings.to_dict(),
        "cases": cases,
        "model_gb": round(model.file_bytes / 1e9, 1),
        "told": f"worst error {worst:.1%}",
    }


def case_of(
    profile: Any, model: Model, at: Settings, machine: Any, kind: str, rates: Sequence[float], prompt: int
) -> Row:
    """Return what was measured of one kind of work, and the forecast beside it."""
    from kimi_nb.plan.profile_forecast import forecast_from

    told = forecast_from(profile, model, at, machine, prompt_tokens=prompt)
    band = told.decode_tok_s if kind == "decode" else told.prefill_tok_s
    case = {
        "kind": kind,
        "threads": at.threads,
        "forecast": round(band.expected, 2),
        "band": [round(band.low, 2), round(band.high, 2)],
    }
    return _with_runs(case, [round(rate, 3) for rate in rates])


def _with_runs(case: Row, runs: Sequence[float]) -> Row:
    """Return a case with the median of its runs, how far they lie apart, and how far the forecast is off."""
    median = statistics.median(runs)
    return case | {
        "runs": list(runs),
        "measured": round(median, 2),
        "spread": round((max(runs) - min(runs)) / median, 4),
        "error": round(abs(case["forecast"] - median) / median, 4),
    }


def joined(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each setting, of all programs that ran with it."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        if "cases" in row:
            settings.setdefault(row["setting"], []).append(row)
    found = []
    for at, programs in settings.items():
        together = zip(*(row["cases"] for row in programs), strict=True)
        cases = [
            _with_runs(cases[0], [run for case in cases for run in case["runs"]])
            if isinstance(cases[0]["error"], float)
            else cases[0]
            for cases in together
        ]
        found.append({**programs[0], "key": at, "cases": cases})
    return found


def speed_figures(rows: Sequence[Row]) -> list[Figure]:
    """Return how far forecasts were off, over all settings."""
    cases = [case for row in joined(rows) for case in row["cases"]]
    found = [Figure("settings measured", str(len(cases) // 2), ">= 12", None)]
    for kind, (middle, most) in TARGETS.items():
        good = [case for case in cases if case["kind"] == kind and isinstance(case["error"], float)]
        if not good:
            continue
        errors = [case["error"] for case in good]
        spread = statistics.median(case["spread"] for case in good)
        median = statistics.median(errors)
        found.append(
            Figure(
                f"{kind}: median error (spread {spread:.1%})",
                f"{median:.1%}",
                f"<= {max(middle, spread):.1%}",
                median <= max(middle, spread),
            )
        )
        worst = max(good, key=lambda case: case["error"] - max(case["spread"], most))
        allowed = max(worst["spread"], most)
        found.append(
            Figure(
                f"{kind}: worst error",
                f"{worst['error']:.1%}",
                f"<= {allowed:.1%}",
                worst["error"] <= allowed,
            )
        )
        inside = sum(case["band"][0] <= case["measured"] <= case["band"][1] for case in good)
        found.append(Figure(f"{kind}: measured within the band", f"{inside} of {len(good)}", "-", None))
    return found


def decode_tok_s(
    proof: Proof, path: Any, settings: Settings, threads: Sequence[int], *, runs: int
) -> dict[int, list[float]]:
    """Return the rates of several runs of writing, by the number of threads."""
    from kimi_nb.rehearse.bench import BenchTests

    written = _SMALL_WRITTEN if proof.options["small"] else _CHOICE_WRITTEN
    runs = _SMALL_RUNS if proof.options["small"] else runs
    tests = BenchTests(threads=tuple(threads), writes=(written,), repetitions=runs)
    return {
        row.threads: [written / ms * 1000 for ms in row.samples_ms]
        for row in _all_rows(proof, path, settings, tests)
    }


def _all_rows(proof: Proof, path: Path, settings: Settings, tests: BenchTests) -> list[BenchRow]:
    """Run llama-bench to its end, or not at all: a part of its rows is of no use.

    Raises:
        OutOfTime: The stage's time was over before.
    """
    from kimi_nb.rehearse.bench import run_bench

    found = list(run_bench(proof.build, path, settings, tests, deadline=proof.deadline))
    if len(found) < len(tests.threads) * (len(tests.prompts) + len(tests.writes)):
        raise OutOfTime
    return found


SPEED = Stage(
    "speed",
    "Forecast beside measurement",
    _tasks,
    speed_figures,
    ("key", "model_gb", "cases"),
)
