"""Check a notebook's parameters in the cell right after them, with one clear line when one does not fit.

::

    from kimi_nb.run.params import between, check, one_of

    check(mode=one_of("thinking", "instant"), ctx=between(256, 262144))

The types are checked before the kernel starts (:func:`kimi_nb.run.check_parameters`); this is for what a type
cannot say, and it holds as well when somebody changes a value by hand.
"""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home
from kimi_nb.run.secrets import looks_secret

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ParameterError",
    "Rule",
    "at_least",
    "between",
    "check",
    "existing_file",
    "flag",
    "one_of",
    "text",
]


class ParameterError(UsageError):
    """A parameter's value is not one that the notebook can work with."""

    def _render_traceback_(self) -> list[str]:
        """Tell IPython to show the message alone: the way to this line through our code helps nobody."""
        return [str(self)]


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        needs: In words, after "must be".
        accepts: Whether a value will do.
        known: The values to suggest a near one from.
    """

    needs: str
    accepts: Callable[[Any], bool]
    known: tuple[Any, ...] = ()


def one_of(*values: str | float | bool | None) -> Rule:
    """Allow these values only."""
    return Rule(
        "one of " + ", ".join(map(repr, values)),
        lambda value: any(type(value) is type(one) and value == one for one in values),
        values,
    )


def between(low: float, high: float) -> Rule:
    """Allow numbers from ``low`` to ``high``, both included; whole numbers only if both are."""
    whole = isinstance(low, int) and isinstance(high, int)
    return Rule(
        f"a {'whole ' if whole else ''}number from {low} to {high}",
        lambda value: _is_number(value, whole=whole) and low <= value <= high,
    )


def at_least(low: float) -> Rule:
    """Allow numbers from ``low`` on; whole numbers only if it is one."""
    whole = isinstance(low, int)
    return Rule(
        f"a {'whole ' if whole else ''}number of at least {low}",
        lambda value: _is_number(value, whole=whole) and value >= low,
    )


def flag() -> Rule:
    """Allow True and False."""
    return Rule("True or False", lambda value: isinstance(value, bool))


def text(*, empty: bool = True) -> Rule:
    """Allow any text; ``empty`` says whether the empty one will do."""
    return Rule(
        "text" if empty else "text that is not empty",
        lambda value: isinstance(value, str) and (empty or bool(value.strip())),
    )


def existing_file(*, empty: bool = False) -> Rule:
    """Allow the path of a file or folder that is there; ``empty`` allows the empty text too."""

    def accepts(value: Any) -> bool:
        if value == "":
            return empty
        return isinstance(value, str | os.PathLike) and at_home(value).exists()

    return Rule("a file or folder that exists" + (" (or empty)" if empty else ""), accepts)


def check(**rules: Rule) -> None:
    """Check variables of the calling notebook, by name, and say nothing if all are in order.

    Args:
        **rules: What each parameter must be.

    Raises:
        ParameterError: One or more are not; the message names them all.
    """
    # The caller's variables: naming each value a second time would invite checking the wrong one.
    values = sys._getframe(1).f_globals  # noqa: SLF001 - there is no other way to them
    missing = [name for name in rules if name not in values]
    if missing:
        raise ParameterError(
            "KNB703",
            f"there is no parameter {missing[0]} to check",
            why="the parameters cell was not run, or declares it under another name",
            fix="Run the notebook from the top.",
        )
    wrong = [(name, values[name], rule) for name, rule in rules.items() if not rule.accepts(values[name])]
    if wrong:
        what = ", ".join(
            f"{name} is {'[masked]' if looks_secret(name) else repr(value)}" for name, value, _ in wrong
        )
        why = "; ".join(f"{name} must be {rule.needs}" for name, _, rule in wrong)
        hints = [hint for _, value, rule in wrong if (hint := _near(value, rule))]
        fix = " ".join([*hints, "Change it in the parameters cell and run again."])
        raise ParameterError("KNB708", f"a parameter does not fit: {what}", why=why, fix=fix)


def _is_number(value: Any, *, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _near(value: Any, rule: Rule) -> str:
    known = [one for one in rule.known if isinstance(one, str)]
    near = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"Did you mean {near[0]!r}?" if near else ""
