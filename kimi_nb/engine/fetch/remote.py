"""Ask the Hub what there is.

Two requests and their retries, made with our own :class:`~kimi_nb.engine.fetch.wire.Wire`: importing
huggingface_hub takes longer than both, it fixes ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` when it is imported,
and its ``model_info`` gives up at the first 503.
"""

from __future__ import annotations

import fnmatch
import http.client
import json
import os
import re
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from kimi_nb.engine.fetch.manifest import Manifest, RemoteFile, safe_name
from kimi_nb.engine.fetch.pace import backoff_s
from kimi_nb.engine.fetch.trouble import (
    from_answer,
    no_files,
    no_repository,
    not_a_hub,
    offline,
    plain_words,
    unreachable,
)
from kimi_nb.engine.fetch.wire import Answer, Wire
from kimi_nb.errors import UsageError
from kimi_nb.files import at_home

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Hub", "choose", "endpoint_of", "is_offline", "quant_of", "quants", "token_of"]

TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524}
TRIES = 6

_TRUE = {"1", "ON", "YES", "TRUE"}
_REPO = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="next"')


def endpoint_of(endpoint: str | None) -> str:
    """Return the Hub to talk to: ``endpoint``, else ``HF_ENDPOINT``, else the public Hub.

    Raises:
        UsageError: It is no plain http or https address (KNB406).
    """
    found = (endpoint or os.environ.get("HF_ENDPOINT") or _public_hub()).strip().rstrip("/")
    parts = urlsplit(found)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise UsageError(
            "KNB406",
            "the Hub's address cannot be used",
            why="HF_ENDPOINT must read https://host or http://host:port, without a login in it",
            fix="Correct HF_ENDPOINT, or unset it for the public Hub; a token goes into HF_TOKEN.",
        )
    return found


def _public_hub() -> str:
    from huggingface_hub import constants  # it knows its own address; this module of it is a light one

    return str(constants.HUGGINGFACE_CO_URL_HOME)


def token_of(token: str | None) -> str | None:
    """Return the token to send: ``token``, else what huggingface_hub would find."""
    if token is not None:
        return _plain(token)
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if value := _plain(os.environ.get(name, "")):
            return value
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    )
    if not at_home(os.environ.get("HF_TOKEN_PATH") or home / "token").is_file():
        return None
    from huggingface_hub import get_token  # it renews a token that came from a browser login

    return get_token()


def _plain(token: str) -> str | None:
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            "KNB403",
            "the token cannot be sent",
            why="it holds spaces or characters that no token has",
            fix="Copy it again from the Hub's settings page, and set HF_TOKEN to it.",
        )
    return token or None


