"""How long an estimate with its forecast and a whole plan take, for a slider and a button.

    python benchmarks/bench_plan.py

The models are headers of Kimi K2.5's shape, without weights; several quants at once are the catalogue's. Cold
is the first call in a process of its own; the median and the worst are of calls with other wishes, or quants,
after it. Of plans even the slowest must be within the target, of estimates the median. What is timed is one
core's work, so that other work on the machine hardly shows.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ESTIMATE_MS = 1.0
PLAN_MS = 500.0


def milliseconds(call: Callable[[], Any]) -> float:
    """Time one call, in milliseconds of the processor."""
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


def calls(what: str, name: str) -> Iterable[Callable[[], Any]]:
    """Return what is timed for a machine: ``estimate``, ``plan``, of ``each`` quant, or of all ``quants``."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from header_models import ORACLE_MODELS

    from kimi_nb.machine import load_profile
    from kimi_nb.model.candidates import candidates
    from kimi_nb.plan import Settings, forecast, memory_report
    from kimi_nb.plan.planner import make_plan

    here = load_profile(name)
    contexts = [None, *(8192 * n for n in range(1, 12))]
    if what == "each":
        return [partial(make_plan, one, here) for one in candidates("kimi-k2.5")]
    if what == "quants":
        return [lambda n=n: make_plan(candidates("kimi-k2.5"), here, ctx_size=n) for n in contexts]
    with tempfile.TemporaryDirectory() as folder:
        model = ORACLE_MODELS["TQ1"].read(Path(folder) / "model.gguf")
    if what == "plan":
        return [partial(make_plan, model, here, ctx_size=n) for n in contexts]

    def estimate(n: int, n_cpu_moe: int) -> None:
        settings = Settings(ctx_size=1024 * n, n_gpu_layers="all", n_cpu_moe=n_cpu_moe)
        forecast(model, settings, here, report=memory_report(model, settings, here))

    # A slider over the context, and one over the experts kept in main memory.
    return [partial(estimate, n, 61) for n in range(1, 128)] + [partial(estimate, 32, n) for n in range(61)]


def timed(what: str, name: str) -> list[float]:
    """Time all calls in a process of their own."""
    argv = [sys.executable, __file__, "--only", what, name]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=600)
    return list(json.loads(done.stdout))


def main() -> int:
    """Measure, print the table, and return 0 if the targets are met."""
    parser = argparse.ArgumentParser(description="time estimates and plans")
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "MACHINE"), help="print milliseconds as JSON")
    only = parser.parse_args().only
    if only:
        print(json.dumps([milliseconds(call) for call in calls(*only)]))
        return 0
    from kimi_nb.machine import profiles

    print(f"machine: {platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    print(f"{'':<44}{'cold':>12}{'median':>12}{'worst':>12}{'target':>12}{'ratio':>8}")
    met = True
    rows = (
        ("estimate", "memory and forecast", ESTIMATE_MS),
        ("plan", "one plan", PLAN_MS),
        ("each", "one plan for each quant", PLAN_MS),
        ("quants", "nine quants at once", PLAN_MS),
    )
    for what, title, target in rows:
        for name in profiles():
            cold, *rest = timed(what, name)
            median = statistics.median(rest)
            counts = median if what == "estimate" else max(cold, *rest)
            figures = "".join(f"{ms:>9.2f} ms" for ms in (cold, median, max(rest), target))
            print(f"{f'{title}, {name}':<44}{figures}{target / counts:>7.1f}x", flush=True)
            met &= counts <= target
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
