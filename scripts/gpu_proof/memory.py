"""The closed form beside the real llama-fit-params, on random settings and on ghosts of full size."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import Figure, Proof, Stage

from kimi_nb.model import read_header
from kimi_nb.model.header_only import SUFFIX
from kimi_nb.plan import Settings, demands
from kimi_nb.plan.memory_verdict import rooms
from kimi_nb.rehearse import ghost_of
from kimi_nb.rehearse.verify import ask_llama_cpp, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from header_models import ORACLE_MODELS, ModelShape, kimi_types, random_settings, random_shape

__all__ = ["GHOSTS", "MEMORY", "chosen_shape"]

Row = dict[str, Any]
PARTS = ("model", "context", "compute")
MOST_APART = (1, 1, 2)  # MiB

#: Relatives that llama.cpp runs with the same code.
K2_INSTRUCT = {"rope": 64, "n_head": 64, "context": 131072}
DEEPSEEK_V3 = {
    "n_head": 128,
    "n_expert": 256,
    "n_vocab": 129280,
    "n_dense": 3,
    "n_group": 8,
    "n_group_used": 4,
    "scale": 2.5,
    "context": 163840,
}
_ATTENTION = ("Q4_K", "Q5_K", "Q6_K", "Q8_0")
_EXPERTS = ("IQ1_S", "IQ2_XXS", "Q2_K", "Q3_K", "Q4_K", "Q4_0", "IQ4_XS", "MXFP4", "TQ1_0")


def chosen_shape(chance: random.Random) -> tuple[str, ModelShape]:
    """Return a model for one row, and what to call it: Kimi's own shape half of the time."""
    types = kimi_types(
        chance.choice(_ATTENTION),
        chance.choice(_EXPERTS),
        chance.choice(_EXPERTS),
        chance.choice(_ATTENTION),
    )
    match chance.randrange(8):
        case 0 | 1 | 2:
            return "Kimi K2.5", ModelShape(types=types)
        case 3:
            return "Kimi K2 Instruct", ModelShape(types=types, **K2_INSTRUCT)
        case 4:
            return "DeepSeek V3", ModelShape(types=types, **DEEPSEEK_V3)
        case 5:
            return "Kimi K2.5, 20 layers", ModelShape(types=types, n_layer=20)
        case _:
            return "random", random_shape(chance)


def _settings(chance: random.Random, gpus: int, n_layer: int) -> dict[str, Any]:
    values = random_settings(chance, gpus=gpus, n_layer=n_layer)
    if values.get("op_offload") is None:
        values.pop("op_offload", None)
    return values


def random_row(proof: Proof, seed: int) -> Row:
    """Compare the two answers for one random model and settings."""
    chance = random.Random(seed)  # noqa: S311 - rows that can be had again, no secrets
    label, shape = chosen_shape(chance)
    gpus = rooms(proof.machine)
    values = _settings(chance, len(gpus), shape.n_layer)
    settings = Settings(**values)
    asked = settings if gpus else settings.replace(device="none")
    with tempfile.TemporaryDirectory() as folder:
        model = shape.read(Path(folder) / "model.gguf")
        with ghost_of(model) as ghost:
            theirs = ask_llama_cpp(proof.build, ghost.first, asked)
        ours = {d.name: (d.model_mib, d.context_mib, d.compute_mib) for d in demands(model, settings, gpus)}
    return _compared(ours, theirs) | {"model": label, "settings": settings.to_dict()}


def _compared(ours: dict[str, tuple[int, int, int]], theirs: dict[str, tuple[int, int, int]]) -> Row:
    apart = {
        name: [a - b for a, b in zip(ours.get(name, (0, 0, 0)), theirs.get(name, (0, 0, 0)), strict=True)]
        for name in ours.keys() | theirs.keys()
    }
    worst = [max((abs(row[part]) for row in apart.values()), default=0) for part in range(3)]
    agrees = all(n <= most for n, most in zip(worst, MOST_APART, strict=True))
    return {
        "ours": ours,
        "theirs": theirs,
        "worst": worst,
        "agrees": agrees,
        "told": "agrees" if agrees else f"APART by {worst} MiB",
    }


def _memory_tasks(proof: Proof) -> Iterator[tuple[str, Callable[[], Row]]]:
    for number in range(proof.options["count"]):
        seed = proof.options["seed"] * 1_000_000 + number
        yield str(seed), partial(random_row, proof, seed)


