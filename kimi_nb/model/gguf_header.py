"""Read a GGUF model's headers from local files: bounded, quick, one clear error for each kind of damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.files import at_home
from kimi_nb.model.gguf_faults import fault
from kimi_nb.model.gguf_scan import HeaderScan
from kimi_nb.model.gguf_source import FileSource
from kimi_nb.model.header_only import refuse_header_only
from kimi_nb.model.splits import assemble, shard_names, split_count

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from kimi_nb.model.gguf_model import Model
    from kimi_nb.model.gguf_scan import Header
    from kimi_nb.model.gguf_source import ByteSource

__all__ = ["read_header", "scan"]

_FIRST_WINDOW = 1 << 18
_NAMED_MISSING = 6


def read_header(
    path: str | os.PathLike[str], *, check_data: bool = True, allow_header_only: bool = False
) -> Model:
    """Read the headers of the model that a file belongs to; any one shard of several will do.

    Args:
        path: A ``.gguf`` file.
        check_data: Also see that every file is long enough for its tensors.
        allow_header_only: Take also files that have no weights, as :mod:`kimi_nb.rehearse` makes them.

    Raises:
        UsageError: KNB330, there is no such file.
        ModelFileError: KNB300 to KNB332, the file or one of its shards is damaged, missing or of another set.
    """
    file = at_home(path)
    given = _read_one(file, check_data=check_data, allow_header_only=allow_header_only)
    count = split_count(given)
    if count == 1:
        return assemble([given], [str(file)])
    paths = [file.with_name(name) for name in shard_names(file.name, count)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        listed = ", ".join(missing[:_NAMED_MISSING]) + (", ..." if len(missing) > _NAMED_MISSING else "")
        raise fault("KNB320", file.name, f"{len(missing)} of {count} are not in its folder: {listed}")
    headers = [
        given if path == file else _read_one(path, check_data=check_data, allow_header_only=allow_header_only)
        for path in paths
    ]
    return assemble(headers, [str(path) for path in paths])


def _read_one(path: Path, *, check_data: bool, allow_header_only: bool) -> Header:
    with FileSource(path) as source:
        header = scan(source)
    if not allow_header_only:
        refuse_header_only(path)
    if check_data:
        header.check_data()
    return header


def scan(source: ByteSource) -> Header:
    """Read one file's header, in windows that double until it is complete.

    Raises:
        ModelFileError: KNB300 to KNB318, the header is damaged.
    """
    walk = HeaderScan(source.label, source.size)
    position, window = 0, _FIRST_WINDOW
    while not walk.feed(source.read_at(position, max(window, walk.wanted - position))):
        position = walk.received
        window = max(_FIRST_WINDOW, position)
    return walk.header
