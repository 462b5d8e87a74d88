"""Every error this package raises on purpose.

The tree::

    KimiNbError                 what happened, why, and what to do, in one line, with an id
    ├── UsageError              the call itself was wrong: exit code 2
    ├── SystemRefusedError      the operating system refused a step                   KNB002
    ├── BuildError              llama.cpp could not be built                          KNB2xx
    ├── ModelFileError          a GGUF file is not what it should be                  KNB3xx
    ├── DownloadError           files could not be fetched or verified                KNB4xx
    ├── ServerError             llama-server could not be started or has ended        KNB5xx
    ├── ChatError               a request to an engine failed, or its answer is void  KNB6xx
    ├── RunError                a notebook run could not be made                      KNB7xx
    └── RehearsalError          what running a model would take could not be tried    KNB8xx

Each id is explained further in ``kimi_nb/troubles/*.toml``; notebook ``07_troubleshooting`` shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

__all__ = [
    "BuildError",
    "ChatError",
    "DownloadError",
    "KimiNbError",
    "ModelFileError",
    "RehearsalError",
    "RunError",
    "ServerError",
    "SystemRefusedError",
    "Trouble",
    "UsageError",
    "troubles",
]


class KimiNbError(Exception):
    """An error with an id, written for the person who has to act on it.

    Args:
        id: ``KNB`` and three digits; must have an entry in ``kimi_nb/troubles``.
        what: What happened, without a full stop.
        why: The cause as far as it is known, without a full stop.
        fix: What to do about it: one sentence or one command.
    """

    exit_code = 1

    def __init__(self, id: str, what: str, *, why: str, fix: str) -> None:  # noqa: A002 - the usual name
        super().__init__(id, what, why, fix)
        self.id = id
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        line = f"{self.id}: {self.what}: {self.why}. {self.fix}"
        return " ".join(line.split())

    def as_dict(self) -> dict[str, str]:
        """Return the error's fields, as ``--json`` prints them."""
        return {"id": self.id, "what": self.what, "why": self.why, "fix": self.fix}


class UsageError(KimiNbError):
    """The call was wrong: a misspelt parameter, a value out of range, a file that is not there."""

    exit_code = 2


class SystemRefusedError(KimiNbError):
    """The operating system refused something that no other error of ours foresees: a full disk, a permission.

    Args:
        error: What it said.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(
            "KNB002",
            "the system refused a step" if error.filename is None else f"the system refused {error.filename}",
            why=error.strerror or str(error),
            fix="Look at the disk, its room and its permissions, then run the same command again.",
        )


class BuildError(KimiNbError):
    """llama.cpp could not be built."""


class ModelFileError(KimiNbError):
    """A GGUF file is not what it should be."""


class DownloadError(KimiNbError):
    """Files could not be fetched or verified."""


class ServerError(KimiNbError):
    """llama-server could not be started, or has ended."""


class ChatError(KimiNbError):
    """A request to an engine failed, or its answer cannot be used."""


class RunError(KimiNbError):
    """A notebook run could not be made."""


class RehearsalError(KimiNbError):
    """What running a model would take could not be tried out."""


@dataclass(frozen=True)
class Trouble:
    """What the troubleshooting notebook says of one error id."""

    id: str
    title: str
    explanation: str


@cache
def troubles() -> dict[str, Trouble]:
    """Read every known trouble, by id, in the order of the ids."""
    # Imported here, since every command imports this module, and few read the troubles.
    import tomllib
    from importlib.resources import files

    found: dict[str, Trouble] = {}
    for source in sorted(files("kimi_nb").joinpath("troubles").iterdir(), key=lambda path: path.name):
        if not source.name.endswith(".toml"):
            continue
        for id_, entry in tomllib.loads(source.read_text(encoding="utf-8")).items():
            found[id_] = Trouble(id_, entry["title"], entry["explanation"])
    return dict(sorted(found.items()))
