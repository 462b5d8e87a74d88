"""Files that look like a model and are none: how our code knows them, and refuses them.

To find out about a model without having it, :mod:`kimi_nb.rehearse` writes files with a real header and no
real weights. llama-server would load one and answer rubbish. They are known by the folder they are made in,
whose name ends in ``.header-only``, and by a mark in their last bytes, which a copy bears as well.
"""

from __future__ import annotations

import os
from pathlib import Path

from kimi_nb.model.gguf_faults import fault

__all__ = ["MARK", "SUFFIX", "is_header_only", "refuse_header_only"]

SUFFIX = ".header-only"
#: Read as weights of any type these bytes are finite numbers.
MARK = b"\nKIMI-NB: HEADER ONLY, NO DATA.\n"


def is_header_only(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads into such a folder, also through links, or to a file that bears the mark."""
    try:
        named, real = Path(path).absolute(), Path(os.path.realpath(path))
    except ValueError:  # no path at all
        return False
    return any(part.endswith(SUFFIX) for part in (*named.parts, *real.parts)) or _bears_mark(real)


def refuse_header_only(path: str | os.PathLike[str]) -> None:
    """Raise ``ModelFileError`` KNB323 if :func:`is_header_only`."""
    if is_header_only(path):
        raise fault("KNB323", Path(path).name, "kimi-nb made it to find out about the model")


def _bears_mark(path: Path) -> bool:
    try:
        # Never wait for the other end of a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False  # whoever opens it next will say why
    try:
        end = os.fstat(handle).st_size
        return end > len(MARK) and os.pread(handle, len(MARK), end - len(MARK)) == MARK
    except OSError:
        return False
    finally:
        os.close(handle)
