"""Read the headers of a model in a Hub repository, without downloading it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kimi_nb.errors import ModelFileError, UsageError
from kimi_nb.files import cache_home, write_bytes
from kimi_nb.model.gguf_faults import fault
from kimi_nb.model.gguf_http import WINDOW_BYTES, read_headers
from kimi_nb.model.gguf_scan import HeaderScan
from kimi_nb.model.http_answers import get, new_client
from kimi_nb.model.splits import assemble, shard_names, split_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kimi_nb.model.gguf_model import Model
    from kimi_nb.model.gguf_scan import Header

__all__ = ["quant_files", "read_remote_header"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


def read_remote_header(
    repo: str,
    quant: str | None = None,
    *,
    files: Sequence[str] | None = None,
    revision: str = "main",
    use_cache: bool = True,
) -> Model:
    """Read the headers of one quant in a Hub repository: a few megabytes of traffic, whatever its size.

    Which server is ``HF_ENDPOINT``'s choice, and a token comes from ``HF_TOKEN``. A branch or tag is first
    resolved to its commit, and everything is then read from that commit. With ``files`` and a commit there is
    one round of requests, one for each file.

    Args:
        repo: For example ``unsloth/Kimi-K2.5-GGUF``.
        quant: Label of the quant, such as ``UD-TQ1_0``.
        files: Instead of ``quant``: paths in the repository, of one model in order.
        revision: Branch, tag or commit.
        use_cache: Keep headers in the cache folder, by commit, and look there first.

    Raises:
        UsageError: KNB351, repository, revision or choice of files is not well-formed.
        ModelFileError: KNB300 to KNB322, the files are damaged or do not belong together; KNB340 to KNB350,
            they cannot be fetched.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or not revision.strip() or (not quant) == (not files):
        what = f"The request for {repo[:80]!r} cannot be made"
        why = "a repository is OWNER/NAME, a revision is not empty, and either a quant or files are named"
        raise UsageError("KNB351", what, why=why, fix="Correct the call.")
    endpoint = _endpoint()
    commit = revision
    if quant or not _COMMIT.fullmatch(revision):
        commit, listed = _look_up(endpoint, repo, revision)
        files = quant_files(listed, quant, repo) if quant else files
    paths = list(files or ())
    urls = [f"{endpoint}/{repo}/resolve/{commit}/{quote(path)}" for path in paths]
    keys = [hashlib.sha256(f"{repo}@{commit}/{path}".encode()).hexdigest() for path in paths]
    kept = [_from_cache(key, path) for key, path in zip(keys, paths, strict=True)] if use_cache else []
    headers = [header for header in kept if header is not None]
    if len(headers) < len(urls):
        headers = read_headers(urls, commit=commit)
        if use_cache:
            for key, header in zip(keys, headers, strict=True):
                _to_cache(key, header)
    return assemble(headers, urls)


def _endpoint() -> str:
    chosen = os.environ.get("HF_ENDPOINT")
    if not chosen:
        from huggingface_hub.constants import ENDPOINT

        chosen = ENDPOINT
    return chosen.rstrip("/")


def _look_up(endpoint: str, repo: str, revision: str) -> tuple[str, list[str]]:
    """Return a revision's commit and files."""
    label = f"{repo} at {revision}"
    with new_client() as client:
        response = get(client, f"{endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}", label)
    try:
        answer: Any = response.json()
        commit = str(answer["sha"])
        listed = [str(entry["rfilename"]) for entry in answer["siblings"]]
    except (ValueError, KeyError, TypeError) as error:
        raise fault("KNB349", label, "the list of its files is not what the Hub sends") from error
    if not _COMMIT.fullmatch(commit):
        raise fault("KNB349", label, "the Hub does not say which commit it is")
    return commit, listed


def quant_files(listed: Sequence[str], quant: str, repo: str = "the repository") -> list[str]:
    """Return the paths of one quant's shards, in order, among all paths of a repository.

    Raises:
        ModelFileError: KNB350, there is no such quant; KNB320, some of its shards are not there.
    """
    pattern = re.compile(
        rf"(?:.*[-./_])?(?<!UD-){re.escape(quant)}(?:-\d{{5}}-of-\d{{5}})?\.gguf", re.IGNORECASE
    )
    models = [path for path in listed if path.lower().endswith(".gguf") and "mmproj" not in path.lower()]
    found = sorted(path for path in models if pattern.fullmatch(path))
    if not found:
        have = sorted({_label(path) for path in models})
        why = f"{repo} has " + (", ".join(have[:40]) if have else "no GGUF files")
        raise fault("KNB350", f"Quant {quant}", why)
    folder, _, name = found[0].rpartition("/")
    numbers = split_numbers(name)
    if numbers is None:
        return found[:1]
    names = [f"{folder}/{one}" if folder else one for one in shard_names(name, numbers[2])]
    missing = sorted(set(names) - set(found))
    if missing:
        why = f"{len(missing)} of {len(names)} are not in {repo}: {', '.join(missing[:6])}"
        raise fault("KNB320", found[0], why)
    return names


def _label(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return folder or re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)


def _cache_path(key: str) -> Path:
    return cache_home() / "headers" / f"{key}.gguf-header"


def _from_cache(key: str, path: str) -> Header | None:
    """Return a header kept from before; a damaged or foreign one is as good as none."""
    try:
        kept = _cache_path(key).read_bytes()
    except OSError:
        return None
    digest, size, raw = kept[:32], int.from_bytes(kept[32:40], "little"), kept[40:]
    if hashlib.sha256(kept[32:]).digest() != digest or len(raw) > WINDOW_BYTES:
        return None
    scan = HeaderScan(path.rpartition("/")[2], size, max_bytes=WINDOW_BYTES)
    try:
        return scan.header if scan.feed(raw) else None
    except ModelFileError:
        return None


def _to_cache(key: str, header: Header) -> None:
    body = header.size.to_bytes(8, "little") + header.raw
    try:
        write_bytes(_cache_path(key), hashlib.sha256(body).digest() + body)
    except OSError:
        return  # a full or read-only cache folder costs time later, nothing else
