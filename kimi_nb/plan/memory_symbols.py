"""Sizes as polynomials in tokens, outputs and context, carried through ordinary arithmetic as one big number.

The same graph is asked about again and again with another context or batch. So it is built once with
numbers in place of them that are so large and so far apart that a size computed from them can be read
like the digits of a number: with tokens = B, outputs = B^2 and context = B^4, a size of ``a + b*tokens +
e*tokens*context`` has the digits a, b and e in base B.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["CONTEXT", "OUTPUTS", "TOKENS_PER_STREAM", "Dimensions", "Polynomial", "read"]

_BITS = 48
_BASE = 1 << _BITS
_HALF = _BASE >> 1

TOKENS_PER_STREAM = _BASE
OUTPUTS = _BASE**2
CONTEXT = _BASE**4


class Dimensions(NamedTuple):
    """What a graph's sizes depend on.

    Attributes:
        tokens: Tokens computed in one step for each stream.
        outputs: Tokens of these for which logits are wanted.
        context: Tokens that the cache of one stream holds.
    """

    tokens: int
    outputs: int
    context: int


class Polynomial(NamedTuple):
    """A size: ``constant + tokens*t + outputs*o + context*c + tokens_context*t*c``."""

    constant: int
    tokens: int
    outputs: int
    context: int
    tokens_context: int

    def at(self, at: Dimensions) -> int:
        """Return the size for given dimensions."""
        return (
            self.constant
            + self.tokens * at.tokens
            + self.outputs * at.outputs
            + (self.context + self.tokens_context * at.tokens) * at.context
        )


@lru_cache(maxsize=4096)
def read(number: int) -> Polynomial:
    """Return the polynomial that a number made of the symbols stands for."""
    digits = []
    while number:
        digit = number & (_BASE - 1)
        if digit >= _HALF:  # the stride of a view may make a term negative
            digit -= _BASE
        digits.append(digit)
        number = (number - digit) >> _BITS
    constant, tokens, outputs, rest, context, tokens_context, *more = [*digits, *([0] * 6)]
    if rest or any(more):
        msg = "a size depends on the symbols in a way that was not expected"
        raise AssertionError(msg)
    return Polynomial(constant, tokens, outputs, context, tokens_context)
