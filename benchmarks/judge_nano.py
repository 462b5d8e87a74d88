"""Judge nano on held-out conversations, through llama-server and the openai package.

``python benchmarks/judge_nano.py [--samples N] [--model FILE]``. The conversations use phrasings, names and numbers
that training never saw. Each assistant message is asked for with the true conversation before it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import openai

from kimi_nb.engine import Engine, LlamaServer
from kimi_nb.model import encode_tools
from kimi_nb.nano import nano_path
from kimi_nb.nano.world import Sample, conversations
from kimi_nb.plan import Settings

MARKERS = ("<|", "<think>", "</think>", "functions.")
TARGETS = {
    "decision": 0.97,
    "exact call": 0.93,
    "answer from result": 0.93,
    "mode obeyed": 1.0,
    "format kept": 1.0,
}


@dataclass
class Tally:
    """Right and wrong, by question and by kind of conversation, with a few wrong ones kept to look at."""

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, question: str, kind: str, *, ok: bool, told: str) -> None:
        """Count one judgement."""
        self.seen[question, kind] += 1
        self.right[question, kind] += ok
        if not ok:
            self.wrong[question, kind].append(told)

    def share(self, question: str) -> tuple[int, int]:
        """Return right and seen of one question over all kinds."""
        keys = [key for key in self.seen if key[0] == question]
        return sum(self.right[key] for key in keys), sum(self.seen[key] for key in keys)


def judge(client: openai.OpenAI, sample: Sample, tally: Tally, sampling: dict[str, float]) -> None:
    """Ask for every assistant message after the last user message and compare."""
    last_user = max(n for n, message in enumerate(sample.messages) if message["role"] == "user")
    for number, wanted in enumerate(sample.messages):
        if number <= last_user or wanted["role"] != "assistant":
            continue
        switch: dict[str, object] = {} if sample.thinking else {"thinking": False}
        extra: dict[str, object] = {"chat_template_kwargs": switch}
        if sample.tools:
            extra["tools"] = sample.tools
            switch["tools_ts_str"] = encode_tools(sample.tools)
        asked = sample.messages[last_user]["content"]
        try:
            reply = client.chat.completions.create(
                model="nano", messages=sample.messages[:number], max_tokens=300, extra_body=extra, **sampling
            )  # fmt: skip
        except openai.OpenAIError as error:
            tally.add("format kept", sample.kind, ok=False, told=f"{asked!r}: {error}")
            continue
        choice = reply.choices[0]
        content = choice.message.content or ""
        thought = (choice.message.model_extra or {}).get("reasoning_content") or ""
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or []]
        goal = [
            (c["function"]["name"], json.loads(c["function"]["arguments"]))
            for c in wanted.get("tool_calls", [])
        ]
        told = f"{asked!r} -> {calls or content!r} wanted {goal or wanted['content']!r} thought {thought!r}"
        tally.add("decision", sample.kind, ok=bool(calls) == bool(goal), told=told)
        whole = choice.finish_reason in {"stop", "tool_calls"} and not any(
            mark in content for mark in MARKERS[:3]
        )
        tally.add("format kept", sample.kind, ok=whole, told=told)
        tally.add("mode obeyed", sample.kind, ok=bool(thought) == sample.thinking, told=told)
        if goal:
            tally.add("exact call", sample.kind, ok=calls == goal, told=told)
        elif sample.messages[number - 1]["role"] == "tool":
            tally.add(
                "answer from result",
                sample.kind,
                ok=all(part in content for part in sample.must_say),
                told=told,
            )
        else:
            tally.add(
                "plain answer", sample.kind, ok=all(part in content for part in sample.must_say), told=told
            )


def run(engine: Engine, count: int, seed: int, sampling: dict[str, float]) -> Tally:
    """Judge ``count`` conversations, four at a time."""
    tally = Tally()
    samples = list(itertools.islice(conversations(seed, "test"), count))
    with (
        openai.OpenAI(base_url=engine.base_url, api_key=engine.api_key, max_retries=0) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda sample: judge(client, sample, tally, sampling), samples))
    return tally


def main() -> int:
    """Print the table; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--model", type=Path)
    parser.add_argument(
        "--sampled", action="store_true", help="Kimi's recommended sampling instead of temperature 0"
    )
    parser.add_argument("--show", type=int, default=0, help="wrong answers to show of each kind")
    args = parser.parse_args()
    sampling = {"temperature": 1.0, "top_p": 0.95} if args.sampled else {"temperature": 0.0}
    started = time.monotonic()
    settings = Settings(ctx_size=4096 * 4, parallel=4)
    with LlamaServer(args.model or nano_path(), settings=settings, alias="nano") as server:
        tally = run(server.engine, args.samples, args.seed, sampling)
    print(
        f"{'held-out':<20}{'right':>7}{'of':>7}{'measured':>10}{'target':>9}   {platform.machine()} {platform.system()}"
    )
    missed = False
    for question in (
        "decision",
        "exact call",
        "answer from result",
        "plain answer",
        "mode obeyed",
        "format kept",
    ):
        right, seen = tally.share(question)
        target = TARGETS.get(question)
        missed |= target is not None and right < target * seen
        print(
            f"{question:<20}{right:>7}{seen:>7}{right / max(seen, 1):>10.2%}{'' if target is None else f'{target:.0%}':>9}"
        )
    for key in sorted(tally.seen):
        if tally.right[key] < tally.seen[key]:
            print(f"  {key[0]:<20}{key[1]:<14}{tally.right[key]:>5}/{tally.seen[key]}")
            for told in tally.wrong[key][: args.show]:
                print(f"      {told}")
    print(f"{args.samples} conversations in {time.monotonic() - started:.0f} s, {sampling}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
