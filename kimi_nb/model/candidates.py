"""Models to choose from, each by its header or, before that is read, by a stand-in of its size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kimi_nb.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from kimi_nb.model.gguf_model import Model

__all__ = ["Candidate", "candidates", "with_real_header"]


@dataclass(frozen=True)
class Candidate:
    """A model that may be planned for, and what is known of it beside its header.

    Attributes:
        model: Its header.
        key: Its name in the catalog.
        quant: Its quant there.
        repo: The repository it can be downloaded from.
        on_disk: Whether it lies on this machine's disk already.
        approximate: Whether the header is a stand-in made from the catalog's size, not read.
        native_bytes: Size of the released weights; a larger quant holds no more.
        note: Why its own header was not read, where that was tried.
    """

    model: Model
    key: str | None = None
    quant: str | None = None
    repo: str | None = None
    on_disk: bool = False
    approximate: bool = False
    native_bytes: int | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        return self.quant or self.model.quant or self.model.name

    @property
    def quality(self) -> int:
        """Bytes that hold something of the released weights."""
        return min(self.model.file_bytes, self.native_bytes or self.model.file_bytes)


def candidates(name: str, quant: str | None = None) -> list[Candidate]:
    """Return the quants of a model in the catalog, without reading anything from the network.

    Each has a stand-in for its header (:mod:`kimi_nb.model.stand_in`); nano has its own. Without ``quant``
    these are the first publisher's, those whose size is known.

    Args:
        name: Such as ``kimi-k2.5`` or ``nano``.
        quant: Such as ``UD-TQ1_0``.

    Raises:
        UsageError: There is no such model or quant (KNB390, KNB391), or its size is not known (KNB395).
    """
    from kimi_nb.model.catalog import catalog
    from kimi_nb.model.named import named_model
    from kimi_nb.model.stand_in import stand_in

    entry = catalog().model(name)
    if not entry.publishers:
        if quant is not None:
            entry.quant(quant)  # says that there is none
        return [Candidate(named_model(name), key=entry.key, on_disk=True)]
    chosen = [entry.quant(quant)] if quant else [one for one in entry.publishers[0].quants if one.bytes]
    return [
        Candidate(
            stand_in(entry, one),
            key=entry.key,
            quant=one.name,
            repo=one.repo,
            approximate=True,
            native_bytes=None if entry.native is None else entry.native.bytes,
        )
        for one in chosen
    ]


def with_real_header(candidate: Candidate) -> Candidate:
    """Return a candidate with its own header, read from the Hub: a few megabytes.

    Where that cannot be, the candidate comes back as it was, with a note.
    """
    from kimi_nb.model.named import named_model

    if not candidate.approximate or candidate.key is None:
        return candidate
    try:
        model = named_model(candidate.key, candidate.quant)
    except (ModelFileError, UsageError) as error:
        return replace(candidate, note=f"{error.id}: {error.what}: {error.why}")
    return replace(candidate, model=model, approximate=False)
