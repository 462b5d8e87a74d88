"""A llama-bench that takes no time: it answers from what parts of a model cost on a machine we do not have.

Run as a program, with llama-bench's arguments; ``COSTS`` is also what a forecast is held against.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

COSTS = {
    "fixed": 0.3,
    "dense": 0.4,
    "head": 0.6,
    "gpu": 0.3,
    "experts_cpu": 3.2,
    "experts_offload": 20.0,
    "cpu": 5.0,
}
"""Milliseconds of a step of one token on 16 threads; ``experts_offload`` is for a step of any length."""


def step_ms(
    *, n_dense: int, n_moe: float, head: float, tokens: int, threads: int, way: str, share: float
) -> float:
    """What one step takes; ``share`` is how much of the model's experts there are."""
    slower = 16 / threads if way in {"cpu", "experts_cpu"} else 1.0
    if tokens == 1:
        return COSTS["fixed"] + n_dense * COSTS["dense"] + n_moe * COSTS[way] * slower + COSTS["head"] * head
    grown = 1 + 0.05 * tokens
    last = (n_dense, n_moe - 1) if n_moe else (max(n_dense - 1, 0), 0)
    routed = (
        COSTS["experts_offload"] * share if way == "experts_offload" else COSTS[way] * slower * 0.1 * tokens
    )
    return COSTS["fixed"] * grown + last[0] * COSTS["dense"] * grown + last[1] * routed + COSTS["head"] * head


def main(argv: list[str]) -> None:
    """Print rows as llama-bench does."""
    from kimi_nb.model.gguf_header import read_header

    given = dict(zip(argv[::2], argv[1::2], strict=True))
    model = read_header(given["-m"], check_data=False, allow_header_only=True)
    whole = json.loads(os.environ["SCRIPTED_WHOLE"])
    threads, way = int(given["-t"]), "gpu"
    if given["-ngl"] == "0":
        way = "cpu"
    for kind in ("-p", "-n"):
        for n in (int(text) for text in given[kind].split(",") if text != "0"):
            at = way
            if way == "gpu" and "-ncmoe" in given:
                at = (
                    "experts_offload"
                    if kind == "-p" and n >= 32 and given.get("-nopo") != "1"
                    else "experts_cpu"
                )
            tokens = n if kind == "-p" else 1
            ms = step_ms(
                n_dense=model.leading_dense_block_count, n_moe=model.block_count - model.leading_dense_block_count,
                head=model.vocab_size / whole["n_vocab"], tokens=tokens, threads=threads, way=at,
                share=model.expert_count / whole["n_expert"],
            )  # fmt: skip
            ms += model.block_count * int(given["-d"]) / 1024 * 0.05 * tokens
            ns = [int(ms * 1e6 * (1 if kind == "-p" else n) * factor) for factor in disturbance()]
            row = {
                "n_threads": threads,
                "n_prompt": n if kind == "-p" else 0,
                "n_gen": n if kind == "-n" else 0,
            }
            print(json.dumps(row | {"n_depth": int(given["-d"]), "samples_ns": ns}), flush=True)


def disturbance() -> list[float]:
    """The first calls come out slower and uneven, as on a machine where something else is busy."""
    path = os.environ.get("SCRIPTED_CALLS")
    if path is None:
        return [0.99, 1.0, 1.01]
    with Path(path).open("a+", encoding="utf-8") as file:
        file.write(".")
        file.seek(0)
        calls = len(file.read())
    return [3.0, 5.0, 8.0] if calls <= 3 else [0.99, 1.0, 1.01]


if __name__ == "__main__":
    main(sys.argv[1:])
