"""Compare the network that nano is trained with to llama.cpp: same weights, same text, both in 32 bits.

``python benchmarks/parity_nano.py FILE.gguf [--positions N]``, with the ``train`` extra installed. FILE is an
F32 export: ``python -m kimi_nb.nano.training.weights FOLDER FILE.gguf --encoding F32``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np
import torch

from kimi_nb.engine import load_llama_cpp
from kimi_nb.nano import SHAPE
from kimi_nb.nano.training.network import Network
from kimi_nb.nano.world import conversations
from kimi_nb.nano.world.text import tokens_of

LIMIT = 1e-2
"""Largest difference of a logit that passes; sums in another order differ by less."""


def load(file: Path) -> Network:
    """Return the network with a GGUF file's weights."""
    network = Network(SHAPE)
    shapes = {spec.name: spec.shape for spec in SHAPE.tensors()}
    with torch.no_grad():
        for tensor in gguf.GGUFReader(file).tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shapes[tensor.name])
            network.tensor(tensor.name).copy_(torch.from_numpy(np.array(values, dtype=np.float32)))
    return network.eval()


def main() -> int:
    """Print the largest difference and how often both prefer the same token; exit 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--positions", type=int, default=1000)
    args = parser.parse_args()
    network = load(args.file)
    llama_cpp = load_llama_cpp()
    llama = llama_cpp.Llama(
        str(args.file), n_ctx=2048, n_batch=2048, n_ubatch=2048, logits_all=True, flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, n_gpu_layers=0, verbose=False,
    )  # fmt: skip
    worst, same, seen, texts = 0.0, 0, 0, 0
    for sample in conversations(2026, "test"):
        tokens, _ = tokens_of(sample)
        llama.reset()
        llama.eval(tokens)
        theirs = np.array(llama.scores[: len(tokens)])
        ids = torch.tensor([tokens])
        mask = torch.ones(1, 1, len(tokens), len(tokens), dtype=torch.bool).tril()
        with torch.no_grad():
            ours = network(ids, torch.arange(len(tokens))[None], mask)[0][0].numpy()
        worst = max(worst, float(np.abs(ours - theirs).max()))
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        seen, texts = seen + len(tokens), texts + 1
        if seen >= args.positions:
            break
    llama.close()
    print(f"{seen} positions of {texts} held-out conversations, {SHAPE.n_vocab} logits each")
    print(
        f"largest difference of a logit: {worst:.2e} (range of logits in the last text: {np.ptp(theirs):.1f})"
    )
    print(f"same most likely token: {same} of {seen}")
    return int(worst > LIMIT or same < seen)


if __name__ == "__main__":
    sys.exit(main())
