"""Hand out nano's file as the package ships it, checked; or make another, in one piece or in shards."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kimi_nb.errors import KimiNbError, ModelFileError, UsageError
from kimi_nb.files import make_folder, sha256_file
from kimi_nb.nano.shape import SHAPE
from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from kimi_nb.engine import Build
    from kimi_nb.nano.writer import Array, Encoding

__all__ = ["Weights", "gguf_tensors", "make_nano", "nano_facts", "nano_path"]

Weights = Literal["trained", "random"]

_SPLIT_LIMIT_S = 120
_DATA = Path(str(files("kimi_nb.nano").joinpath("data")))


def nano_path() -> Path:
    """Return nano's trained file, which the package ships; its checksum is looked at once per process.

    Raises:
        ModelFileError: If the file is missing or is not the one that was shipped.
    """
    return _checked(_DATA / "nano.gguf")


def nano_facts() -> dict[str, Any]:
    """Return what is known about the shipped file: ``size_bytes``, ``sha256``, how it was trained."""
    facts: dict[str, Any] = json.loads((_DATA / "nano.json").read_text(encoding="utf-8"))
    return facts


@cache
def _checked(path: Path) -> Path:
    fix = "Install kimi-nb again: pip install --force-reinstall --no-deps kimi-nb."
    try:
        facts = nano_facts()
        size, wanted = path.stat().st_size, facts["size_bytes"]
        if size != wanted:
            why = f"it has {size:,} bytes and should have {wanted:,}"
        elif sha256_file(path) != facts["sha256"]:
            why = "its checksum is not the one it was shipped with"
        else:
            return path
    except (OSError, ValueError, KeyError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or f"nano.json cannot be read: {error}"
    raise ModelFileError("KNB386", f"nano's file {path} is missing or damaged", why=why, fix=fix)


def make_nano(
    folder: Path,
    *,
    shards: int = 1,
    weights: Weights = "trained",
    seed: int = 0,
    encoding: Encoding | None = None,
    build: Build | None = None,
) -> Path:
    """Make nano in ``folder``: the same arguments give the same bytes.

    Args:
        folder: Where to put ``nano.gguf``, or ``nano-00001-of-0000N.gguf`` and so on; made if missing. Files
            of the same name are replaced.
        shards: Into how many files llama.cpp's own llama-gguf-split cuts it.
        weights: ``trained`` as shipped, or ``random`` ones of the same shape.
        seed: What random weights are drawn from.
        encoding: How matrices are stored; as shipped (Q8_0), or F16 for random weights, when not given.
        build: Whose llama-gguf-split to use; only shards need one, and without it ours is built.

    Returns:
        The file to load: the only one, or the first shard.

    Raises:
        UsageError: If nano cannot be cut into that many shards, or the folder cannot be used.
        ModelFileError: If the files cannot be written, or the shipped file is damaged.
    """
    per_shard = _tensors_per_shard(shards)
    try:
        make_folder(folder)
        work = tempfile.TemporaryDirectory(prefix=".nano-", dir=folder)
    except OSError as error:
        raise _unwritable(UsageError, folder, error) from error
    try:
        with work as name:
            whole = Path(name) / "whole.gguf"
            _write_whole(whole, weights, seed, encoding)
            if shards == 1:
                return whole.replace(folder / "nano.gguf")
            parts = _cut(whole, shards, per_shard, build)
            # The first shard is what people load: it comes last, when the others are in place.
            for part in reversed(parts):
                part.replace(folder / part.name)
            return folder / parts[0].name
    except OSError as error:
        raise _unwritable(ModelFileError, folder, error) from error


def _write_whole(path: Path, weights: Weights, seed: int, encoding: Encoding | None) -> None:
    from kimi_nb.nano.writer import ABOUT_TRAINED, random_tensors, write_gguf

    if weights == "random":
        write_gguf(path, dict(random_tensors(SHAPE, seed)), encoding=encoding or "F16")
    elif encoding is None:
        shutil.copyfile(nano_path(), path)
    else:
        write_gguf(path, gguf_tensors(nano_path()), encoding=encoding, about=ABOUT_TRAINED)


def gguf_tensors(path: Path) -> dict[str, Array]:
    """Return the weights of a file with nano's shape as 32-bit numbers, by name."""
    import gguf

    reader = gguf.GGUFReader(path)
    shapes = {spec.name: spec.shape for spec in SHAPE.tensors()}
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shapes[tensor.name])
        for tensor in reader.tensors
    }


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


def _unwritable(kind: type[KimiNbError], folder: Path, error: OSError) -> KimiNbError:
    return kind(
        "KNB380",
        f"cannot write nano in {folder}",
        why=error.strerror or str(error),
        fix="Choose a folder with 100 MB of room that you may write to.",
    )
