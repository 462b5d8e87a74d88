"""How long a header will be, judged by the part that has been read.

This is what lets a reader over HTTP ask for the rest at once instead of feeling its way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Outlook", "PackedArray"]

_TOKENS, _KINDS, _MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
# Tokens come sorted by rank and grow longer towards the end. Kimi's vocabulary is known; in other large
# byte-pair vocabularies a token takes about 9 bytes.
_TOKEN_BYTES = {"kimi-k2": 10.6}
_OTHER_TOKEN_BYTES = 9.0
_ENOUGH = 50_000
_TENSOR_BYTES = 76.0


@dataclass(frozen=True, slots=True)
class PackedArray:
    """A metadata array that was stepped over: its GGUF type, where its entries lie, and how many they are."""

    kind: int
    start: int
    end: int
    count: int


@dataclass
class Outlook:
    """How far a scan has come.

    Attributes:
        metadata: The keys read so far.
        n_tensors: How many tensors the file announces.
        tensors_from: Where the list of tensors starts, once that is known.
        tensors_read: How many of them have been read.
        array: Key, length, entries left and place of the array of strings that is being stepped over.
    """

    metadata: Mapping[str, object] = field(default_factory=dict)
    n_tensors: int = 0
    tensors_from: int | None = None
    tensors_read: int = 0
    array: tuple[str, int, int, int] | None = None
    array_from: int = 0

    def expected_bytes(self, received: int) -> int:
        """Return the likely length of the whole header, given how much of it has arrived: a guess."""
        if self.tensors_from is not None:
            each = (received - self.tensors_from) / self.tensors_read if self.tensors_read else _TENSOR_BYTES
            return round(self.tensors_from + each * self.n_tensors)
        rest = self.n_tensors * _TENSOR_BYTES
        position = received
        if self.array:
            key, count, left, position = self.array
            mean = (position - self.array_from) / (count - left) - 8 if count > left else 0.0
            if key == _TOKENS and count - left < _ENOUGH:
                mean = max(mean, self._usual_token_bytes())
            rest += left * (8 + mean)
            if key == _TOKENS:
                rest += self._after_tokens(count, mean)
            elif key == _MERGES:
                rest += self._after_tokens(count, 0.0, merges=False)
        else:
            tokens = self.metadata.get(_TOKENS)
            if isinstance(tokens, PackedArray) and tokens.count:
                rest += self._after_tokens(tokens.count, (tokens.end - tokens.start) / tokens.count - 8)
        return round(position + rest)

    def _usual_token_bytes(self) -> float:
        return _TOKEN_BYTES.get(str(self.metadata.get("tokenizer.ggml.pre")), _OTHER_TOKEN_BYTES)

    def _after_tokens(self, count: int, mean: float, *, merges: bool = True) -> float:
        """Return what still follows the tokens: a number for the kind of each, a merge for nearly each."""
        kinds = 0 if _KINDS in self.metadata else 4 * count
        byte_pairs = self.metadata.get("tokenizer.ggml.model") == "gpt2"
        pairs = (8 + mean + 1) * count if merges and byte_pairs and _MERGES not in self.metadata else 0.0
        return kinds + pairs
