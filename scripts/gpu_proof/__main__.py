"""Prove on a machine with NVIDIA GPUs what kimi-nb says of it, and write one table.

    python scripts/gpu_proof [--stages memory,ghosts,...] [--limit SECONDS] [--source DIR] [--out DIR]

It runs unattended, in stages with a time limit each, and continues where it stopped: by its own limit, by
Ctrl-C or because the machine went away. ``--source`` names a folder with llama.cpp's source where there is no
network. ``--backend cpu`` runs the same stages on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from ledger import Ledger, code_identity
from memory import GHOSTS, MEMORY
from planning import OOM, PLANNER
from report import describe, table_path, write_report, write_table
from speed import SPEED
from stages import Proof, Stage, run_stage
from trial_models import run_folder

from kimi_nb.engine import find_build
from kimi_nb.errors import KimiNbError
from kimi_nb.machine import probe
from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from kimi_nb.engine import Build

STAGES: tuple[Stage, ...] = (MEMORY, GHOSTS, OOM, SPEED, PLANNER)
#: Numbers that the stages take from the command line, and what they are for.
OPTIONS = {
    "count": (200, "random settings of the memory stage"),
    "seed": (1, "other seeds give other settings and plans"),
    "layers": (20, "layers of experts of the models that are run"),
    "experts": (384, "experts in each of their layers, at most; fewer where disk or memory are short"),
    "budget": (120, "seconds for a rehearsal"),
    "plans": (50, "plans that are started because they fit"),
    "refused": (20, "settings that are started although they are refused"),
}
REPOSITORY = Path(__file__).parents[2]


def main(argv: list[str] | None = None) -> int:
    """Run the stages; return 0 if all are complete and no target is missed, 1 otherwise."""
    args = _arguments(argv)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # GPUs as the driver's own list has them
    try:
        return _prove(args)
    except KimiNbError as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("gpu_proof: interrupted; the same command continues", file=sys.stderr)
        return 130


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_proof", description=__doc__.splitlines()[0])
    names = [stage.name for stage in STAGES]
    parser.add_argument("--backend", default="cuda", help="(default: cuda)")
    parser.add_argument("--source", type=Path, metavar="DIR", help="a folder with llama.cpp's source")
    parser.add_argument("--cuda-arch", metavar="N", help="as for kimi-nb build")
    parser.add_argument("--stages", default=",".join(names), help=f"(default: {','.join(names)})")
    parser.add_argument("--total", type=float, default=1e9, metavar="S", help="seconds for everything")
    parser.add_argument("--limit", type=float, default=900.0, metavar="S", help="seconds for each stage")
    parser.add_argument(
        "--build-limit", type=float, default=1800.0, metavar="S", help="seconds for the build"
    )
    for name, (number, about) in OPTIONS.items():
        text = f"{about} (default: {number})"
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N", help=text)
    parser.add_argument("--small", action="store_true", help="run small models, to try the script itself")
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="where the table goes that is to be committed (default: docs/proofs/ and the GPUs' name)",
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "gpu-proof", metavar="DIR")
    args = parser.parse_args(argv)
    unknown = set(args.stages.split(",")) - set(names)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return args


def _prove(args: argparse.Namespace) -> int:
    end = time.monotonic() + args.total
    args.build_limit = min(args.build_limit, args.total)
    build = _built(args)
    machine = probe()
    if args.backend == "cpu":
        machine = replace(machine, gpus=())
    about = describe(machine, build.version, build.backend)
    ledger = Ledger(args.out.absolute(), {"about": about, "code": code_identity()})
    options = {name: getattr(args, name) for name in (*OPTIONS, "small")}
    proof = Proof(build, machine, ledger.folder, options)
    machine.save(ledger.folder / "machine.json")
    for name, text in about.items():
        print(f"{name}: {text}")
    chosen = args.stages.split(",")
    complete = True
    for stage in STAGES:
        if stage.name in chosen:
            complete &= run_stage(stage, proof, ledger, min(args.limit, end - time.monotonic()))
            met = write_report(proof, ledger, STAGES)
    if complete:
        shutil.rmtree(run_folder(proof), ignore_errors=True)
    else:
        print(f"what the next call runs again stays in {run_folder(proof)}")
    print(f"every row: {ledger.folder / 'proof.md'}")
    table = args.table or (table_path(REPOSITORY, machine) if machine.usable_gpus else None)
    if table is not None:
        write_table(table, proof, ledger, STAGES)
        print(f"the table, to be committed: {table}")
    return 0 if complete and met else 1


def _built(args: argparse.Namespace) -> Build:
    """Return the build, made within its time limit by a process that the next call continues."""
    choices: dict[str, Any] = {"source": args.source, "cuda_arch": args.cuda_arch}
    if found := find_build(backend=args.backend, **choices):
        return found
    words = [sys.executable, "-m", "kimi_nb.cli", "build", "--backend", args.backend]
    words += ["--source", str(args.source)] if args.source else []
    words += ["--cuda-arch", args.cuda_arch] if args.cuda_arch else []
    started = time.monotonic()
    process = spawn(words, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    try:
        code = process.wait(timeout=args.build_limit)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    found = find_build(backend=args.backend, **choices) if code == 0 else None
    if found is None:
        why = f"it ended with {code}" if code is not None else f"it took more than {args.build_limit:.0f} s"
        print(f"gpu_proof: no build: {why}; the same command continues", file=sys.stderr)
        raise SystemExit(1)
    print(f"built in {time.monotonic() - started:.0f} s")
    return found


if __name__ == "__main__":
    sys.exit(main())
