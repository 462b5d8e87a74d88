"""Train nano, or train it on: ``python -m kimi_nb.nano.training.fit --help``."""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from kimi_nb.files import write_json
from kimi_nb.nano.shape import SHAPE
from kimi_nb.nano.training.batches import ROW, Batches
from kimi_nb.nano.training.network import Network
from kimi_nb.nano.training.weights import load_weights, save_weights
from kimi_nb.nano.world.text import NEVER, WRITTEN

__all__ = ["fit"]

CHECKPOINT, CURVE = "checkpoint.pt", "losses.json"
PROMPT_WEIGHT = 0.1
"""How much a token of the prompt counts against one of the answer: reading helps, but is not the aim."""
BIAS_STEP = 1e-3
"""How far an expert's bias moves each step towards an even load (DeepSeek-V3's way, with no extra loss)."""
WARM = 200
"""Steps over which the rate rises; also where training goes on without the optimiser's averages."""


def _loss(network: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    owner, time_ = batch["owner"], batch["owner"].shape[1]
    causal = torch.ones(time_, time_, dtype=torch.bool, device=owner.device).tril()
    mask = ((owner[:, :, None] == owner[:, None, :]) & causal)[:, None]
    logits, load = network(batch["tokens"], batch["positions"], mask)
    # The last token of a conversation is followed by another's first: the weight of that target is 0.
    targets = batch["tokens"][:, 1:].flatten().long()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
    learnt = batch["learn"][:, 1:].flatten()
    same = (owner[:, 1:] == owner[:, :-1]).flatten()
    weight = torch.where(learnt == WRITTEN, 1.0, PROMPT_WEIGHT) * same * (learnt != NEVER)
    answer = (losses * (learnt == WRITTEN)).sum() / (learnt == WRITTEN).sum()
    return (losses * weight).sum() / weight.sum(), answer.detach(), load


def _optimiser(network: Network, peak: float) -> torch.optim.Optimizer:
    matrices, vectors = ([p for p in network.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=network.angles.is_cuda)


def _balance(network: Network, load: Tensor) -> None:
    """Move each expert's bias a little towards an even load."""
    even = SHAPE.n_expert_used / SHAPE.n_expert
    with torch.no_grad():
        for number, shares in enumerate(load):
            name = f"blk.{SHAPE.n_layer_dense_lead + number}.exp_probs_b.bias"
            network.tensor(name).add_(torch.sign(even - shares), alpha=BIAS_STEP)


def _save(out: Path, network: Network, optimiser: Any, step: int, losses: list[Any]) -> None:
    temporary = out / f"{CHECKPOINT}.tmp"
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save({**state, "losses": losses}, temporary)
    temporary.replace(out / CHECKPOINT)
    tensors = {spec.name: network.tensor(spec.name).detach().cpu() for spec in SHAPE.tensors()}
    save_weights({name: tensor.numpy() for name, tensor in tensors.items()}, out)
    write_json(out / CURVE, {"columns": ["step", "answer_loss", "valid_answer_loss"], "losses": losses})


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        steps: Optimiser steps in all.
        rows: Rows in one step.
        length: Tokens in a row; a longer conversation is left out.
        peak: The highest learning rate of AdamW.
        fall: Over which last share of the run the rate falls to a hundredth; 0 to keep it up.
        seed: Seed of weights and conversations.
        workers: Processes that write conversations.
        limit_s: Seconds allowed; the rate falls in time to end by then, if not by the steps.
        first_step: How many of the steps the weights that training starts from have behind them.
    """

    steps: int = 16_000
    rows: int = 64
    length: int = ROW
    peak: float = 2e-3
    fall: float = 0.4
    seed: int = 1
    workers: int = 15
    limit_s: float = math.inf
    first_step: int = 0


def fit(out: Path, recipe: Recipe, start: Path | None = None) -> dict[str, Any]:
    """Train; leave weights, the losses and a checkpoint in ``out``, and go on from there if it has one.

    Args:
        out: A folder.
        recipe: How to train.
        start: Weights to start from, as :func:`load_weights` takes them; none for random ones.

    Returns:
        Steps done, seconds, and the last losses.
    """
    begun = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    first_step, rows, length = recipe.first_step, recipe.rows, recipe.length
    torch.manual_seed(recipe.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Network(SHAPE, recipe.seed).to(device)
    optimiser = _optimiser(network, recipe.peak)
    done, history = first_step, []
    if (out / CHECKPOINT).exists():
        saved = torch.load(out / CHECKPOINT, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        first_step, done, history = 0, saved["step"], saved["losses"]
    elif start is not None:
        with torch.no_grad():
            for name, array in load_weights(start).items():
                network.tensor(name).copy_(torch.from_numpy(array))
    train = iter(Batches("train", rows, recipe.seed, start=done, workers=recipe.workers, length=length))
    valid = next(iter(Batches("valid", min(rows, 16), recipe.seed, length=length)))
    fast = torch.compile(network) if device == "cuda" else network
    halves = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def move(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    while done < recipe.steps and (spent := time.monotonic() - begun) < recipe.limit_s:
        gone = max(done / recipe.steps, spent / recipe.limit_s)
        falling = min(1.0, max(0.01, (1 - gone) / recipe.fall)) if recipe.fall else 1.0
        for group in optimiser.param_groups:
            group["lr"] = recipe.peak * min(falling, (done - first_step + 1) / WARM)
        with halves:
            loss, answer, load = _loss(fast, move(next(train)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _balance(network, load)
        done += 1
        if done % 100 == 0 or done == recipe.steps:
            with torch.no_grad(), halves:
                held = float(_loss(network, move(valid))[1])
            history.append([done, round(float(answer), 5), round(held, 5)])
            told = f"step {done}/{recipe.steps} answer {answer:.4f} valid {held:.4f}"
            print(f"{told} load {load.min():.3f}-{load.max():.3f} {spent:.0f} s", flush=True)
            if not math.isfinite(float(answer)):
                raise SystemExit("the loss is not a number; lower --peak")
        if done % 2000 == 0:
            _save(out, network, optimiser, done, history)
    _save(out, network, optimiser, done, history)
    return {"steps": done, "seconds": round(time.monotonic() - begun), "last": history[-1:]}


def main() -> None:
    """Run from the command line: an option for each field of :class:`Recipe`."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=Recipe.__doc__, formatter_class=form)
    parser.add_argument("--out", type=Path, required=True, help="folder for what training leaves")
    parser.add_argument("--start", type=Path, help="weights to start from: such a folder, or a GGUF file")
    for field in fields(Recipe):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        parser.add_argument(name, type=type(default), default=default)
    given = vars(parser.parse_args())
    out, start = given.pop("out"), given.pop("start")
    print(json.dumps(fit(out, Recipe(**given), start)))


if __name__ == "__main__":
    main()
