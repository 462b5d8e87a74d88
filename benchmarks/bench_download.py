"""Throughput and processor time of our download beside curl and ``hf download``, on one local Hub.

    python benchmarks/bench_download.py [--gb 2] [--rounds 3] [--folder DIR] [--link-mbit 2500] [--json]

The Hub runs in a process of its own. The tools take turns, each round in another order, after a first round
that is not counted (Python writes its bytecode then); each number is the median of the rounds. curl
and hf check nothing but sizes; ours hashes every byte, and has it on the disk, synced, before it gives a file
its name, so "safe" also tells the time until that is true for the others (`sync` after they returned).
``--link-mbit`` lets the Hub send no faster than a line of that rate would.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

SERVER = """
import sys, time
from pathlib import Path
from faulty_hub import FaultyHub
import threading
class Line(FaultyHub):
    rate, free, lock = float(sys.argv[2]) / 8 * 1e6, 0.0, threading.Lock()
    def send_body(self, handler, blob, start, stop):
        if not self.rate:
            return super().send_body(handler, blob, start, stop)
        while start < stop:
            step = min(stop - start, 65536)
            with self.lock:
                now = time.monotonic()
                self.free = max(self.free, now - 0.02) + step / self.rate
                wait = self.free - now
            if wait > 0:
                time.sleep(wait)
            super().send_body(handler, blob, start, start + step)
            start += step
with Line(Path(sys.argv[1])) as hub:
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""

OURS = """
import sys
from pathlib import Path
from kimi_nb.engine.download import Options, download
download("local/bench-GGUF", "Q4", folder=Path(sys.argv[1]), options=Options(**eval(sys.argv[2])))
"""


def tools(out: Path, endpoint: str, names: list[str], options: str) -> dict[str, list[str]]:
    """Return each tool's command line."""
    urls = []
    for name in names:
        urls += ["-o", str(out / Path(name).name), f"{endpoint}/local/bench-GGUF/resolve/main/{name}"]
    hf = str(Path(sys.executable).with_name("hf"))
    found = {
        "curl, one after another": ["curl", "-sSfL", *urls],
        "curl --parallel": ["curl", "-sSfLZ", *urls],
        "hf download": [
            hf,
            "download",
            "local/bench-GGUF",
            "--include",
            "Q4/*",
            "--local-dir",
            str(out / "hf"),
        ],
        "kimi-nb download": [sys.executable, "-c", OURS, str(out / "ours"), options],
    }
    return {name: command for name, command in found.items() if shutil.which(command[0])}


def measure(command: list[str], out: Path, endpoint: str) -> tuple[float, float, float]:
    """Run a command; return seconds until it returned, until all was on the disk, and processor seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.sync()
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(out / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_TOKEN": "",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    returned = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sync()
    safe = time.perf_counter() - started
    return returned, safe, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--link-mbit", type=float, default=0.0)
    parser.add_argument("--options", default="{}", help="of our download, as a Python dict")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    from faulty_hub import make_repo

    with tempfile.TemporaryDirectory(prefix="kimi-nb-bench-", dir=args.folder) as name:
        folder = Path(name)
        repo = make_repo(folder / "repos" / "local" / "bench-GGUF", mib=args.gb * 1e9 / 5 / 2**20)
        names = sorted(path.relative_to(repo).as_posix() for path in repo.glob("Q4/*"))
        size = sum((repo / each).stat().st_size for each in names)
        command = [sys.executable, "-c", SERVER, str(folder / "repos"), str(args.link_mbit)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            endpoint = server.stdout.readline().strip()
            lines = tools(folder / "out", endpoint, names, args.options)
            runs: dict[str, list[tuple[float, float, float]]] = {tool: [] for tool in lines}
            order = list(lines)
            for number in range(args.rounds + 1):
                for tool in order:
                    run = measure(lines[tool], folder / "out", endpoint)
                    if number:
                        runs[tool].append(run)
                order = [*order[1:], order[0]]
        finally:
            server.communicate()
    found = {
        tool: {
            "mb_s": size / 1e6 / statistics.median(run[0] for run in each),
            "safe_mb_s": size / 1e6 / statistics.median(run[1] for run in each),
            "cpu_s_per_gb": statistics.median(run[2] for run in each) / (size / 1e9),
        }
        for tool, each in runs.items()
    }
    ours = found["kimi-nb download"]
    others = [value for tool, value in found.items() if tool != "kimi-nb download"]
    ratio = {key: ours[key] / max(value[key] for value in others) for key in ("mb_s", "safe_mb_s")}
    if args.json:
        print(
            json.dumps({"bytes": size, "rounds": args.rounds, "tools": found, "ratio_to_the_fastest": ratio})
        )
        return 0
    print(f"{size / 1e9:.2f} GB in 5 files, median of {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'':26}{'MB/s':>8}{'MB/s, safe':>13}{'CPU s/GB':>11}")
    for tool, value in found.items():
        print(f"{tool:26}{value['mb_s']:8.0f}{value['safe_mb_s']:13.0f}{value['cpu_s_per_gb']:11.2f}")
    as_returned, safe = ratio["mb_s"], ratio["safe_mb_s"]
    print(f"ours / the fastest other: {as_returned:.2f} as returned, {safe:.2f} safe on the disk")
    return 0


if __name__ == "__main__":
    sys.exit(main())
