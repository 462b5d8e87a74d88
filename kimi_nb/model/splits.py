"""Models in several files: llama.cpp's rule for their names, and whether a set of them belongs together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kimi_nb.model.gguf_faults import fault, quoted
from kimi_nb.model.gguf_model import Model, Shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.model.gguf_scan import Header

__all__ = ["assemble", "shard_names", "split_numbers"]

MAX_SHARDS = (1 << 16) - 1  # split.count is a u16


def split_numbers(name: str) -> tuple[str, int, int] | None:
    """Return prefix, index from 0 and count of ``PREFIX-00001-of-00005.gguf``, or None for another name."""
    found = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", name, re.DOTALL)
    if not found:
        return None
    number, count = int(found[2]), int(found[3])
    return (found[1], number - 1, count) if 1 <= number <= count else None


def shard_names(name: str, count: int) -> list[str]:
    """Return the names of all ``count`` shards of the set that the file called ``name`` belongs to.

    Raises:
        ModelFileError: KNB322, the name does not follow llama.cpp's rule, or tells another count.
    """
    numbers = split_numbers(name)
    if numbers is None or numbers[2] != count:
        why = f"its header says it is one of {count} shards, and its name does not"
        raise fault("KNB322", name, why)
    return [f"{numbers[0]}-{index + 1:05d}-of-{count:05d}.gguf" for index in range(count)]


def split_count(header: Header) -> int:
    """Return how many files the model has, as the header of one of them says."""
    count = header.metadata.get("split.count")
    return count if isinstance(count, int) and 1 < count <= MAX_SHARDS else 1


def assemble(headers: Sequence[Header], sources: Sequence[str]) -> Model:
    """Put the headers of all shards, in order, together to a model.

    Raises:
        ModelFileError: KNB321, they are not one set.
    """
    first, count = headers[0], len(headers)
    names: dict[str, str] = {}
    for index, header in enumerate(headers):
        if count > 1:
            _check_place(header, index, count, first)
        for tensor in header.tensors:
            other = names.setdefault(tensor.name, header.label)
            if other != header.label:
                raise fault("KNB321", header.label, f"{tensor.name!r} is in {other} as well")
    expected = first.metadata.get("split.tensors.count")
    if count > 1 and isinstance(expected, int) and expected != len(names):
        why = f"all shards together hold {len(names):,} tensors, and the first one announces {expected:,}"
        raise fault("KNB321", first.label, why)
    return Model(
        shards=tuple(
            Shard(header.label, source, header.size, header.data_offset, header.raw)
            for header, source in zip(headers, sources, strict=True)
        ),
        metadata=first.metadata,
        types=first.types,
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
        alignment=first.alignment,
    )


def _check_place(header: Header, index: int, count: int, first: Header) -> None:
    for key, wanted in (("split.count", count), ("split.no", index)):
        said = header.metadata.get(key)
        if said != wanted:
            raise fault("KNB321", header.label, f"its {key} is {quoted(str(said))} instead of {wanted}")
    for key in ("split.tensors.count", "general.architecture", "general.name", "general.file_type"):
        mine, theirs = header.metadata.get(key), first.metadata.get(key)
        if mine is not None and mine != theirs:
            raise fault(
                "KNB321", header.label, f"its {key} is {quoted(str(mine))}, not {quoted(str(theirs))}"
            )
