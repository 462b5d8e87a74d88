"""What can go wrong between here and the Hub, each said in one line."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kimi_nb.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "came_wrong",
    "disk_error",
    "from_answer",
    "gave_up",
    "no_files",
    "no_repository",
    "not_a_hub",
    "offline",
    "plain_words",
    "unreachable",
]

KEPT = "what has come is kept"


def plain_words(error: Exception) -> str:
    """Say what a network error was, without the address, which may be a signed one."""
    if isinstance(error, TimeoutError):
        return "no byte came for too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return "its name cannot be looked up"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    text = getattr(error, "strerror", None) or str(error)
    return text.lower() if text and "://" not in text else type(error).__name__


def offline(what: str) -> DownloadError:
    """Say that the network is forbidden and ``what`` is not here."""
    return DownloadError(
        "KNB407",
        f"{what} is not on this machine",
        why="HF_HUB_OFFLINE is set, so nothing may be fetched",
        fix="Unset HF_HUB_OFFLINE, or copy the files here and run kimi-nb download --verify on their folder.",
    )


def no_repository(repo: str, *, signed_in: bool) -> DownloadError:
    """Say that the Hub knows no such repository, or shows it to others only."""
    return DownloadError(
        "KNB401",
        f"{repo} was not found",
        why=f"there is none, or it is hidden from {'this token' if signed_in else 'those without a token'}",
        fix="Check the name; for a private repository set HF_TOKEN to a token that may read it.",
    )


def no_files(repo: str, wanted: str, there: Sequence[str]) -> DownloadError:
    """Say that a repository does not hold what was asked for."""
    return DownloadError(
        "KNB405",
        f"{repo} holds no {wanted}",
        why=f"it has {', '.join(there) or 'no GGUF files at all'}",
        fix="Choose one of these with --quant, or another repository.",
    )


def from_answer(
    status: int, code: str | None, said: str | None, what: str, revision: str | None = None
) -> DownloadError:
    """Return the error for an answer of the Hub that no retry mends."""
    if code == "GatedRepo":
        return DownloadError(
            "KNB402",
            f"{what} is gated",
            why="its owner lets people in who have accepted the terms",
            fix=f"Accept them on its page, then set HF_TOKEN to a token of that account; {KEPT}.",
        )
    if code == "RevisionNotFound":
        return DownloadError(
            "KNB404",
            f"{what} has no revision {revision}",
            why="no branch, tag or commit has this name",
            fix="Leave --revision out, or copy a commit from the repository's history.",
        )
    if code in {"EntryNotFound", "RepoNotFound"} and status == HTTPStatus.NOT_FOUND:
        return DownloadError(
            "KNB405",
            f"the Hub no longer has {what}",
            why=f"it answered HTTP {status}" + (f": {said}" if said else ""),
            fix=f"Run the same command with --update to take what the repository holds now; {KEPT}.",
        )
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return DownloadError(
            "KNB403",
            f"the Hub refused {what}",
            why=f"the token is missing, has expired or may not read it (HTTP {status})",
            fix=f"Make a new token, set HF_TOKEN to it, and run the same command; {KEPT}.",
        )
    return DownloadError(
        "KNB406",
        f"the Hub could not serve {what}",
        why=f"it answered HTTP {status}" + (f": {said}" if said else ""),
        fix=f"Run the same command later; {KEPT}.",
    )


def unreachable(endpoint: str, why: str) -> DownloadError:
    """Return the error for a Hub that cannot be reached."""
    return DownloadError(
        "KNB406",
        f"cannot get an answer from {urlsplit(endpoint).hostname}",
        why=why,
        fix=f"Check the network, HF_ENDPOINT and HTTPS_PROXY, then run the same command; {KEPT}.",
    )


def not_a_hub(what: str) -> DownloadError:
    """Return the error for an answer that no Hub would give."""
    return DownloadError(
        "KNB413",
        f"the answer for {what} is not the Hub's",
        why="a login page of the network, a proxy or a wrong HF_ENDPOINT stands in between",
        fix=f"Open any web page to log in to the network, or check HF_ENDPOINT and the proxy; {KEPT}.",
    )


def gave_up(path: str, why: str) -> DownloadError:
    """Return the error for a file that would not come."""
    return DownloadError(
        "KNB415", f"gave up on {path}", why=why, fix=f"Run the same command to continue; {KEPT}."
    )


def came_wrong(path: str, times: int) -> DownloadError:
    """Return the error for a file that keeps coming with a wrong hash."""
    return DownloadError(
        "KNB412",
        f"{path} came wrong {times} times",
        why="its sha256 is not the one the Hub names: something on the way, or this disk, changes bytes",
        fix="Try another network or disk and run the same command; the other files are kept.",
    )


def disk_error(error: OSError, folder: Path, *, size: int = 0, missing: int = 0) -> DownloadError:
    """Return the error for a disk that would not take bytes.

    Args:
        error: What the system said.
        folder: Where.
        size: Of the file.
        missing: Of it, what is still to come.
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        used_up = "your quota is used up" if error.errno == errno.EDQUOT else "no space is left"
        return DownloadError(
            "KNB409",
            f"the disk of {folder} is full",
            why=f"{used_up} and {missing / 1e9:.2f} GB of the file are missing",
            fix=f"Make space and run the same command; {KEPT}.",
        )
    if error.errno == errno.EFBIG:
        return too_large(folder, size, "its filesystem or a limit (ulimit -f) forbids it")
    return DownloadError(
        "KNB410",
        f"cannot read or write in {folder}",
        why=(error.strerror or str(error)).lower(),
        fix=f"Check the disk and the folder's permissions, or choose another with --folder; {KEPT}.",
    )


def too_large(folder: Path, size: int, why: str) -> DownloadError:
    """Return the error for a file that a filesystem or a limit cannot hold."""
    return DownloadError(
        "KNB411",
        f"{folder} cannot hold a file of {size / 1e9:.2f} GB",
        why=why,
        fix="Choose a folder on ext4, xfs, btrfs, APFS or NTFS with --folder, or lift the limit.",
    )
