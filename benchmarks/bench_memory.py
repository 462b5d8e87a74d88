"""How long one memory estimate takes, for a slider that a person drags.

    python benchmarks/bench_memory.py

The model is a header of Kimi K2.5's shape, without weights.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

TARGET_MS = 1.0
RUNS = 200


def milliseconds(calls: list[dict[str, object]]) -> list[float]:
    """Time one estimate for each of several settings."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from header_models import ORACLE_MODELS

    from kimi_nb.plan import Settings
    from kimi_nb.plan.memory import GpuRoom, demands

    gpus = [GpuRoom("CUDA0", 24_000, 23_000), GpuRoom("CUDA1", 24_000, 23_000)]
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        model = ORACLE_MODELS["Q2K"].read(Path(folder) / "kimi.gguf")
        for call in calls:
            settings = Settings(**call)  # type: ignore[arg-type]  # the values below are right
            start = time.perf_counter()
            demands(model, settings, gpus)
            taken.append((time.perf_counter() - start) * 1e3)
    return taken


def main() -> int:
    """Measure, print the table, and return 0 if the target is met."""
    contexts = [{"ctx_size": 1024 * n, "n_cpu_moe": 61} for n in range(1, RUNS + 1)]
    experts = [{"ctx_size": 32_768, "n_cpu_moe": n % 55 + 3} for n in range(RUNS)]
    batches = [
        {"ctx_size": 32_768, "n_cpu_moe": 61, "ubatch_size": 8 * n, "batch_size": 2048} for n in range(5, 205)
    ]
    print(f"machine: {platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    print(f"{'slider, two GPUs':<26}{'first':>10}{'median':>10}{'worst':>10}{'target':>10}{'ratio':>8}")
    met = True
    for name, calls in (("context", contexts), ("experts on the host", experts), ("ubatch", batches)):
        first, *rest = milliseconds(calls)
        median = statistics.median(rest)
        met &= median <= TARGET_MS
        row = "".join(f"{ms:>7.2f} ms" for ms in (first, median, max(rest), TARGET_MS))
        print(f"{name:<26}{row}{TARGET_MS / median:>7.1f}x")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
