"""Examine nano on held-out conversations, through a server and the openai package."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from kimi_nb.model import encode_tools, in_kimis_order
from kimi_nb.nano.world import conversations
from kimi_nb.nano.world.held import HELD
from kimi_nb.nano.world.phrasing import skeleton

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openai

    from kimi_nb.engine import Engine
    from kimi_nb.nano.world import Sample

__all__ = ["QUESTIONS", "Tally", "examine", "held_out", "phrasing_of"]

QUESTIONS = ("decision", "exact call", "answer from result", "plain answer", "mode obeyed", "format kept")
"""What is asked of each generation: was it right to call a tool or not, are names and arguments right to the
last character, does the answer say what the tool said (or what is known), did it think or not as told, and
did the server's parser find a whole answer in Kimi's format."""

_MARKERS = ("<|", "<think>", "</think>")
_LONGEST = 300


@dataclass
class Tally:
    """Right and wrong, by question and by kind of conversation, with the wrong ones kept to look at."""

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    phrasings: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Of the exact calls: held-out phrasing and whether it was right."""

    def add(self, question: str, kind: str, *, ok: bool, told: str) -> None:
        """Count one judgement."""
        self.seen[question, kind] += 1
        self.right[question, kind] += ok
        if not ok:
            self.wrong[question, kind].append(told)

    def count(self, question: str) -> tuple[int, int]:
        """Return right and seen of one question over all kinds."""
        keys = [key for key in self.seen if key[0] == question]
        return sum(self.right[key] for key in keys), sum(self.seen[key] for key in keys)

    def share(self, question: str) -> float:
        """Return the share of right ones, from 0 to 1."""
        right, seen = self.count(question)
        return right / max(seen, 1)


def held_out(seed: int, generations: int) -> list[Sample]:
    """Return held-out conversations that ask for at least so many assistant messages in all."""
    samples: list[Sample] = []
    asked = 0
    for sample in conversations(seed, "test"):
        samples.append(sample)
        asked += len(_asked(sample))
        if asked >= generations:
            break
    return samples


def examine(engine: Engine, samples: Sequence[Sample], *, sampled: bool = False, at_once: int = 4) -> Tally:
    """Ask for every assistant message after the last user message of each conversation, and compare.

    Args:
        engine: A server with nano.
        samples: The conversations, such as :func:`held_out` gives.
        sampled: Sample as Kimi's makers recommend, instead of temperature 0.
        at_once: Requests at a time.
    """
    import openai

    tally = Tally()
    with (
        openai.OpenAI(base_url=engine.base_url, api_key=engine.api_key, max_retries=0) as client,
        ThreadPoolExecutor(at_once) as pool,
    ):
        for _ in pool.map(lambda sample: _judge(client, sample, tally, sampled=sampled), samples):
            pass
    return tally


def phrasing_of(asked: str, calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return which held-out phrasing a question is, as ``clock: Is it late in {city}?``; "" for none."""
    values = [str(value) for _, given in calls for value in given.values()]
    for value in sorted(values, key=len, reverse=True):
        asked = asked.replace(value, "{}")
    return _phrasings().get(skeleton(asked), "")


@cache
def _phrasings() -> dict[str, str]:
    return {skeleton(text): f"{key}: {text}" for key, held in HELD.items() for text in held.test}


def _asked(sample: Sample) -> list[int]:
    """Return which messages are asked for: the assistant's after the last one of the user."""
    last_user = max(number for number, message in enumerate(sample.messages) if message["role"] == "user")
    return [n for n, m in enumerate(sample.messages) if n > last_user and m["role"] == "assistant"]


def _judge(client: openai.OpenAI, sample: Sample, tally: Tally, *, sampled: bool) -> None:
    for number in _asked(sample):
        _judge_one(client, sample, number, tally, sampled=sampled)


def _judge_one(client: openai.OpenAI, sample: Sample, number: int, tally: Tally, *, sampled: bool) -> None:
    import openai

    wanted, kind = sample.messages[number], sample.kind
    asked = [message["content"] for message in sample.messages[:number] if message["role"] == "user"][-1]
    try:
        reply = client.chat.completions.create(**_request(sample, number, sampled=sampled))
        message = reply.choices[0].message
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]
    except (openai.OpenAIError, ValueError) as error:  # ValueError: arguments that are not JSON
        tally.add("format kept", kind, ok=False, told=f"{asked!r}: {error}")
        return
    content = message.content or ""
    thought = (message.model_extra or {}).get("reasoning_content") or ""
    goal = [
        (c["function"]["name"], json.loads(c["function"]["arguments"])) for c in wanted.get("tool_calls", [])
    ]
    told = f"{asked!r} -> {calls or content!r} wanted {goal or wanted['content']!r} thought {thought!r}"
    whole = reply.choices[0].finish_reason in {"stop", "tool_calls"}
    whole = whole and not any(marker in content + thought for marker in _MARKERS)
    tally.add("format kept", kind, ok=whole, told=told)
    tally.add("decision", kind, ok=bool(calls) == bool(goal), told=told)
    tally.add("mode obeyed", kind, ok=bool(thought) == sample.thinking, told=told)
    if goal:
        tally.add("exact call", kind, ok=calls == goal, told=told)
        tally.phrasings[phrasing_of(asked, goal), calls == goal] += 1
    else:
        after_tool = sample.messages[number - 1]["role"] == "tool"
        question = "answer from result" if after_tool else "plain answer"
        tally.add(question, kind, ok=all(part in content for part in sample.must_say), told=told)


def _request(sample: Sample, number: int, *, sampled: bool) -> dict[str, Any]:
    switch: dict[str, Any] = {} if sample.thinking else {"thinking": False}
    extra: dict[str, Any] = {"chat_template_kwargs": switch, "min_p": 0.01 if sampled else 0.0}
    if sample.tools:
        extra["tools"] = in_kimis_order(sample.tools)
        switch["tools_ts_str"] = encode_tools(sample.tools)
    sampling = (
        {"temperature": 1.0 if sample.thinking else 0.6, "top_p": 0.95} if sampled else {"temperature": 0.0}
    )
    messages = sample.messages[:number]
    return {"model": "nano", "messages": messages, "max_tokens": _LONGEST, "extra_body": extra, **sampling}
