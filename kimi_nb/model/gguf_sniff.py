"""Recognise what people get instead of a GGUF file."""

from __future__ import annotations

import re

__all__ = ["name_of_stranger"]

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "it is a zip archive"),
    (b"\x1f\x8b", "it is gzip-compressed"),
    (b"\xfd7zXZ\x00", "it is xz-compressed"),
    (b"(\xb5/\xfd", "it is zstd-compressed"),
    (b"7z\xbc\xaf", "it is a 7z archive"),
    (b"\x80\x02", "it is a Python pickle, such as an old PyTorch checkpoint"),
    (b"lmgg", "it is in the GGML format of 2023, which llama.cpp no longer reads"),
    (b"fmgg", "it is in the GGMF format of 2023, which llama.cpp no longer reads"),
    (b"tjgg", "it is in the GGJT format of 2023, which llama.cpp no longer reads"),
    (b"FUGG", "its magic is written backwards"),
)


_PATTERNS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml|<!--)", re.IGNORECASE),
        "KNB301",
        "it begins like HTML",
    ),
    (re.compile(rb"# xet version"), "KNB303", "it only points into Xet storage"),
    (re.compile(rb"\s*[{\[]"), "KNB300", "it is JSON, perhaps a server's error message"),
    (re.compile(rb".{8}\{\s*\"", re.DOTALL), "KNB300", "it looks like a safetensors file"),
    (re.compile(rb"\0+\Z"), "KNB300", "it begins with zeros: space was reserved, but the data never arrived"),
)


def name_of_stranger(head: bytes) -> tuple[str, str]:
    """Return an error id and a reason for the first bytes of a file that does not begin with ``GGUF``."""
    text = head.removeprefix(b"\xef\xbb\xbf")
    if text.startswith(b"version https://git-lfs.github.com/"):
        size = re.search(rb"^size (\d{1,18})$", text, re.MULTILINE)
        real = f" to {int(size[1]):,} bytes" if size else ""
        return "KNB302", f"it only points{real} in git-lfs storage"
    for start, why in _STARTS:
        if head.startswith(start):
            return "KNB300", why
    for pattern, id_, why in _PATTERNS:
        if pattern.match(text):
            return id_, why
    return "KNB300", f"it begins with {head[:8]!r} instead of b'GGUF'"
