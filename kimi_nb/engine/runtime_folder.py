"""A folder that only its owner can look into, for the keys of running servers."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from kimi_nb.errors import ServerError
from kimi_nb.files import at_home, cache_home, write_text

__all__ = ["forget_key", "keep_key", "runtime_folder"]

_KEY_FILE = re.compile(r"^serve-(\d+)(?:-\d+)?\.key$")


def runtime_folder() -> Path:
    """Return the folder, made with mode 0700.

    It is ``KIMI_NB_RUNTIME`` if that is set, else under ``XDG_RUNTIME_DIR``, else in our cache folder; never
    in a place such as ``/tmp``, where another user could have made it before us.

    Raises:
        ServerError: It is someone else's, or open to others, and cannot be closed.
    """
    session = os.environ.get("XDG_RUNTIME_DIR")
    usual = Path(session) / "kimi-nb" if session and Path(session).is_dir() else cache_home() / "run"
    folder = at_home(os.environ.get("KIMI_NB_RUNTIME") or usual).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(20, "it is no folder")
        if found.st_uid != os.getuid():
            raise PermissionError(1, "it belongs to another user")
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        why = error.strerror or str(error)
        fix = "Correct its owner and mode, or name another folder in KIMI_NB_RUNTIME."
        raise ServerError("KNB536", f"{folder} cannot hold a key", why=why, fix=fix) from error
    return folder


def keep_key(key: str, number: str = "") -> Path:
    """Write a key of this process to a file with mode 0600 and return its path.

    ``number``, of digits, tells it from other keys of this process.

    Keys of processes that were killed before they could tidy up are removed on the way.
    """
    folder = runtime_folder()
    for path in folder.iterdir():
        owner = _KEY_FILE.match(path.name)
        if owner and not _alive(int(owner[1])):
            with suppress(OSError):
                path.unlink()
    path = folder / f"serve-{os.getpid()}{number and '-'}{number}.key"
    write_text(path, key, mode=0o600)  # no newline: programs send what they read
    return path


def forget_key(path: Path) -> None:
    """Remove a key's file; one that is gone already is no trouble."""
    path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
