"""Figures in words, as panels say them."""

from __future__ import annotations

__all__ = ["and_so", "gb", "gib", "seconds", "tokens"]

_MINUTE = 60
_FEW = 10


def gib(mib: float) -> str:
    """Return MiB as GiB with one decimal, or as MiB where that would say nothing."""
    return f"{mib / 1024:,.1f} GiB" if mib >= 1024 else f"{mib:,.0f} MiB"  # noqa: PLR2004 - 1 GiB


def gb(size: float) -> str:
    """Return bytes as GB (10^9) or MB, as shops and the Hub count."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"  # noqa: PLR2004 - 1 GB


def tokens(count: int) -> str:
    """Return a count of tokens."""
    return f"{count:,} token{'' if count == 1 else 's'}"


def seconds(count: float) -> str:
    """Return a time, as exact as it is of use."""
    minutes, rest = divmod(int(count), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {rest:02d} s"
    return f"{count:.1f} s" if count < _FEW else f"{rest} s"


def and_so(parts: list[str]) -> str:
    """Join parts of a sentence."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
