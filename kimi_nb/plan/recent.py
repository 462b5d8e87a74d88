"""Answers that are kept for the next time: those used last, and no more than so many."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Recent"]

_Answer = TypeVar("_Answer")


class Recent(Generic[_Answer]):
    """Answers by what was asked.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Answer]) -> _Answer:
        """Return the answer for ``key``, made if it is not kept."""
        try:
            answer = self._answers[key]
        except KeyError:
            answer = self._answers[key] = make()
        with suppress(KeyError):  # another thread may have asked for so many others meanwhile
            self._answers.move_to_end(key)
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)
        return answer

    def clear(self) -> None:
        """Keep nothing."""
        self._answers.clear()
