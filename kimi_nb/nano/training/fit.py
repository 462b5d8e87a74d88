"""Train nano: seeded, resumable, about 15 minutes on one H200.

Run as ``python -m kimi_nb.nano.training.fit --out FOLDER``; run again to continue after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from kimi_nb.files import write_json
from kimi_nb.nano.shape import SHAPE
from kimi_nb.nano.training.batches import ROW, Batches
from kimi_nb.nano.training.network import Network
from kimi_nb.nano.training.text import NEVER, WRITTEN

__all__ = ["fit"]

CHECKPOINT, CURVE = "checkpoint.pt", "losses.json"
PROMPT_WEIGHT = 0.1
"""How much a token of the prompt counts against one of the answer: reading helps, but is not the aim."""
BIAS_STEP = 1e-3
"""How far an expert's bias moves each step towards an even load (DeepSeek-V3's way, with no extra loss)."""


def _mask(owner: Tensor) -> Tensor:
    """Return who may see whom, ``[batch, 1, time, time]``: earlier tokens of the same conversation."""
    time_ = owner.shape[1]
    causal = torch.ones(time_, time_, dtype=torch.bool, device=owner.device).tril()
    return ((owner[:, :, None] == owner[:, None, :]) & causal)[:, None]


def _loss(network: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    logits, load = network(batch["tokens"], batch["positions"], _mask(batch["owner"]))
    # The last token of a conversation is followed by another's first: the weight of that target is 0.
    targets = batch["tokens"][:, 1:].flatten().long()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
    learnt = batch["learn"][:, 1:].flatten()
    same = (batch["owner"][:, 1:] == batch["owner"][:, :-1]).flatten()
    weight = torch.where(learnt == WRITTEN, 1.0, PROMPT_WEIGHT) * same * (learnt != NEVER)
    answer = (losses * (learnt == WRITTEN)).sum() / (learnt == WRITTEN).sum()
    return (losses * weight).sum() / weight.sum(), answer.detach(), load


def _rate(step: int, gone: float, peak: float) -> float:
    """Warm up over 200 steps, stay, then fall to nearly nothing over the last 40 %.

    Args:
        step: Steps done.
        gone: Share of the run that is over, in steps or in allowed time, whichever is further.
        peak: The highest rate.
    """
    warm, fall = 200, 0.6
    if step < warm:
        return peak * (step + 1) / warm
    return peak * min(1.0, max(0.01, (1 - gone) / (1 - fall)))


def _optimiser(network: Network, peak: float) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=network.angles.is_cuda)


def _balance(network: Network, load: Tensor) -> None:
    """Move each expert's bias a little towards an even load."""
    even = SHAPE.n_expert_used / SHAPE.n_expert
    with torch.no_grad():
        for number, shares in enumerate(load):
            name = f"blk.{SHAPE.n_layer_dense_lead + number}.exp_probs_b.bias"
            network.tensor(name).add_(torch.sign(even - shares), alpha=BIAS_STEP)


def _resume(
    folder: Path, network: Network, optimiser: torch.optim.Optimizer, start: Path | None
) -> tuple[int, list[Any]]:
    """Load what an earlier run left in ``folder``, or else the weights of ``start``."""
    checkpoint, device = folder / CHECKPOINT, network.angles.device
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        return saved["step"], json.loads((folder / CURVE).read_text(encoding="utf-8"))["losses"]
    if start is not None:
        network.load_state_dict(torch.load(start, map_location=device, weights_only=True)["network"])
    return 0, []


def _save(
    folder: Path, network: Network, optimiser: torch.optim.Optimizer, done: int, history: list[Any]
) -> None:
    temporary = folder / f"{CHECKPOINT}.tmp"
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": done}
    torch.save(state, temporary)
    temporary.replace(folder / CHECKPOINT)
    write_json(folder / CURVE, {"columns": ["step", "answer_loss", "valid_answer_loss"], "losses": history})


def fit(
    out: Path,
    *,
    steps: int,
    rows: int,
    peak: float,
    seed: int,
    workers: int,
    limit_s: float = math.inf,
    start: Path | None = None,
) -> dict[str, Any]:
    """Train and leave ``checkpoint.pt`` and ``losses.json`` in ``out``; continue from them where they exist.

    Args:
        out: Folder for the checkpoint and the loss curve.
        steps: Optimiser steps in all.
        rows: Rows of 1,024 tokens in one step.
        peak: The highest learning rate of AdamW.
        seed: Seed of weights and conversations.
        workers: Processes that write conversations.
        limit_s: Seconds allowed; the learning rate falls in time to end by then, if not by the steps.
        start: A checkpoint whose weights a new training starts from; none for random weights.

    Returns:
        Steps done, tokens seen, seconds, and the last losses.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Network(SHAPE, seed).to(device)
    optimiser = _optimiser(network, peak)
    done, history = _resume(out, network, optimiser, start)
    train = iter(Batches("train", rows, seed, start=done, workers=workers))
    valid = next(iter(Batches("valid", min(rows, 16), seed, workers=0)))
    fast = torch.compile(network) if device == "cuda" else network
    halves = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    started = time.monotonic()

    def move(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    while done < steps and time.monotonic() - started < limit_s:
        gone = max(done / steps, (time.monotonic() - started) / limit_s)
        for group in optimiser.param_groups:
            group["lr"] = _rate(done, gone, peak)
        with halves:
            loss, answer, load = _loss(fast, move(next(train)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _balance(network, load)
        done += 1
        if done % 100 == 0 or done == steps:
            with torch.no_grad(), halves:
                held = float(_loss(network, move(valid))[1])
            history.append([done, round(float(answer), 5), round(held, 5)])
            print(
                f"step {done}/{steps} answer {float(answer):.4f} valid {held:.4f} "
                f"load {float(load.min()):.3f}-{float(load.max()):.3f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
            if not math.isfinite(float(answer)):
                raise SystemExit("the loss is not a number; lower --peak")
        if done % 2000 == 0:
            _save(out, network, optimiser, done, history)
    _save(out, network, optimiser, done, history)
    seconds = time.monotonic() - started
    return {"steps": done, "tokens": done * rows * ROW, "seconds": seconds, "last": history[-1:]}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Train nano.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--rows", type=int, default=64, help="rows of 1,024 tokens a step")
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--limit-s", type=float, default=math.inf, help="seconds allowed")
    parser.add_argument("--start", type=Path, help="checkpoint whose weights to start from")
    args = parser.parse_args()
    print(json.dumps(fit(**vars(args))))


if __name__ == "__main__":
    main()