def is_offline() -> bool:
    """Tell whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids the network."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


class Hub:
    """The Hub's API, as far as a download needs it.

    Args:
        endpoint: The Hub to ask.
        token: Sent to that Hub only; none if it is empty, and what huggingface_hub would find by default.
        timeout_s: For one answer.
        backoff: Seconds before the first retry.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        backoff: float = 0.5,
    ) -> None:
        self.endpoint = endpoint_of(endpoint)
        self.token = token_of(token)
        self._timeout_s = timeout_s
        self._backoff = backoff

    def manifest(
        self, repo: str, quant: str | None, *, patterns: Sequence[str] = (), revision: str | None = None
    ) -> Manifest:
        """Pin a revision to its commit and list the files of one quant with their sizes and hashes.

        Args:
            repo: ``namespace/name``.
            quant: Such as ``UD-TQ1_0``; ``None`` when ``patterns`` choose.
            patterns: Shell patterns over the paths in the repository, added to the quant's files.
            revision: Branch, tag or commit; ``main`` by default.

        Raises:
            DownloadError: Not found (KNB401, KNB404, KNB405), no access (KNB402, KNB403), no network (KNB406,
                KNB407).
            UsageError: Neither a quant nor patterns were given (KNB405), or the name is malformed (KNB401).
        """
        if quant is None and not patterns:
            raise UsageError(
                "KNB405",
                "no quant was named",
                why="a repository holds many",
                fix="Give a quant or file patterns.",
            )
        info = self.info(repo, revision)
        listed = self.tree(repo, str(info["sha"]))
        chosen = choose(repo, listed, quant, patterns)
        names = {file.path for file in chosen}
        card = info.get("cardData") or {}
        return Manifest(
            repo=repo,
            quant=quant or " ".join(patterns),
            patterns=tuple(patterns),
            revision=revision or "main",
            commit=str(info["sha"]),
            files=tuple(sorted(chosen, key=lambda file: file.path)),
            others=tuple((f.path, f.size, f.sha256) for f in listed if f.sha256 and f.path not in names),
            endpoint=self.endpoint,
            license=card.get("license_name") or card.get("license"),
            license_url=card.get("license_link"),
        )

    def info(self, repo: str, revision: str | None = None) -> dict[str, Any]:
        """Return what the Hub says of a repository at a revision; its commit hash is under ``sha``."""
        if not _REPO.fullmatch(repo):
            raise UsageError(
                "KNB401",
                f"{repo!r} is no repository name",
                why="it must read namespace/name",
                fix="Copy the name from the repository's page.",
            )
        value, _ = self._json(
            f"/api/models/{repo}/revision/{quote(revision or 'main', safe='')}", repo, revision
        )
        if not isinstance(value, dict) or not _COMMIT.fullmatch(str(value.get("sha"))):
            raise not_a_hub(repo)
        return value

    def tree(self, repo: str, commit: str, folder: str = "") -> list[RemoteFile]:
        """Return every file of a commit, or of one folder of it."""
        found: list[RemoteFile] = []
        path = (
            f"/api/models/{repo}/tree/{commit}/{quote(folder)}".rstrip("/") + "?recursive=true&expand=false"
        )
        while path:
            entries, more = self._json(path, repo, commit)
            if not isinstance(entries, list):
                raise not_a_hub(repo)
            try:
                found += [_file(entry) for entry in entries if entry["type"] == "file"]
            except (KeyError, TypeError, ValueError, AttributeError):
                raise not_a_hub(repo) from None
            path = more
        return found

    def commits(self, repo: str, revision: str = "main") -> list[dict[str, Any]]:
        """Return the newest commits of a branch: each with ``id``, ``title`` and ``date``."""
        value, _ = self._json(f"/api/models/{repo}/commits/{quote(revision, safe='')}", repo, revision)
        return cast("list[dict[str, Any]]", value) if isinstance(value, list) else []

    def xet_token(self, repo: str, commit: str) -> tuple[str, str, int]:
        """Return Xet storage's address, a token for it and the time that token ends."""
        value, _ = self._json(f"/api/models/{repo}/xet-read-token/{commit}", repo, commit)
        try:
            return str(value["casUrl"]), str(value["accessToken"]), int(value["exp"])
        except (KeyError, TypeError, ValueError):
            raise not_a_hub(repo) from None

    def _json(self, path: str, repo: str, revision: str | None) -> tuple[Any, str]:
        """Return a JSON answer and the path of its next page, if there is one."""
        if is_offline():
            raise offline(f"the list of files of {repo}")
        url, why = self.endpoint + path, ""
        with Wire(self.endpoint, self.token, timeout=self._timeout_s) as wire:
            for attempt in range(TRIES):
                try:
                    answer = wire.follow(url)
                    body = answer.read_all(limit=256 * 1024 * 1024)
                except (OSError, http.client.HTTPException) as error:
                    why, wait = plain_words(error), None
                else:
                    if answer.status not in TRANSIENT:
                        return self._parsed(answer, body, repo, revision)
                    why, wait = f"it answered HTTP {answer.status}", answer.retry_after()
                if attempt + 1 < TRIES:
                    time.sleep(max(wait or 0.0, backoff_s(attempt, base=self._backoff)))
        raise unreachable(self.endpoint, why)

    def _parsed(self, answer: Answer, body: bytes, repo: str, revision: str | None) -> tuple[Any, str]:
        if answer.status != HTTPStatus.OK:
            code, said = answer.header("X-Error-Code"), answer.header("X-Error-Message")
            bad_token = (said or "").startswith("Invalid")
            if code == "RepoNotFound" or (
                answer.status == HTTPStatus.UNAUTHORIZED and not code and not bad_token
            ):
                raise no_repository(repo, signed_in=self.token is not None)
            raise from_answer(answer.status, code, said, repo, revision)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise not_a_hub(repo) from None
        match = _NEXT.search(answer.header("Link") or "")
        following = match[1] if match else ""
        if following.startswith(
            "http"
        ):  # keep to the endpoint that was asked, mirrors name the public Hub here
            following = "/" + following.split("/", 3)[3]
        return value, following


def _file(entry: dict[str, Any]) -> RemoteFile:
    """Read one entry of a listing; its hashes become file names here, so they must be nothing but hashes."""
    lfs = entry.get("lfs") or {}
    size, sha256, oid = lfs.get("size", entry["size"]), lfs.get("oid"), entry["oid"]
    if type(size) is not int or size < 0 or not _COMMIT.fullmatch(oid):
        raise ValueError(size, oid)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(sha256)
    return RemoteFile(safe_name(str(entry["path"])), size, oid, sha256, entry.get("xetHash"))


def choose(
    repo: str, files: Sequence[RemoteFile], quant: str | None, patterns: Sequence[str]
) -> list[RemoteFile]:
    """Return the files of a quant and those that any pattern fits.

    Raises:
        DownloadError: There are none (KNB405).
    """
    of_quant = _of_quant(files, quant) if quant is not None else []
    chosen = [
        file
        for file in files
        if file in of_quant or any(fnmatch.fnmatchcase(file.path, pattern) for pattern in patterns)
    ]
    if not chosen or (quant is not None and not of_quant):
        raise no_files(repo, quant or " ".join(patterns), quants(files))
    return chosen


def _of_quant(files: Iterable[RemoteFile], quant: str) -> list[RemoteFile]:
    """Return the GGUF files in a folder of the quant's name, else those whose own names end with it."""
    wanted = quant.lower()
    ggufs = [file for file in files if file.path.lower().endswith(".gguf")]
    in_folder = [file for file in ggufs if wanted in file.path.lower().split("/")[:-1]]
    return in_folder or [file for file in ggufs if quant_of(file.path).lower() == wanted]


def quant_of(path: str) -> str:
    """Return the quant that a file's name ends with: of ``K-UD-Q4_K_XL-00001-of-00013.gguf``, UD-Q4_K_XL."""
    stem = path.rsplit("/", 1)[-1].removesuffix(".gguf")
    head, dash, tail = stem.rpartition("-of-")
    if dash and tail.isdigit():
        stem = head.rpartition("-")[0]
    words = stem.replace(".", "-").split("-")
    if words[0].lower() == "mmproj":
        return stem
    return "-".join(words[-2:]) if len(words) > 1 and words[-2].upper() == "UD" else words[-1]


def quants(files: Iterable[RemoteFile]) -> list[str]:
    """Return the names of the quants that a repository holds."""
    ggufs = [file.path for file in files if file.path.endswith(".gguf")]
    return sorted({path.split("/")[-2] if "/" in path else quant_of(path) for path in ggufs})
