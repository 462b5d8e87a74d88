"""How long importing takes; each figure is the median of nine new processes.

``python benchmarks/bench_import.py``
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time

TARGET_S = 0.3
HEAVY = (
    "llama_cpp",
    "plotly",
    "papermill",
    "openai",
    "huggingface_hub",
    "numpy",
    "gguf",
    "torch",
    "pydantic",
)
MODULES = (
    "kimi_nb",
    "kimi_nb.cli",
    "kimi_nb.engine",
    "kimi_nb.chat",
    "kimi_nb.run",
    "kimi_nb.machine",
    "kimi_nb.model",
)


def seconds(code: str) -> float:
    """Return the median wall time of a new Python process that runs ``code``."""
    times = []
    for _ in range(9):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> int:
    """Print the table; exit 1 if an import is over the target or pulls in something heavy."""
    bare = seconds("pass")
    cores = os.cpu_count()
    where = f"{platform.machine()}, {cores} cores"
    print(f"{'import':<18}{'seconds':>9}{'target':>8}{'ratio':>7}  heavy modules  ({where})")
    print(f"{'(bare python)':<18}{bare:>9.3f}")
    bad = False
    for module in MODULES:
        spent = seconds(f"import {module}") - bare
        loaded = subprocess.run(
            [sys.executable, "-c", f"import sys, {module}; print(*({set(HEAVY)!r} & set(sys.modules)))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        bad |= spent > TARGET_S or bool(loaded)
        print(f"{module:<18}{spent:>9.3f}{TARGET_S:>8.1f}{spent / TARGET_S:>7.2f}  {loaded or 'none'}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
