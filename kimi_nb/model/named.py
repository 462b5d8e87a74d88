"""A model's header by the name that the catalog gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from kimi_nb.model.gguf_model import Model

__all__ = ["named_model"]


def named_model(name: str, quant: str | None = None) -> Model:
    """Return the header of a quant in the catalog, read from the Hub; nano's from this package.

    Args:
        name: Such as ``kimi-k2.5`` or ``nano``.
        quant: Such as ``UD-TQ1_0``; nano has none.

    Raises:
        UsageError: There is no such model or quant (KNB390, KNB391), or none was named (KNB373).
        ModelFileError: The header cannot be read.
    """
    if name == "nano":
        from kimi_nb.model.gguf_header import read_header
        from kimi_nb.nano import nano_path

        return read_header(nano_path())
    from kimi_nb.model.catalog import catalog
    from kimi_nb.model.gguf_hub import read_remote_header

    model = catalog().model(name)
    if quant is None:
        raise UsageError(
            "KNB373",
            f"which quant of {name}?",
            why="each has its own size",
            fix="Name one with --quant, such as " + ", ".join(each.name for each in model.quants[:3]) + ".",
        )
    found = model.quant(quant)
    revision = found.revision or "main"
    if found.shards is None:  # its files are only known to the Hub
        return read_remote_header(found.repo, found.name, revision=revision)
    return read_remote_header(found.repo, files=found.file_names(), revision=revision)
