"""The vision part of a model: a GGUF file of its own, which llama.cpp takes with ``--mmproj``."""

from __future__ import annotations

from pathlib import Path

from kimi_nb.errors import ModelFileError

__all__ = ["vision_mib"]

_MIB = 1 << 20


def vision_mib(path: Path | str | None) -> float:
    """Return what the weights of a vision part take, in MiB; 0 without one.

    What it needs while it looks at a picture comes on top, and is not known from its header.

    Args:
        path: The ``mmproj`` file.

    Raises:
        ModelFileError: KNB352, it is another kind of model; or as from :func:`kimi_nb.model.read_header`.
    """
    from kimi_nb.model.gguf_header import read_header

    if path is None:
        return 0.0
    model = read_header(Path(path))
    if model.architecture != "clip":
        raise ModelFileError(
            "KNB352",
            f"{path} is no vision part",
            why=f"its architecture is {model.architecture[:40]}, not clip",
            fix="Name an mmproj file from the model's own repository.",
        )
    return model.data_bytes / _MIB
