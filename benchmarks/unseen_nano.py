"""Show what each held-out phrasing of nano's world has that training never says.

``python benchmarks/unseen_nano.py [--samples N] [--seed N] [--counts]``. From that many conversations of
training, the words of all user messages are taken, and their pairs of neighbours; what a tool is called with
is a blank, ``{}``, as the places of a phrasing are, and ``<`` and ``>`` are the two ends. A Chinese character
counts as a word. ``--counts`` counts each family's phrasings as well. Exit 1 if a word of a held-out phrasing
is in no message, or the whole of one is in a message.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys

from kimi_nb.nano.world import conversations, phrasings
from kimi_nb.nano.world.held import HELD

_BLANK = "{}"
_WORD = re.compile(r"\{\}|[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+(?:'[a-z]+)?|\d+")


def words_of(text: str) -> list[str]:
    """Return the words of a phrasing, or of a message whose values are blanks, between marks of its ends."""
    return ["<", *_WORD.findall(re.sub(r"\{\w*\}", _BLANK, text).lower()), ">"]


def asked(seed: int, count: int) -> list[str]:
    """Return the user messages of so many training conversations, with blanks for what tools are given."""
    texts = []
    for sample in itertools.islice(conversations(seed, "train"), count):
        values: list[str] = []
        for message in reversed(sample.messages):
            for call in message.get("tool_calls", ()):
                values += map(str, json.loads(call["function"]["arguments"]).values())
            if message["role"] == "user":
                text = message["content"]
                for value in sorted(values, key=len, reverse=True):
                    text = text.replace(value, _BLANK)
                texts.append(text)
                values = []
    return texts


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000, help="conversations of training to look at")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--counts", action="store_true", help="count the phrasings of each family, too")
    args = parser.parse_args()
    if args.counts:
        _count()
    known, pairs, whole = set(), set(), set()
    for text in asked(args.seed, args.samples):
        words = words_of(text)
        known |= set(words)
        pairs |= set(itertools.pairwise(words))
        whole.add(tuple(words))
    missing = said = 0
    print(f"{'family':<16}{'held-out phrasing':<58}{'unseen words':<22}unseen pairs")
    for key, held in HELD.items():
        for phrasing in held.test:
            words = words_of(phrasing)
            words_unseen = [word for word in words if word not in known]
            pairs_unseen = [" ".join(pair) for pair in itertools.pairwise(words) if pair not in pairs]
            missing += bool(words_unseen)
            said += tuple(words) in whole
            print(
                f"{key:<16}{phrasing:<58}{', '.join(words_unseen) or '-':<22}{', '.join(pairs_unseen) or '-'}"
            )
    print(
        f"{missing} phrasings with a word that is never said, {said} said as a whole; {args.samples} samples"
    )
    return int(bool(missing or said))


def _count() -> None:
    for key, asked_for in phrasings().items():
        print(f"{key:<16}{sum(1 for _ in asked_for.all()):>8,} phrasings in training")


if __name__ == "__main__":
    sys.exit(main())
