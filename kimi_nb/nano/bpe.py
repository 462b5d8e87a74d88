"""Learn byte-pair merges from a small text, in a way that lets a small model copy.

nano must copy names from its context into calls, so a word has to be spelt with the same tokens wherever it
stands: after a space, after a quotation mark in JSON, at the start of a line. Hence merges never join a
letter with anything that is not a letter, digits stay single, and a Chinese character is at most one token. A
space is therefore a token of its own: English takes half as many tokens again, and a name can be copied token
by token.

This runs once, when the vocabulary is made (``python -m kimi_nb.nano.bpe``); what it learns is kept as data.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path

from kimi_nb.nano.split import kind, split

__all__ = ["Pair", "byte_chars", "learn", "merges_of_corpus"]

Pair = tuple[str, str]

ARABIC_MERGES = 320
PUNCTUATION_MERGES = 160
WORD_LIST_WEIGHT = 4
"""How often each word of the word list counts, set against the running text that is counted as it stands."""


def byte_chars() -> list[str]:
    """Return, for each byte, the printable character that stands for it in GPT-2 style vocabularies."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    chars = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in chars)
    chars.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return [chars[byte] for byte in range(256)]


_BYTES = byte_chars()


def _spelt(text: str) -> tuple[str, ...]:
    return tuple(_BYTES[byte] for byte in text.encode())


def learn(pieces: Counter[str], limit: int, known: dict[Pair, int]) -> list[Pair]:
    """Learn up to ``limit`` merges from counted pieces, on top of the merges already ``known``.

    The commonest pair is merged first; of equally common ones the alphabetically first, so that the outcome
    is the same everywhere. Pairs seen only once are not merged.
    """
    words = [list(_merged(_spelt(piece), known)) for piece in sorted(pieces)]
    counts = [pieces[piece] for piece in sorted(pieces)]
    seen: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for place, word in enumerate(words):
        for pair in itertools.pairwise(word):
            seen[pair] += counts[place]
            where[pair].add(place)
    learnt: list[Pair] = []
    while seen and len(learnt) < limit:
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        if seen[best] <= 1:
            break
        learnt.append(best)
        for place in where.pop(best):
            for pair in itertools.pairwise(words[place]):
                seen[pair] -= counts[place]
                if seen[pair] <= 0:
                    del seen[pair]
            words[place] = _merge(words[place], best)
            for pair in itertools.pairwise(words[place]):
                seen[pair] += counts[place]
                where[pair].add(place)
    return learnt


def _merge(word: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _merged(symbols: tuple[str, ...], known: dict[Pair, int]) -> list[str]:
    word = list(symbols)
    while len(word) > 1:
        best = min(itertools.pairwise(word), key=lambda pair: known.get(pair, len(known)))
        if best not in known:
            break
        word = _merge(word, best)
    return word


def merges_of_corpus(corpus: str, count: int) -> list[Pair]:
    """Learn ``count`` merges from a corpus of sections, each headed ``== name``.

    Raises:
        ValueError: If the corpus is too small to give that many.
    """
    latin: Counter[str] = Counter()
    arabic: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    for name, text in re.findall(r"^== (\S+)\n(.*?)(?=^== |\Z)", corpus, re.MULTILINE | re.DOTALL):
        weight = WORD_LIST_WEIGHT if name in {"words", "latin-names", "arabic"} else 1
        for piece in split(text):
            for class_, run in itertools.groupby(piece, _class):
                {"latin": latin, "arabic": arabic, "mark": marks}.get(class_, Counter())["".join(run)] += (
                    weight
                )
    merges: dict[Pair, int] = {}
    for char in sorted({char for char in corpus if len(char.encode()) > 1}):
        left, *rest = _spelt(char)
        for byte in rest:
            merges.setdefault((left, byte), len(merges))
            left += byte
    for pieces, limit in ((arabic, ARABIC_MERGES), (marks, PUNCTUATION_MERGES), (latin, count)):
        for pair in learn(pieces, min(limit, count - len(merges)), merges):
            merges[pair] = len(merges)
    if len(merges) < count:
        raise ValueError(f"the corpus gives {len(merges)} merges, not {count}")
    return list(merges)


def _class(char: str) -> str:
    what = kind(char)
    if what == "letter":
        return "arabic" if unicodedata.name(char, "").startswith("ARABIC") else "latin"
    return "mark" if what in {"other", "space"} else what


def _main() -> None:
    from kimi_nb.files import write_text
    from kimi_nb.nano.shape import SHAPE
    from kimi_nb.nano.vocab import MERGES_FILE, n_merges

    folder = files("kimi_nb.nano").joinpath("data")
    corpus = folder.joinpath("corpus.txt").read_text(encoding="utf-8")
    learnt = merges_of_corpus(corpus, n_merges(SHAPE.n_vocab))
    text = "".join(f"{left} {right}\n" for left, right in learnt)
    write_text(Path(str(folder.joinpath(MERGES_FILE))), text)


if __name__ == "__main__":
    _main()
