"""What must not be written down: secrets, found by the names of the variables that hold them."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kimi_nb.files import at_home

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TOKEN_SHAPES", "Secrets", "looks_secret"]

_NAME = re.compile(
    r"(?:^|_)(?:[a-z]*key|[a-z]*token|secret|password|passwd|passphrase|pat|auth|credentials?)(?:_|$)|_pwd$"
)
#: A name that ends like this tells where a secret is, or something about it, and not the secret.
_NOT = re.compile(
    r"(?:^|_)(?:env|file|path|dir|name|alias|id|sock|type|size|count|url|expiry|scope)$|^ssh_auth"
)

#: Keys that name their issuer by their first letters.
TOKEN_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-(?:proj-|ant-|or-v1-)?[A-Za-z0-9_-]{32,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{40,}|AKIA[0-9A-Z]{16}|xox[abpr]-[A-Za-z0-9-]{20,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)

#: Shorter values would be found inside ordinary words.
_LEAST = 8


def looks_secret(name: str) -> bool:
    """Tell whether a variable of this name may hold a secret: ``HF_TOKEN`` may, ``max_tokens`` does not."""
    name = name.lower()
    return _NAME.search(name) is not None and _NOT.search(name) is None


class Secrets:
    """Values to keep out of everything that is written.

    Args:
        parameters: A notebook's parameters; those whose names look secret are masked.
        environment: Where to look for secrets; the process's own environment by default.
    """

    def __init__(
        self, parameters: Mapping[str, Any] | None = None, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.found = 0
        named: dict[str, str] = {}
        sources: list[Mapping[str, Any]] = [
            os.environ if environment is None else environment,
            parameters or {},
        ]
        for source in sources:
            for name, value in source.items():
                if looks_secret(name) and isinstance(value, str) and len(value) >= _LEAST:
                    named.setdefault(value, name)
        if environment is None and (token := _hub_token()) is not None:
            named.setdefault(token, "Hugging Face token")
        # Longest first, so that a secret that contains another one is replaced whole.
        self._forms = {
            form: f"[masked: {named[value]}]"
            for value in sorted(named, key=len, reverse=True)
            for form in dict.fromkeys(
                (value, quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1])
            )
        }

    def mask(self, text: str) -> str:
        """Return ``text`` with every secret replaced by its name; :attr:`found` counts them."""
        for form, label in self._forms.items():
            if form in text:
                self.found += text.count(form)
                text = text.replace(form, label)
        text, count = TOKEN_SHAPES.subn("[masked: a key]", text)
        self.found += count
        return text

    def mask_tree(self, value: Any) -> Any:
        """Mask every string in a JSON value, keys included."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list):
            return [self.mask_tree(item) for item in value]
        if isinstance(value, dict):
            return {self.mask(key): self.mask_tree(item) for key, item in value.items()}
        return value

    def mask_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters fit for a record: those with a secret's name lose their value, however short."""
        return {
            name: "[masked]"
            if looks_secret(name) and isinstance(value, str) and value
            else self.mask_tree(value)
            for name, value in parameters.items()
        }


def _hub_token() -> str | None:
    """Return the token that ``hf auth login`` has stored, which huggingface_hub would use."""
    home = at_home(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    path = at_home(os.environ.get("HF_TOKEN_PATH") or home / "token")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return token if len(token) >= _LEAST else None
