"""What a model is told when a call goes wrong, and what it then says.

The texts are those of :mod:`kimi_nb.chat`: its loop tells the model what a tool raised, that a person said no, or
that a limit was met; ``tests/test_nano_training.py`` holds them to it. Tools that report their own errors have many
ways to do so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world.words import made_up, ordinary

if TYPE_CHECKING:
    import random

    from kimi_nb.nano.world.families import Arguments
    from kimi_nb.nano.world.words import Split

__all__ = ["fault"]

_FAULTS = ("not found", "timeout", "service down", "no access", "rate limit", "unknown value", "no data", "not available",
           "bad request", "connection refused", "no such file", "internal error", "try again later")  # fmt: skip
_RAISED = ("ValueError", "ValueError", "KeyError", "RuntimeError", "OSError", "FileNotFoundError", "PermissionError",
           "ConnectionError", "TimeoutError", "TypeError", "LookupError")  # fmt: skip
_REFUSED = ("Field required", "Input should be a valid string", "Input should be a valid integer",
            "Input should be a valid number", "Extra inputs are not permitted")  # fmt: skip


def fault(
    rng: random.Random, split: Split, name: str, arguments: Arguments
) -> tuple[Any, str, tuple[str, ...]]:
    """Return what the call of ``name`` came back with, what is said about it, and what that must hold."""
    which = rng.choices(
        ("reported", "raised", "timeout", "refused", "not allowed", "over limit", "arguments"),
        (6, 5, 2, 2, 1, 1, 2),
    )[0]
    failed = f"The tool {name} failed: "
    told: Any
    must: tuple[str, ...]
    match which:
        case "reported":
            text = rng.choice(_FAULTS) if rng.random() < 0.6 else _reason(rng, split, arguments)
            told = rng.choice([{"error": text}, f"error: {text}", {"ok": False, "error": text},
                               {"status": "error", "message": text}, f"Error: {text}"])  # fmt: skip
            answer, must = f"{failed}{text}.", (name, text)
        case "raised":
            text = _reason(rng, split, arguments)
            told = f"{rng.choice(_RAISED)}: {text}"
            answer, must = f"{failed}{text}.", (name, text)
        case "timeout":
            limit = f"{rng.choice([0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, rng.randint(1, 300)]):.3g} s"
            told = f"the tool did not finish within {limit} and was given up"
            answer, must = f"The tool {name} did not finish within {limit}.", (name, limit)
        case "refused":
            told = f"the person did not approve this call of {name}"
            answer, must = f"I did not call {name}: you did not approve it.", (name, "did not approve")
        case "not allowed":
            told = f"{name} may not be used here"
            answer, must = f"I may not use {name} here.", ("may not", name)
        case "over limit":
            told = "not run: the limit of this conversation is reached; answer with what you have"
            answer, must = f"I did not call {name}: the limit is reached.", (name, "limit")
        case _:
            argument, why = rng.choice(list(arguments)), rng.choice(_REFUSED)
            if rng.random() < 0.7:
                why = f"Value error, {_reason(rng, split, arguments)}"
            told = f"{argument}: {why}. Call {name} again with arguments that fit its schema."
            why = why.removeprefix("Value error, ")
            answer, must = f"The tool {name} does not take this {argument}: {why}.", (name, argument, why)
    return told, answer, must


def _reason(rng: random.Random, split: Split, arguments: Arguments) -> str:
    """Return why something failed, in words that mostly name what was asked for."""
    value, thing = rng.choice(list(arguments.values())), ordinary(rng, split)
    return rng.choice(
        [
            f"there is no {thing} {value!r}" if isinstance(value, str) else f"{value} is too large",
            f"there is no {thing} in {value}",
            f"unknown {thing} {value}",
            f"{value} not found",
            f"no {thing} for {value}",
            f"{thing} {made_up(rng, split)} is not available",
            f"the {thing} is empty",
            f"{value} is not a {thing}",
        ]
    )
