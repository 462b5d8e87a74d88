"""Conversations as the token rows that training reads.

A row holds several conversations one after the other; each sees only itself and starts at position 0. Marked,
token by token, is what the model writes: what follows the last user message and is not the template's.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kimi_nb.nano.world import conversations
from kimi_nb.nano.world.text import NEVER, tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimi_nb.nano.world import Sample, Split

__all__ = ["ROW", "Batches"]

ROW = 1024  # tokens in a row, if nothing else is said; a longer conversation is left out


def _rows(samples: Iterator[Sample], count: int, length: int) -> dict[str, torch.Tensor]:
    """Fill rows of ``length`` tokens; each conversation goes to the first one that has room for it."""
    row = {name: np.zeros((count, length), np.int32) for name in ("tokens", "learn", "positions", "owner")}
    row["learn"][:] = NEVER  # padding
    row["owner"][:] = -1
    room = [length] * count
    misses = 0
    for number, sample in enumerate(samples):
        tokens, learn = tokens_of(sample)
        fit = next((place for place in range(count) if room[place] >= len(tokens)), None)
        if fit is None:
            misses += 1
            if misses > count // 4 + 2:
                break
            continue
        span = slice(length - room[fit], length - room[fit] + len(tokens))
        row["tokens"][fit, span] = tokens
        row["learn"][fit, span] = learn
        row["positions"][fit, span] = np.arange(len(tokens))
        row["owner"][fit, span] = number
        room[fit] -= len(tokens)
    return {name: torch.from_numpy(value) for name, value in row.items()}


class _Endless(IterableDataset[dict[str, torch.Tensor]]):
    def __init__(self, split: Split, rows: int, length: int, seed: int, start: int) -> None:
        self.split, self.rows, self.length, self.seed, self.start = split, rows, length, seed, start

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in itertools.count(self.start + (number - self.start) % of, of):
            yield _rows(conversations(self.seed * 1_000_000 + step, self.split), self.rows, self.length)


def Batches(  # noqa: N802 - reads as the class it returns
    split: Split, rows: int, seed: int, *, start: int = 0, workers: int = 0, length: int = ROW
) -> DataLoader[dict[str, torch.Tensor]]:
    """Return batches without end, the same for the same seed and step however many processes write them.

    Args:
        split: Which conversations.
        rows: Rows in a batch.
        seed: Seed of the conversations.
        start: The first step; batches before it are not made.
        workers: Processes that write ahead.
        length: Tokens in a row.

    Returns:
        A loader of dictionaries: ``tokens``, ``learn`` (see :mod:`kimi_nb.nano.world.text`; padding is
        never to be predicted), ``positions`` and ``owner`` (number of the conversation, -1 padding), each
        ``[rows, length]`` int32.
    """
    dataset = _Endless(split, rows, length, seed, start)
    ahead, pinned = 4 if workers else None, torch.cuda.is_available()
    return DataLoader(dataset, batch_size=None, num_workers=workers, pin_memory=pinned, prefetch_factor=ahead)
