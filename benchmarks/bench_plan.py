"""How long an estimate with its forecast and a whole plan take, for a slider and a button.

    python benchmarks/bench_plan.py

The models are headers of Kimi K2.5's shape, without weights. A plan is timed the first time that the model
and the machine are seen, and again with other wishes; several quants at once are the catalog's. What is
timed is one core's work, so that other work on the machine does not show.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ESTIMATE_MS = 1.0
PLAN_MS = 500.0


def milliseconds(call: Callable[[], Any]) -> float:
    """Time one call, in milliseconds of the processor."""
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


def main() -> int:
    """Measure, print the table, and return 0 if the targets are met."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from header_models import ORACLE_MODELS

    from kimi_nb.machine import load_profile, profiles
    from kimi_nb.model.candidates import candidates
    from kimi_nb.plan import Settings, forecast, memory_report
    from kimi_nb.plan.planner import make_plan

    print(f"machine: {platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    print(f"{'':<44}{'first':>12}{'median':>12}{'worst':>12}{'target':>12}{'ratio':>8}")
    met = True

    def row(name: str, taken: list[float], target: float, *, counts: bool = True) -> None:
        nonlocal met
        first, *rest = taken
        median = statistics.median(rest)
        figures = "".join(f"{ms:>9.2f} ms" for ms in (first, median, max(rest), target))
        print(f"{name:<44}{figures}{target / median:>7.1f}x")
        met &= not counts or median <= target

    with tempfile.TemporaryDirectory() as folder:
        for name in profiles():
            here = load_profile(name)
            model = ORACLE_MODELS["TQ1"].read(Path(folder) / f"{name}.gguf")

            def estimate(n: int, model: Any = model, here: Any = here) -> None:
                settings = Settings(ctx_size=1024 * n, n_gpu_layers="all", n_cpu_moe=61)
                forecast(model, settings, here, report=memory_report(model, settings, here))

            row(
                f"memory and forecast, {name}",
                [milliseconds(lambda n=n: estimate(n)) for n in range(1, 200)],
                ESTIMATE_MS,
            )
            contexts = [None, *(8192 * n for n in range(1, 12))]
            plans = [milliseconds(lambda n=n: make_plan(model, here, ctx_size=n)) for n in contexts]  # noqa: B023 - called at once
            row(f"one plan, {name}", plans, PLAN_MS)
        plans = [
            milliseconds(lambda one=one, name=name: make_plan(one, load_profile(name)))
            for one in candidates("kimi-k2.5")
            for name in profiles()
        ]
        row(f"a first plan, each of {len(plans)}", plans, PLAN_MS)
        quants = [
            milliseconds(lambda name=name: make_plan(candidates("kimi-k2.5"), load_profile(name)))
            for name in profiles()
        ]
        row("nine quants at once, each profile once", quants, PLAN_MS, counts=False)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
