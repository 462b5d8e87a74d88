"""Make nano's file, in one piece or in shards, and keep a verified copy in the cache."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.errors import KimiNbError, ModelFileError, UsageError
from kimi_nb.files import cache_home, sha256_file, write_json
from kimi_nb.nano.shape import SHAPE
from kimi_nb.nano.writer import random_tensors, write_gguf
from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from kimi_nb.engine import Build
    from kimi_nb.nano.writer import Encoding

__all__ = ["make_nano", "nano_path"]

_SPLIT_LIMIT_S = 120


def make_nano(
    folder: Path, *, shards: int = 1, seed: int = 0, encoding: Encoding = "F16", build: Build | None = None
) -> Path:
    """Make nano in ``folder``: the same arguments give the same bytes.

    Args:
        folder: Where to put ``nano.gguf``, or ``nano-00001-of-0000N.gguf`` and so on; made if missing. Files
            of the same name are replaced.
        shards: Into how many files llama.cpp's own llama-gguf-split cuts it.
        seed: What the random weights are drawn from.
        encoding: How matrices are stored.
        build: Whose llama-gguf-split to use; only shards need one, and without it ours is built.

    Returns:
        The file to load: the only one, or the first shard.

    Raises:
        UsageError: If nano cannot be cut into that many shards.
        ModelFileError: If the files cannot be written.
    """
    per_shard = _tensors_per_shard(shards)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shards == 1:
            path = folder / "nano.gguf"
            write_gguf(path, dict(random_tensors(SHAPE, seed)), encoding=encoding)
            return path
        with tempfile.TemporaryDirectory(prefix=".nano-", dir=folder) as name:
            whole = Path(name) / "whole.gguf"
            write_gguf(whole, dict(random_tensors(SHAPE, seed)), encoding=encoding)
            parts = _cut(whole, shards, per_shard, build)
            # The first shard is what people load: it comes last, when the others are in place.
            for part in reversed(parts):
                part.replace(folder / part.name)
            return folder / parts[0].name
    except OSError as error:
        raise _unwritable(folder, error) from error


def nano_path() -> Path:
    """Return nano's file in the cache, made first if missing or damaged; safe for several processes.

    Raises:
        ModelFileError: If it cannot be written there.
    """
    from filelock import FileLock, Timeout

    shipped = Path(str(files("kimi_nb.nano").joinpath("data", "nano.gguf")))
    if shipped.exists():
        return shipped
    folder = cache_home() / "nano" / _content_key()
    path = folder / "nano.gguf"
    if _intact(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=_SPLIT_LIMIT_S):
            if not _intact(path):
                make_nano(folder)
                write_json(_manifest(path), {"size_bytes": path.stat().st_size, "sha256": sha256_file(path)})
    except Timeout as error:
        raise ModelFileError(
            "KNB383",
            "nano is not ready",
            why=f"another process has been holding {folder / '.lock'} for {_SPLIT_LIMIT_S} seconds",
            fix="End the process that hangs, and try again.",
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    return path


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _intact(path: Path) -> bool:
    """Say whether the file is what the manifest beside it says, which is written after the file."""
    try:
        wanted = json.loads(_manifest(path).read_text(encoding="utf-8"))
        return bool(path.stat().st_size == wanted["size_bytes"] and sha256_file(path) == wanted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _content_key() -> str:
    """Return a name that changes whenever nano's bytes may: with its shape, vocabulary, template, writer."""
    digest = hashlib.sha256(json.dumps(SHAPE.as_dict(), sort_keys=True).encode())
    for package, name in (
        ("kimi_nb.nano", "data/merges.txt"),
        ("kimi_nb.nano", "shape.py"),
        ("kimi_nb.nano", "writer.py"),
        ("kimi_nb.model", "prompt.py"),
        ("kimi_nb.model", "chat_template.jinja"),
    ):
        digest.update(files(package).joinpath(name).read_bytes())
    return digest.hexdigest()[:16]


def _tensors_per_shard(shards: int) -> int:
    tensors = len(SHAPE.tensors())
    # llama-gguf-split fills each shard up to a number of tensors, so not every number of shards can be had.
    possible = {math.ceil(tensors / each): each for each in range(tensors, 0, -1)}
    if shards not in possible:
        nearest = sorted(possible, key=lambda number: (abs(number - shards), number))[:3]
        raise UsageError(
            "KNB385",
            f"nano cannot be cut into {shards} shards",
            why=f"it has {tensors} tensors, and every shard but the last takes the same number of them",
            fix=f"Ask for {', '.join(map(str, sorted(nearest)))}, for example.",
        )
    return possible[shards]


def _cut(whole: Path, shards: int, per_shard: int, build: Build | None) -> list[Path]:
    if build is None:
        from kimi_nb.engine import ensure_build

        build = ensure_build()
    command: list[str | Path] = [
        build.program("llama-gguf-split"),
        "--split",
        "--split-max-tensors",
        str(per_shard),
        whole,
        whole.with_name("nano"),
    ]
    with spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            said = process.communicate(timeout=_SPLIT_LIMIT_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            said = f"no end after {_SPLIT_LIMIT_S} seconds"
    parts = [whole.with_name(f"nano-{number:05d}-of-{shards:05d}.gguf") for number in range(1, shards + 1)]
    if process.returncode or not all(part.is_file() for part in parts):
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        free_mib = shutil.disk_usage(whole.parent).free >> 20
        raise ModelFileError(
            "KNB382",
            "llama-gguf-split did not cut nano",
            why=f"it ended with code {process.returncode}: {last}",
            fix=f"See that {whole.parent.parent} has room ({free_mib} MiB free), or build llama.cpp again.",
        )
    return parts


def _unwritable(folder: Path, error: OSError) -> KimiNbError:
    return ModelFileError(
        "KNB380",
        f"cannot write nano in {folder}",
        why=error.strerror or str(error),
        fix="Choose a folder with 100 MB of room that you may write to.",
    )
