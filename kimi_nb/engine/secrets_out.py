"""Keeping secrets out of logs, and out of the environment of programs that do not need them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["HIDDEN", "environment_secrets", "redactor", "without_secrets"]

#: What stands in place of a secret.
HIDDEN = "[secret]"

_SECRET_NAME = re.compile(
    r"token|secret|passw|credential|api_?key|access_?key|private_?key|auth(?!or)", re.IGNORECASE
)
#: A shorter value is more likely a word that occurs elsewhere, such as "none".
_SHORTEST = 8
_SHAPES = re.compile(
    r"(?P<keep>\bbearer\s+|api_keys: \*+)\S+"  # llama-server logs the last four letters of a key at -lv 4
    r"|\b(?:sk|hf|ghp|gho|github_pat|glpat|xox[abp]|nvapi)[-_][A-Za-z0-9_-]{16,}",
    re.IGNORECASE,
)


def environment_secrets(environment: Mapping[str, str] | None = None) -> set[str]:
    """Return the values in an environment (ours by default) that their names call secret."""
    pairs = (os.environ if environment is None else environment).items()
    return {value for name, value in pairs if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of an environment without what its names call secret."""
    return {name: value for name, value in environment.items() if not _SECRET_NAME.search(name)}


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that replaces the given secrets, and whatever looks like one, in a text."""
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    exact = re.compile("|".join(map(re.escape, known))) if known else None

    def redact(text: str) -> str:
        if exact is not None:
            text = exact.sub(HIDDEN, text)
        return _SHAPES.sub(lambda found: (found["keep"] or "") + HIDDEN, text)

    return redact
