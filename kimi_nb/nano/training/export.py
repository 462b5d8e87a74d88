"""Write a training's checkpoint as the GGUF file that llama.cpp runs.

Run as ``python -m kimi_nb.nano.training.export CHECKPOINT FILE.gguf [--encoding Q8_0]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.nano.shape import SHAPE
from kimi_nb.nano.writer import ABOUT_TRAINED, ENCODINGS, write_gguf

if TYPE_CHECKING:
    from kimi_nb.nano.writer import Array

__all__ = ["tensors_of"]


def tensors_of(checkpoint: Path) -> dict[str, Array]:
    """Return a checkpoint's weights under their GGUF names, as 32-bit numbers."""
    import torch

    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["network"]
    named = {key.removeprefix("weights.").replace("/", "."): value for key, value in saved.items()}
    return {spec.name: named[spec.name].float().numpy() for spec in SHAPE.tensors()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Write a checkpoint of nano as a GGUF file.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--encoding", choices=ENCODINGS, default="Q8_0")
    args = parser.parse_args()
    write_gguf(args.file, tensors_of(args.checkpoint), encoding=args.encoding, about=ABOUT_TRAINED)


if __name__ == "__main__":
    main()
