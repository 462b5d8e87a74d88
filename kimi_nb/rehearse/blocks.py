"""Random weights of every ggml type: blocks that are valid, and of a size that keeps activations of order 1.

The bits of a block are random; what scales it is set so that a weight's standard deviation is the one asked
for. Layouts are those of ``ggml/src/ggml-common.h``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from kimi_nb.model.ggml_types import TYPES_BY_NAME

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

__all__ = ["random_blocks"]

#: Where each type keeps its half-precision scales, in bytes from the start of a block, and what each is
#: times the first: what is added or taken off is chosen so that weights are 0 on average.
_SCALES: dict[str, tuple[tuple[int, float], ...]] = {
    "Q4_1": ((0, 1.0), (2, -7.5)),
    "Q5_1": ((0, 1.0), (2, -15.5)),
    "Q2_K": ((80, 1.0), (82, 1.5)),
    "Q4_K": ((0, 1.0), (2, 7.5)),
    "Q5_K": ((0, 1.0), (2, 15.5)),
    "Q3_K": ((108, 1.0),),
    "Q6_K": ((208, 1.0),),
    "TQ1_0": ((52, 1.0),),
    "TQ2_0": ((64, 1.0),),
}
_AT_THE_START = ((0, 1.0),)  # all others
_FLOATS = {"F16", "BF16", "F32"}
_MXFP4_EXPONENT = 120  # 2^-7, a byte of its own instead of a half
_NVFP4_SCALE = 0x10  # a small number in each of four bytes


def random_blocks(kind: str, count: int, *, deviation: float, seed: int = 0) -> Bytes:
    """Return ``count`` random blocks as bytes.

    Args:
        kind: The type's name, such as ``IQ2_XXS`` or ``F32`` (where a block is one weight).
        count: How many blocks.
        deviation: Standard deviation of the weights.
        seed: The same seed gives the same bytes.

    Raises:
        KeyError: The type is not one that weights are stored in.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    if kind in _FLOATS:
        values = random.standard_normal(count, dtype=np.float32) * np.float32(deviation)
        if kind == "BF16":  # the upper half of a float32
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        return values.astype(np.float16 if kind == "F16" else np.float32).view(np.uint8)
    size = TYPES_BY_NAME[kind].type_size
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    _set_scale(kind, blocks, deviation / _deviation_of_one(kind))
    return blocks.reshape(-1)


def _set_scale(kind: str, blocks: Bytes, scale: float) -> None:
    """Write the scale into every block, and tame what stands beside it."""
    import numpy as np

    half = np.array([scale], dtype=np.float16).view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = _MXFP4_EXPONENT
    elif kind == "NVFP4":
        blocks[:, :4] = _NVFP4_SCALE
    elif kind == "IQ1_M":  # a nibble of the scale at the top of each of the four numbers that end a block
        low, high = int(half[0]), int(half[1])
        for number, nibble in enumerate((low & 15, low >> 4, high & 15, high >> 4)):
            column = blocks[:, 49 + 2 * number]
            column &= 0x0F
            column |= nibble << 4
    else:
        if kind == "Q6_K":
            blocks[:, 192:208] &= 0x3F  # of 8-bit scales, small positive ones
        for place, times in _SCALES.get(kind, _AT_THE_START):
            blocks[:, place : place + 2] = np.array([scale * times], dtype=np.float16).view(np.uint8)


@cache
def _deviation_of_one(kind: str) -> float:
    """Return the standard deviation of random weights whose scale is 1, from the reference decoder."""
    import gguf
    import numpy as np

    if kind in {"Q1_0", "Q2_0"}:
        return 1.0  # not known to the decoder; both are sums of very few values

    blocks = np.random.default_rng(1).integers(0, 256, (64, TYPES_BY_NAME[kind].type_size), dtype=np.uint8)
    _set_scale(kind, blocks, 1.0)
    return float(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]).std())
