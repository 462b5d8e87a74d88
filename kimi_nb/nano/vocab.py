"""nano's vocabulary: byte-pair merges of our own, and Kimi's special tokens under Kimi's names.

:meth:`Vocab.encode` gives exactly the tokens llama.cpp gives for nano's file, so that text can be prepared
for training without llama.cpp. The ids: the merged tokens (the 256 bytes first), then Kimi's block of 256
special tokens, in Kimi's own order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from kimi_nb.model.prompt import SPECIAL_SLOTS, special_tokens
from kimi_nb.nano.bpe import Pair, byte_chars
from kimi_nb.nano.shape import SHAPE
from kimi_nb.nano.split import split

__all__ = ["MERGES_FILE", "Vocab", "n_merges", "vocabulary"]

MERGES_FILE = "merges.txt"
_BYTES = 256


def n_merges(n_vocab: int) -> int:
    """Return how many merges a vocabulary of ``n_vocab`` tokens has room for."""
    return n_vocab - _BYTES - SPECIAL_SLOTS


@dataclass(frozen=True)
class Vocab:
    """A byte-pair vocabulary as a GGUF file holds it.

    Args:
        merges: The pairs in order of rank, written in GPT-2's byte characters.
    """

    merges: tuple[Pair, ...]
    tokens: tuple[str, ...] = field(init=False, repr=False)
    """Every token's text, by id; special tokens as they are, the others in byte characters."""
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)
    _ranks: dict[Pair, int] = field(init=False, repr=False, compare=False)
    _pieces: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        tokens = (*byte_chars(), *(left + right for left, right in self.merges), *special_tokens())
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "_ids", {token: id_ for id_, token in enumerate(tokens)})
        object.__setattr__(self, "_ranks", {pair: rank for rank, pair in enumerate(self.merges)})

    @property
    def first_special(self) -> int:
        """Return the id of the first special token; those from there on are all special."""
        return len(self.tokens) - SPECIAL_SLOTS

    def id(self, token: str) -> int:
        """Return the id of a special token, such as ``<|im_end|>``."""
        return self._ids[token]

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Return the tokens llama.cpp gives for ``text``.

        Args:
            text: Any text that UTF-8 can hold.
            parse_special: Whether the text of a special token becomes that token, as in a rendered prompt.
        """
        parts: list[str | int] = [text] if text else []
        # llama.cpp looks for one special token after the other in the whole text, the longest first.
        for special in sorted(special_tokens(), key=len, reverse=True) if parse_special else ():
            if special in text:
                parts = [piece for part in parts for piece in _cut(part, special, self._ids[special])]
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                for piece in split(part):
                    ids += self._piece(piece)
        return ids

    def decode(self, ids: list[int], *, special: bool = True) -> str:
        """Return the text of tokens; without ``special``, special tokens leave no trace, as in llama.cpp."""
        values = {char: byte for byte, char in enumerate(byte_chars())}
        raw = bytearray()
        for id_ in ids:
            if id_ < self.first_special:
                raw += bytes(values[char] for char in self.tokens[id_])
            elif special:
                raw += self.tokens[id_].encode()
        return raw.decode("utf-8", errors="replace")

    def _piece(self, piece: str) -> list[int]:
        known = self._pieces.get(piece)
        if known is None:
            chars = byte_chars()
            known = [self._ids[symbol] for symbol in self._merge([chars[byte] for byte in piece.encode()])]
            self._pieces[piece] = known
        return known

    def _merge(self, symbols: list[str]) -> list[str]:
        ranks, none = self._ranks, len(self._ranks)
        while len(symbols) > 1:
            best = min(range(len(symbols) - 1), key=lambda i: ranks.get((symbols[i], symbols[i + 1]), none))
            if (symbols[best], symbols[best + 1]) not in ranks:
                break
            symbols[best : best + 2] = [symbols[best] + symbols[best + 1]]
        return symbols


def _cut(part: str | int, special: str, id_: int) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    pieces: list[str | int] = []
    for place, text in enumerate(part.split(special)):
        if place:
            pieces.append(id_)
        if text:
            pieces.append(text)
    return pieces


@cache
def vocabulary() -> Vocab:
    """Return nano's vocabulary."""
    lines = files("kimi_nb.nano").joinpath("data", MERGES_FILE).read_text(encoding="utf-8").splitlines()
    pairs = tuple((left, right) for left, right in (line.split(" ") for line in lines))
    if len(pairs) != n_merges(SHAPE.n_vocab):
        raise ValueError(
            f"{MERGES_FILE} has {len(pairs)} merges, and the shape has room for {n_merges(SHAPE.n_vocab)}"
        )
    return Vocab(pairs)
