"""Settings on a command line: every knob under llama.cpp's own flag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.plan.knobs import Choice, Flag, Switch
from kimi_nb.plan.settings import Settings

if TYPE_CHECKING:
    import argparse

__all__ = ["add_settings", "read_settings"]

_PREFIX = "setting_"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` every setting as an option."""
    import argparse

    # All of them would fill a screen before the help itself begins.
    usage = parser.format_usage().removeprefix("usage: ").rstrip().replace("%", "%%")
    parser.usage = f"{usage}\n{' ' * (len(parser.prog) + 8)}[llama.cpp's settings: see below]"
    group = parser.add_argument_group("llama.cpp's settings", "What is not given is left to llama.cpp.")
    for name, knob in Settings.knobs().items():
        about = knob.about.replace("%", "%%")
        if isinstance(knob, Flag):
            group.add_argument(knob.flag, dest=_PREFIX + name, action="store_const", const=True, help=about)
        elif isinstance(knob, Switch):
            group.add_argument(
                knob.flag,
                dest=_PREFIX + name,
                action=argparse.BooleanOptionalAction,
                default=None,
                help=about,
            )
        else:
            words = f"{{{','.join(knob.words)}}}" if isinstance(knob, Choice) else knob.placeholder
            group.add_argument(knob.flag, dest=_PREFIX + name, metavar=words, help=about)


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the settings that were given.

    Raises:
        UsageError: A value is not what the option takes, or two settings exclude each other.
    """
    values: dict[str, Any] = {}
    for name, knob in Settings.knobs().items():
        given = getattr(args, _PREFIX + name, None)
        if given is None:
            continue
        try:
            values[name] = knob.from_text(given) if isinstance(given, str) else given
        except ValueError as error:
            raise UsageError(
                "KNB501",
                f"{knob.flag} cannot be {given!r}",
                why=str(error),
                fix=f"Change {knob.flag} ({knob.about}), or leave it out.",
            ) from None
    return Settings(**values)