def _memory_figures(rows: Sequence[Row]) -> list[Figure]:
    good = [row for row in rows if "error" not in row]
    figures = [
        Figure(
            f"{part}, furthest apart",
            f"{max(row['worst'][n] for row in good)} MiB",
            f"<= {MOST_APART[n]} MiB",
            max(row["worst"][n] for row in good) <= MOST_APART[n],
        )
        for n, part in enumerate(PARTS)
        if good
    ]
    agreeing = sum(row["agrees"] for row in good)
    same = sum(not any(row["worst"]) for row in good)
    return [
        Figure("settings that agree", f"{agreeing} of {len(rows)}", "all", agreeing == len(rows)),
        Figure("settings that are equal to the MiB", f"{same} of {len(rows)}", "-", None),
        *figures,
    ]


MEMORY = Stage(
    "memory",
    "The closed form beside llama-fit-params, random settings",
    _memory_tasks,
    _memory_figures,
    ("key", "model", "settings", "worst"),
    workers=4,
)

#: How a person would run the whole model.
FULL_SIZE: dict[str, dict[str, Any]] = {
    "experts on the host": {"cpu_moe": True, "ctx_size": 16384},
    "experts of 30 layers on the host": {"n_cpu_moe": 30, "ctx_size": 32768},
    "131,072 tokens": {"cpu_moe": True, "ctx_size": 131072},
    "262,144 tokens in q8_0": {
        "cpu_moe": True,
        "ctx_size": 262144,
        "cache_type_k": "q8_0",
        "cache_type_v": "q8_0",
        "flash_attn": "on",
    },
    "ubatch 4096": {"cpu_moe": True, "ctx_size": 32768, "batch_size": 4096, "ubatch_size": 4096},
    "4 slots": {"cpu_moe": True, "ctx_size": 32768, "parallel": 4},
    "no op-offload": {"cpu_moe": True, "ctx_size": 32768, "op_offload": False},
    "10 layers on the GPU": {"n_gpu_layers": 10, "ctx_size": 16384},
}


def ghost_row(proof: Proof, model: Any, values: dict[str, Any]) -> Row:
    """Verify one setting on a ghost of full size."""
    found = verify(model, Settings(**values), proof.machine, proof.build)
    rows = (*found.devices, found.host)
    compared = _compared(
        {one.llama_cpp_name: one.ours for one in rows}, {one.llama_cpp_name: one.llama_cpp for one in rows}
    )
    return compared | {
        "gigabytes": round(model.file_bytes / 1e9, 1),
        "shards": len(model.shards),
        "settings": values,
        "asked_s": round(found.seconds, 2),
    }


def _ghost_tasks(proof: Proof) -> Iterator[tuple[str, Callable[[], Row]]]:
    for label, model in _full_size_models(proof):
        for name, values in FULL_SIZE.items():
            yield f"{label}, {name}", partial(ghost_row, proof, model, values)


def _full_size_models(proof: Proof) -> Iterator[tuple[str, Any]]:
    folder = proof.folder / f"models{SUFFIX}"
    folder.mkdir(exist_ok=True)
    for name, shape in ORACLE_MODELS.items():
        yield name, read_header(shape.write(folder / f"{name}.gguf"), allow_header_only=True)
    if find_spec("gguf") is None:
        print("  without the package gguf there is no model in shards", flush=True)
        return
    from bench_header import vocabulary, write_repository

    shards = folder / "shards"
    if not shards.exists():
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_repository(partial, vocabulary(None))
        partial.rename(shards)
    first = min(shards.glob("*.gguf"))
    yield "five shards with tokenizer", read_header(first, allow_header_only=True)


def _ghost_figures(rows: Sequence[Row]) -> list[Figure]:
    good = [row for row in rows if "error" not in row]
    agreeing = sum(row["agrees"] for row in good)
    figures = [
        Figure("full-size ghosts that agree", f"{agreeing} of {len(rows)}", "all", agreeing == len(rows))
    ]
    if good:
        slowest = max(row["asked_s"] for row in good)
        figures.append(Figure("slowest answer of llama-fit-params", f"{slowest:.1f} s", "-", None))
        largest = max(row["gigabytes"] for row in good)
        figures.append(Figure("largest ghost", f"{largest:.0f} GB", "-", None))
    return figures


GHOSTS = Stage(
    "ghosts",
    "Ghosts of full size, verified",
    _ghost_tasks,
    _ghost_figures,
    ("key", "gigabytes", "theirs", "worst", "asked_s"),
)
