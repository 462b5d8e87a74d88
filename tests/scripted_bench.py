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

CALM = [0.99, 1.0, 1.01]
"""Samples where nothing disturbs, as shares of what a step takes."""

ATTENTION_MS = 0.05
"""Of a token and layer, for 1024 tokens in the cache."""


def step_ms(
    *, n_dense: int, ways: dict[str, int], head: float, tokens: int, threads: int, share: float
) -> float:
    """What one step takes.

    Args:
        n_dense: Dense layers.
        ways: Layers of experts by where they are computed; the last of them come last in the model.
        head: How much of the model's vocabulary there is.
        tokens: Tokens in the step.
        threads: Processor threads.
        share: How much of the model's experts there is.
    """
    counts = dict(ways)
    grown = 1 + 0.05 * tokens if tokens > 1 else 1.0
    if tokens > 1:  # of the last layer only the attention is computed
        last = next((way for way in reversed(list(counts)) if counts[way]), None)
        if last is not None:
            counts[last] -= 1
        else:
            n_dense = max(n_dense - 1, 0)
    ms = (COSTS["fixed"] + n_dense * COSTS["dense"]) * grown + COSTS["head"] * head
    for way, layers in counts.items():
        slower = 16 / threads if way in {"cpu", "experts_cpu"} else 1.0
        if tokens == 1:
            each = COSTS[way] * slower
        elif way == "experts_offload":
            each = COSTS[way] * share
        else:
            each = COSTS[way] * slower * 0.1 * tokens
        ms += layers * each
    return ms


def main(argv: list[str]) -> None:
    """Print rows as llama-bench does."""
    from kimi_nb.model.gguf_header import read_header

    given = dict(zip(argv[::2], argv[1::2], strict=True))
    model = read_header(given["-m"], check_data=False, allow_header_only=True)
    whole = json.loads(os.environ["SCRIPTED_WHOLE"])
    dense = model.leading_dense_block_count
    n_moe = model.block_count - dense
    away = min(max(int(given.get("-ncmoe", "0")) - dense, 0), n_moe) if given["-ngl"] != "0" else 0
    ubatch = int(given.get("-ub", "512"))
    tests = [(kind, int(n)) for kind in ("-p", "-n") for n in given[kind].split(",") if n != "0"]
    for threads in map(int, given["-t"].split(",")):
        for kind, n in tests:
            tokens = min(n, ubatch) if kind == "-p" else 1
            at = "experts_offload" if tokens >= 32 and given.get("-nopo") != "1" else "experts_cpu"
            ways = {"cpu": n_moe} if given["-ngl"] == "0" else {at: away, "gpu": n_moe - away}
            ms = step_ms(
                n_dense=dense, ways=ways, head=model.vocab_size / whole["n_vocab"], tokens=tokens,
                threads=threads, share=model.expert_count / whole["n_expert"],
            )  # fmt: skip
            answer = (
                COSTS["experts_cpu"] * 16 / threads - COSTS["gpu"]
                if kind == "-p" and away == n_moe > 0
                else 0.0
            )
            steps = n // tokens if kind == "-p" else n
            before = int(given["-d"]) + (n // 2 if kind == "-p" else 0)  # on average, for a token of a prompt
            ms = steps * (ms + model.block_count * before / 1024 * ATTENTION_MS * tokens) + answer
            ns = [int(ms * 1e6 * factor) for factor in disturbance()]
            if threads == int(os.environ.get("SCRIPTED_SETTLING", "0")):
                ns = settling(ns[1], int(given["-r"]))
            row = {
                "n_threads": threads,
                "n_prompt": n if kind == "-p" else 0,
                "n_gen": n if kind == "-n" else 0,
            }
            print(json.dumps(row | {"n_depth": int(given["-d"]), "samples_ns": ns}), flush=True)


def settling(ns: int, repetitions: int) -> list[int]:
    """What takes 1.4 times as long for the first three seconds, as threads do that began on shared cores."""
    told: list[int] = []
    while len(told) < repetitions:
        told.append(round(ns * (1.4 if sum(told) < 3e9 else 1.0)))
    return told


def disturbance() -> list[float]:
    """The first calls come out slower and uneven, as on a machine where something else is busy."""
    if "SCRIPTED_COLD" in os.environ:
        return [2.0, 0.99, 1.0, 1.01]
    path = os.environ.get("SCRIPTED_CALLS")
    if path is None:
        return CALM
    with Path(path).open("a+", encoding="utf-8") as file:
        file.write(".")
        file.seek(0)
        calls = len(file.read())
    return [3.0, 5.0, 8.0] if calls <= 3 else CALM


if __name__ == "__main__":
    main(sys.argv[1:])
