"""nano's weights as files: what training leaves and starts from, and the GGUF file that llama.cpp runs.

Run as ``python -m kimi_nb.nano.training.weights SOURCE TARGET``; SOURCE is a GGUF file or a folder of
training, TARGET a new GGUF file or a folder. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kimi_nb.nano.shape import SHAPE
from kimi_nb.nano.writer import ABOUT_TRAINED, ENCODINGS, write_gguf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimi_nb.nano.writer import Array

__all__ = ["load_weights", "save_weights"]

_PARTS = 4
"""Several small files, of about 9 MB each, pass where one large one would not."""


def load_weights(source: Path) -> dict[str, Array]:
    """Return every tensor by its GGUF name, float32, from a GGUF file or what :func:`save_weights` left."""
    if source.is_file():
        from kimi_nb.nano.make import gguf_tensors

        return gguf_tensors(source)
    found: dict[str, Array] = {}
    for part in sorted(source.glob("weights-*.npz")):
        with np.load(part) as arrays:
            found |= {name: arrays[name].astype(np.float32) for name in arrays.files}
    missing = [spec.name for spec in SHAPE.tensors() if spec.name not in found]
    if missing:
        raise SystemExit(f"{source} lacks {len(missing)} of nano's tensors, such as {missing[0]}")
    return found


def save_weights(tensors: Mapping[str, Array], folder: Path) -> None:
    """Write ``weights-0.npz`` and so on: matrices in 16 bits, far finer than Q8_0, the others in 32."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Array]] = [{} for _ in range(_PARTS)]
    for spec in sorted(SHAPE.tensors(), key=lambda spec: -spec.elements):
        smallest = min(parts, key=lambda part: sum(array.nbytes for array in part.values()))
        smallest[spec.name] = tensors[spec.name].astype(np.float32 if spec.kept_f32 else np.float16)
    for number, part in enumerate(parts):
        temporary = folder / f".weights-{number}.npz"
        np.savez(temporary, **part)  # type: ignore[arg-type]  # the names are tensors', never allow_pickle
        temporary.replace(folder / f"weights-{number}.npz")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Turn nano's weights from one kind of file into the other.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--encoding", choices=ENCODINGS, default="Q8_0", help="of a GGUF file")
    args = parser.parse_args()
    tensors = load_weights(args.source)
    if args.target.suffix == ".gguf":
        write_gguf(args.target, tensors, encoding=args.encoding, about=ABOUT_TRAINED)
    else:
        save_weights(tensors, args.target)


if __name__ == "__main__":
    main()
