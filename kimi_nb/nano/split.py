"""Cut text into pieces the way llama.cpp does for ``tokenizer.ggml.pre = kimi-k2``.

A byte-pair vocabulary never merges across pieces, so tokens come out right only if the pieces do. llama.cpp
cuts with its own code (``unicode_regex_split_custom_kimi_k2``), which differs from Kimi's published regular
expression in small things (combining marks are not letters to it); this follows llama.cpp.
"""

from __future__ import annotations

import unicodedata
from functools import cache

__all__ = ["HAN", "kind", "split"]

HAN = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2CEB0, 0x2EBEF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""First and last code points of the ranges that llama.cpp takes for Chinese characters."""

_SPACES = frozenset(
    [
        *range(0x09, 0x0E),
        0x20,
        0x85,
        0xA0,
        0x1680,
        *range(0x2000, 0x200B),
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x3000,
    ]
)
_SHORT = frozenset("stmd")
_LONG = frozenset(("re", "ve", "ll"))
_DIGITS_A_PIECE = 3


@cache
def kind(char: str) -> str:
    """Return what ``char`` is to the splitter: ``han``, ``letter``, ``number``, ``space`` or ``other``."""
    point = ord(char)
    if any(first <= point <= last for first, last in HAN):
        return "han"
    category = unicodedata.category(char)[0]
    if category == "L":
        return "letter"
    if category == "N":
        return "number"
    return "space" if point in _SPACES else "other"


def split(text: str) -> list[str]:
    """Cut ``text`` into the pieces that are tokenised on their own; joined, they are ``text`` again."""
    kinds = [kind(char) for char in text]
    pieces = []
    start = 0
    while start < len(text):
        end = _end_of_piece(text, kinds, start)
        pieces.append(text[start:end])
        start = end
    return pieces


def _run(kinds: list[str], start: int, wanted: str) -> int:
    while start < len(kinds) and kinds[start] == wanted:
        start += 1
    return start


def _is(kinds: list[str], place: int, wanted: str) -> bool:
    return place < len(kinds) and kinds[place] == wanted


def _end_of_piece(text: str, kinds: list[str], start: int) -> int:
    first = kinds[start]
    if first == "han":
        return _run(kinds, start, "han")
    # A word takes one character before it along, be it a space, a quotation mark or a slash, but no line end.
    if first == "letter":
        return _contraction(text, _run(kinds, start, "letter"))
    if first != "number" and text[start] not in "\r\n" and _is(kinds, start + 1, "letter"):
        return _contraction(text, _run(kinds, start + 1, "letter"))
    if first == "number":
        return min(_run(kinds, start, "number"), start + _DIGITS_A_PIECE)
    marks = start + (text[start] == " ")
    if _is(kinds, marks, "other"):
        end = _run(kinds, marks, "other")
        while end < len(text) and text[end] in "\r\n":
            end += 1
        return end
    return _end_of_space(text, kinds, start)


def _contraction(text: str, end: int) -> int:
    if text[end : end + 1] != "'":
        return end
    after = text[end + 1 : end + 3].lower()
    if after[:1] in _SHORT and after:
        return end + 2
    return end + 3 if after in _LONG else end


def _end_of_space(text: str, kinds: list[str], start: int) -> int:
    end = _run(kinds, start, "space")
    lines = max(text.rfind("\n", start, end), text.rfind("\r", start, end))
    if lines >= 0:
        return lines + 1
    # The last space before a word belongs to the word.
    return end - 1 if end - start > 1 and end < len(text) else end
