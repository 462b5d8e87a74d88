"""Where our files live, and how they are written: never half a file under its final name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

__all__ = [
    "at_home",
    "cache_home",
    "chats_home",
    "make_folder",
    "models_home",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_text",
]


def at_home(path: Path | str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` replaced by the home folder; unlike pathlib's, it never raises.

    Where nobody has such a home, the path stays as it is, and is one that is not there.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises


def cache_home() -> Path:
    """Return the folder for builds and other things that can be made again (``KIMI_NB_CACHE`` moves it)."""
    from platformdirs import user_cache_path

    return at_home(os.environ.get("KIMI_NB_CACHE") or user_cache_path("kimi-nb")).absolute()


def models_home() -> Path:
    """Return the folder where model files are kept (``KIMI_NB_MODELS`` overrides it)."""
    from platformdirs import user_data_path

    chosen = os.environ.get("KIMI_NB_MODELS") or user_data_path("kimi-nb") / "models"
    return at_home(chosen).absolute()


def chats_home() -> Path:
    """Return the folder where conversations are kept (``KIMI_NB_CHATS`` overrides it)."""
    from platformdirs import user_data_path

    chosen = os.environ.get("KIMI_NB_CHATS") or user_data_path("kimi-nb") / "chats"
    return at_home(chosen).absolute()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        OSError: It cannot be made; that a file stands in its place is said as such.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        inside = next((at for at in (path, *path.parents) if at.exists()), path)
        raise NotADirectoryError(errno.ENOTDIR, f"{inside} is a file, not a folder", str(path)) from None


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` so that ``path`` holds all of it or what it held before, even after a power loss.

    Raises:
        OSError: It cannot be written there, or ``path`` is a folder, a device or a pipe.
    """
    if path.exists() and not path.is_file():
        # A rename would put a file in the place of what stands there: as root, even of /dev/null.
        why = "it is a folder" if path.is_dir() else "it is not an ordinary file"
        raise OSError(errno.EINVAL, why, str(path))
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(
                path
            )  # what could not be written, as on a full disk, is what people ask first
        raise


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write UTF-8 text as :func:`write_bytes` does."""
    write_bytes(path, text.encode(), mode=mode)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON as :func:`write_bytes` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
