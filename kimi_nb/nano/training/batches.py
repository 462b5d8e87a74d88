"""Conversations as the token rows that training reads.

A row holds several conversations one after the other; each sees only itself and starts at position 0. What the model
is to write is marked, token by token: everything after the last user message that is not put there by the template.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kimi_nb.model import prompt
from kimi_nb.model.tools_ts import encode_tools
from kimi_nb.nano.vocab import vocabulary
from kimi_nb.nano.world import Sample, Split, conversations

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ROW", "Batches", "pieces", "tokens_of"]

ROW = 1024
"""Tokens in a row. A longer conversation is left out."""


def pieces(sample: Sample) -> list[tuple[str, bool]]:
    """Return a conversation's text in Kimi's format, in pieces, each with whether the model writes it.

    Joined up to a piece that the model writes, the text is the prompt llama-server makes of the messages before it;
    ``tests/test_nano_training.py`` holds it to that.
    """
    start = max(number for number, message in enumerate(sample.messages) if message["role"] == "user")
    finished = [n for n, m in enumerate(sample.messages) if m["role"] == "assistant" and "tool_calls" not in m]
    last_answer = max((number for number in finished if number < start), default=-1)
    text = ""
    done: list[tuple[str, bool]] = []
    if sample.tools:
        text += f"{prompt.IM_SYSTEM}tool_declare{prompt.IM_MIDDLE}{encode_tools(sample.tools)}{prompt.IM_END}"
    if sample.messages[0]["role"] != "system":
        text += f"{prompt.IM_SYSTEM}system{prompt.IM_MIDDLE}{prompt.DEFAULT_SYSTEM}{prompt.IM_END}"
    for number, message in enumerate(sample.messages):
        content = message["content"]
        match message["role"]:
            case "system":
                text += f"{prompt.IM_SYSTEM}system{prompt.IM_MIDDLE}{content}{prompt.IM_END}"
            case "user":
                text += f"{prompt.IM_USER}user{prompt.IM_MIDDLE}{content}{prompt.IM_END}"
            case "tool":
                text += f"{prompt.IM_SYSTEM}tool{prompt.IM_MIDDLE}## Return of {message['tool_call_id']}\n{content}"
                text += prompt.IM_END
            case _:
                text += f"{prompt.IM_ASSISTANT}assistant{prompt.IM_MIDDLE}{prompt.THINK_BEGIN}"
                thought = message["reasoning_content"] if sample.thinking and number > last_answer else ""
                written = f"{content}{_calls(message)}{prompt.IM_END}"
                if sample.thinking:
                    written = f"{thought}{prompt.THINK_END}{written}"
                else:
                    text += prompt.THINK_END
                if number > start:
                    done += [(text, False), (written, True)]
                    text = ""
                else:
                    text += written
    return done


def _calls(message: dict[str, Any]) -> str:
    if not message.get("tool_calls"):
        return ""
    inner = "".join(
        f"{prompt.CALL_BEGIN}{call['id']}{prompt.CALL_ARGUMENT_BEGIN}{call['function']['arguments']}{prompt.CALL_END}"
        for call in message["tool_calls"]
    )
    return f"{prompt.CALLS_BEGIN}{inner}{prompt.CALLS_END}"


def tokens_of(sample: Sample) -> tuple[list[int], list[int]]:
    """Return a conversation's tokens, and 1 for each token the model writes."""
    tokens: list[int] = []
    learn: list[int] = []
    for text, written in pieces(sample):
        ids = vocabulary().encode(text)
        tokens += ids
        learn += [int(written)] * len(ids)
    return tokens, learn


def _rows(samples: Iterator[Sample], count: int) -> dict[str, torch.Tensor]:
    """Fill ``count`` rows; each conversation goes to the first row that has room for it."""
    row = {name: np.zeros((count, ROW), dtype=np.int32) for name in ("tokens", "learn", "positions", "owner")}
    row["learn"][:] = 2  # padding: counts for nothing
    row["owner"][:] = -1
    room = [ROW] * count
    misses = 0
    for number, sample in enumerate(samples):
        tokens, learn = tokens_of(sample)
        fit = next((place for place in range(count) if room[place] >= len(tokens)), None)
        if fit is None:
            misses += 1
            if misses > count // 4 + 2:
                break
            continue
        span = slice(ROW - room[fit], ROW - room[fit] + len(tokens))
        row["tokens"][fit, span] = tokens
        row["learn"][fit, span] = learn
        row["positions"][fit, span] = np.arange(len(tokens))
        row["owner"][fit, span] = number
        room[fit] -= len(tokens)
    return {name: torch.from_numpy(value) for name, value in row.items()}


class _Endless(IterableDataset[dict[str, torch.Tensor]]):
    def __init__(self, split: Split, rows: int, seed: int, start: int) -> None:
        self.split, self.rows, self.seed, self.start = split, rows, seed, start

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in itertools.count(self.start + (number - self.start) % of, of):
            yield _rows(conversations(self.seed * 1_000_000 + step, self.split), self.rows)


def Batches(  # noqa: N802 - reads as the class it returns
    split: Split, rows: int, seed: int, *, start: int = 0, workers: int = 0
) -> DataLoader[dict[str, torch.Tensor]]:
    """Return batches without end, the same for the same seed and step however many processes write them.

    Args:
        split: Which conversations.
        rows: Rows of :data:`ROW` tokens in a batch.
        seed: Seed of the conversations.
        start: The first step; batches before it are not made.
        workers: Processes that write ahead.

    Returns:
        A loader of dictionaries: ``tokens``, ``learn`` (1 written by the model, 0 prompt, 2 padding), ``positions``
        and ``owner`` (number of the conversation, -1 padding), each ``[rows, ROW]`` int32.
    """
    dataset = _Endless(split, rows, seed, start)
    ahead = {"prefetch_factor": 4} if workers else {}
    return DataLoader(dataset, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available(), **ahead)  # type: ignore[arg-type]
