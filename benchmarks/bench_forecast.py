"""Forecast beside measurement: a rehearsal on a few layers with few experts, then the larger model itself.

The model is as wide as Kimi, with Kimi's tensor types, random weights and as many layers and experts as this
machine's memory holds; the rehearsal sees its header only. Each measurement is the median of five samples of
llama-bench; where other programs are busy meanwhile, that is printed. Run it in pieces where time is short:

    python benchmarks/bench_forecast.py --types TQ1 --profile /tmp/p.json --only decode
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from header_models import ORACLE_MODELS

from kimi_nb.engine import ensure_build
from kimi_nb.machine import probe
from kimi_nb.model import read_header
from kimi_nb.plan import Settings
from kimi_nb.plan.profile_forecast import forecast_from
from kimi_nb.rehearse.bench import BenchTests, run_bench
from kimi_nb.rehearse.private_folder import private_folder
from kimi_nb.rehearse.quiet import Others
from kimi_nb.rehearse.rehearsal import rehearse
from kimi_nb.rehearse.saved import load_profile
from kimi_nb.rehearse.slices import Slice, slice_bytes, write_slice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimi_nb.engine import Build
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.profile import Profile

Row = tuple[Settings, int, int, int]
"""Settings, then tokens of the prompt, tokens written, tokens in the cache before."""

TARGET = {"decode": (5, 12), "prefill": (10, 25)}
TRIES, QUIET = 3, 0.05
KINDS = ("decode", "depth", "prefill")


def rows(kind: str, threads: tuple[int, ...]) -> Iterator[Row]:
    """What is measured: settings, then prompt, written and cached tokens."""
    most = threads[0]
    if kind == "decode":
        for n in threads:
            yield Settings(threads=n), 0, 16, 0
        yield Settings(threads=most, cache_type_k="q8_0", cache_type_v="q8_0", flash_attn="on"), 0, 16, 0
        yield Settings(threads=most, repack=False), 0, 16, 0
    elif kind == "depth":
        yield Settings(threads=most), 0, 16, 1024
        yield Settings(threads=threads[-1]), 0, 16, 1024
        yield Settings(threads=most, cache_type_k="q8_0", cache_type_v="q8_0", flash_attn="on"), 0, 16, 1024
    else:
        for n in (512, 256, 1024):
            yield Settings(threads=most, batch_size=n, ubatch_size=n), n, 0, 0
        yield Settings(threads=threads[-1], batch_size=512, ubatch_size=512), 512, 0, 0


def measure(build: Build, path: Path, row: Row) -> tuple[float, tuple[float, ...]]:
    """Return the share of processors that others used, and ms of five samples; the best of some tries."""
    settings, prompt, written, depth = row
    assert settings.threads
    best: tuple[float, tuple[float, ...]] | None = None
    for _ in range(TRIES):
        others = Others()
        tests = BenchTests(
            threads=(settings.threads,),
            prompts=(prompt,) if prompt else (),
            writes=(written,) if written else (),
            depth=depth,
            repetitions=5,
        )
        (told,) = run_bench(build, path, settings.replace(threads=None, n_gpu_layers=0), tests)
        found = others.share(), told.samples_ms
        best = min(best or found, found)
        if best[0] < QUIET or prompt or depth:
            break
    assert best
    return best


def with_priority(build: Build, folder: Path) -> Build:
    """Return the build with a llama-bench that asks the system for priority, where it may."""
    script = folder / "llama-bench"
    real = build.program("llama-bench")
    script.write_text(f'#!/bin/sh\necho -20 > /proc/self/autogroup 2>/dev/null\nexec "{real}" "$@"\n')
    script.chmod(0o755)
    return replace(build, bin=folder)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", default="TQ1", choices=[*ORACLE_MODELS, "nano"])
    parser.add_argument("--layers", type=int, default=6, help="layers of experts in the model")
    parser.add_argument("--experts", type=int, default=48)
    parser.add_argument("--slice-mib", type=float, default=1000.0, help="the most that a slice may have")
    parser.add_argument("--budget", type=float, default=100.0)
    parser.add_argument("--profile", type=Path, help="keep the profile here, or take it from here")
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--nice", action="store_true", help="ask for priority, where other programs disturb")
    args = parser.parse_args()
    machine, build = probe(), ensure_build()
    with private_folder("slice") as folder, tempfile.TemporaryDirectory() as scripts:
        if args.nice:
            os.nice(-15)
            build = with_priority(build, Path(scripts))
        if args.types == "nano":
            from kimi_nb.nano import nano_path

            path = nano_path()
            model = read_header(path)
        else:
            full = replace(
                ORACLE_MODELS[args.types], n_expert=args.experts, n_layer=args.layers + 1, n_vocab=32768
            )
            model = full.read(Path(scripts) / "header.gguf")
            path = folder / "model.gguf"
        if args.profile and args.profile.exists():
            profile = load_profile(args.profile)
        else:
            start, others = time.monotonic(), Others()
            profile = rehearse(
                model, machine, budget_s=args.budget, build=build, max_slice_mib=args.slice_mib
            )
            print(f"rehearsal: {time.monotonic() - start:.0f} s, other programs {100 * others.share():.0f} %")
            if args.profile:
                from kimi_nb.files import write_json

                write_json(args.profile, profile.to_dict())
        if path.parent == folder:
            whole = Slice(n_dense=1, n_moe=args.layers, n_expert=args.experts, n_vocab=32768)
            write_slice(model, whole, path)
            small = next(m for m in profile.measurements if m.n_moe)
            mib = slice_bytes(model, whole) / 2**20
            print(f"model: {args.layers} layers of {args.experts} experts, {mib:.0f} MiB; ", end="")
            print(f"rehearsed: {small.n_moe} layers of {small.n_expert}")
        cores = machine.cpu.usable_cores
        threads = (cores,) if cores == 1 else (cores, max(cores // 2, 1))
        print(f"{machine.cpu.model}, {cores} cores; llama.cpp {build.version}")
        print(f"{'tokens/s with':<44}{'measured':>10}{'spread':>8}{'forecast':>10}", end="")
        print(f"{'low':>8}{'high':>8}{'error':>8}{'others':>8}")
        for kind in [args.only] if args.only else KINDS:
            show(kind, threads, build, path, forecaster=(profile, model, machine))


def show(
    kind: str,
    threads: tuple[int, ...],
    build: Build,
    path: Path,
    *,
    forecaster: tuple[Profile, Model, Machine],
) -> None:
    """Measure and print one kind of rows."""
    profile, model, machine = forecaster
    errors = []
    for row in rows(kind, threads):
        settings, prompt, written, depth = row
        others, samples = measure(build, path, row)
        rates = [1000 * (prompt or written) / ms for ms in samples]
        measured = statistics.median(rates)
        told = forecast_from(
            profile,
            model,
            settings.replace(ctx_size=4096),
            machine,
            depth=depth,
            prompt_tokens=prompt or 2048,
        )
        band = told.prefill_tok_s if prompt else told.decode_tok_s
        error = 100 * (band.expected / measured - 1)
        spread = 100 * (max(rates) - min(rates)) / measured
        errors.append(abs(error))
        name = " ".join(
            f"{key}={value}"
            for key, value in settings.to_dict().items()
            if key not in {"batch_size", "flash_attn"}
        )
        label = f"{name.replace('cache_type_', '')} d={depth}" if depth else name.replace("cache_type_", "")
        print(
            f"{label[:43]:<44}{measured:>10.2f}{spread:>7.0f}%{band.expected:>10.2f}{band.low:>8.2f}{band.high:>8.2f}"
            f"{error:>+7.1f}%{100 * others:>7.0f}%",
            flush=True,
        )
    middle, worst = TARGET["prefill" if kind == "prefill" else "decode"]
    print(
        f"{kind}: median error {statistics.median(errors):.1f} % (target {middle}), "
        f"worst {max(errors):.1f} % (target {worst})\n"
    )


if __name__ == "__main__":
    main()
