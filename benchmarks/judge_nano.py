"""Judge nano on held-out conversations, through llama-server and the openai package.

``python benchmarks/judge_nano.py [--generations N] [--seed N] [--model FILE] [--sampled] [--show N]``. The
conversations use phrasings and names that training never saw. Each assistant message is asked for with the
true conversation before it, at temperature 0 or with the sampling that Kimi's makers recommend. After the
totals comes each kind of conversation by itself, then each held-out way to ask for a call: those of the
second edition are asked twice as often as the others.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

from kimi_nb.engine import LlamaServer
from kimi_nb.nano import nano_facts, nano_path
from kimi_nb.nano.exam import QUESTIONS, Tally, examine, held_out
from kimi_nb.nano.world import EDITION
from kimi_nb.nano.world.held import HELD
from kimi_nb.plan import Settings

TARGETS = {
    "decision": 0.97,
    "exact call": 0.93,
    "answer from result": 0.93,
    "mode obeyed": 1.0,
    "format kept": 1.0,
}
TARGETS_SAMPLED = {"format kept": 0.995}


def main() -> int:
    """Print the table; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=3000, help="assistant messages to ask for")
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--model", type=Path, help="another GGUF file than the shipped one")
    parser.add_argument("--sampled", action="store_true", help="recommended sampling, not temperature 0")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to show of each kind")
    args = parser.parse_args()
    targets = TARGETS_SAMPLED if args.sampled else TARGETS
    samples = held_out(args.seed, args.generations)
    if args.model is None and nano_facts()["world"] != EDITION:
        print(f"The shipped nano learnt edition {nano_facts()['world']} of the world; this is {EDITION}.")
    started = time.monotonic()
    settings = Settings(ctx_size=4096 * 4, parallel=4, threads=1)
    with LlamaServer(args.model or nano_path(), settings=settings, alias="nano") as server:
        tally = examine(server.engine, samples, sampled=args.sampled)
    where = f"{platform.machine()} {platform.system()}"
    print(f"{'held-out':<20}{'right':>7}{'of':>7}{'measured':>10}{'target':>9}   {where}")
    missed = False
    for question in QUESTIONS:
        right, seen = tally.count(question)
        target = targets.get(question)
        missed |= target is not None and right < target * seen
        share = f"{tally.share(question):.2%}"
        print(f"{question:<20}{right:>7}{seen:>7}{share:>10}{f'{target:.1%}' if target else '':>9}")
    for key in sorted(tally.seen):
        print(f"  {key[0]:<20}{key[1]:<14}{tally.right[key]:>5}/{tally.seen[key]}")
        for told in tally.wrong[key][: args.show]:
            print(f"      {told}")
    _by_phrasing(tally)
    how = "recommended sampling" if args.sampled else "temperature 0"
    spent = time.monotonic() - started
    print(f"{len(samples)} conversations, seed {args.seed}, {how}, in {spent:.0f} s")
    return int(missed)


def _by_phrasing(tally: Tally) -> None:
    print(f"exact calls by held-out phrasing{'old':>42}{'new':>12}")
    for key, held in HELD.items():
        for number, text in enumerate(held.test):
            name = f"{key}: {text}"
            right, wrong = tally.phrasings[name, True], tally.phrasings[name, False]
            print(f"  {name:<68}{' ' * 12 * bool(number)}{f'{right}/{right + wrong}':>9}")
    for what, first, last in (("the second edition's", 0, 1), ("the others", 1, 9)):
        names = [f"{key}: {text}" for key, held in HELD.items() for text in held.test[first:last]]
        right, wrong = (sum(tally.phrasings[name, ok] for name in names) for ok in (True, False))
        print(f"  {what:<22}{right}/{right + wrong} = {right / max(right + wrong, 1):.2%}")
    right, wrong = tally.phrasings["", True], tally.phrasings["", False]
    print(f"  second steps of chains: {right}/{right + wrong}")


if __name__ == "__main__":
    sys.exit(main())
