"""The servers that this user has running, by name: found again from another notebook or terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from filelock import FileLock

from kimi_nb.engine.runtime_folder import forget_key, runtime_folder
from kimi_nb.engine.server_http import ServerHttp
from kimi_nb.errors import ServerError, UsageError
from kimi_nb.files import write_text

__all__ = ["Running", "announce", "claim", "find", "forget", "running", "stop"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RECORD = re.compile(r"^serve-\d+\.json$")
_SAME_START_S = 30.0  # the system derives it from a clock that may be set


@dataclass(frozen=True, kw_only=True)
class Running:
    """One ``kimi-nb serve``: what it serves and where. The key itself is not part of this."""

    name: str
    model: str
    pid: int
    #: When the process began, in seconds since 1970; tells it from a later one with the same id.
    began: float
    log: str
    base_url: str | None = None
    server_pid: int | None = None
    api_key_file: str | None = None
    api_key_env: str | None = None

    def alive(self) -> bool:
        """Return whether it is still the process that wrote this."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.began) < _SAME_START_S
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def state(self) -> str:
        """Return ``starting``, ``ready``, or ``degraded`` when it does not answer."""
        if self.base_url is None:
            return "starting"
        try:
            answer = ServerHttp.at(self.base_url, "").ask("/health", timeout_s=2.0)
        except OSError:
            return "degraded"
        return "ready" if answer.status == HTTPStatus.OK else "degraded"

    def as_dict(self) -> dict[str, Any]:
        """Return what is known of it, as ``--json`` prints it."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "began"}


def running() -> list[Running]:
    """Return the servers that are alive, oldest first; what dead ones left behind is removed."""
    found = []
    for path in runtime_folder().iterdir():
        if not _RECORD.match(path.name):
            continue
        with suppress(OSError, ValueError, TypeError):
            record = Running(**json.loads(path.read_text(encoding="utf-8")))
            if record.alive():
                found.append(record)
                continue
        path.unlink(missing_ok=True)
    return sorted(found, key=lambda record: record.began)


def claim(name: str | None, *, model: str, log: Path) -> Running:
    """Put this process on record as a server that is starting.

    Args:
        name: By default the model's, with a number when that is taken.
        model: The name that clients ask for.
        log: Where its log is.

    Raises:
        UsageError: The name is taken, or is none.
    """
    import psutil

    if name is not None and not _NAME.fullmatch(name):
        why = "a name has letters, digits, dots and dashes"
        raise UsageError("KNB537", f"a server cannot be called {name!r}", why=why, fix="Choose another name.")
    folder = runtime_folder()
    with FileLock(folder / "names.lock"):
        taken = {record.name: record for record in running()}
        if name in taken:
            why = f"process {taken[name].pid} has that name"
            fix = f"Choose another name, or end it with `kimi-nb serve stop {name}`."
            raise UsageError("KNB537", f"a server called {name} runs already", why=why, fix=fix)
        base = re.sub(r"[^A-Za-z0-9._-]", "-", model).strip(".-_") or "model"
        numbered = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
        free = name or next(candidate for candidate in numbered if candidate not in taken)
        began = psutil.Process().create_time()
        record = Running(name=free, model=model, pid=os.getpid(), began=began, log=str(log))
        _write(record)
    return record


def announce(record: Running, **news: Any) -> Running:
    """Put on record what has become known, such as the address; return the new record."""
    changed = replace(record, **news)
    _write(changed)
    return changed


def forget(record: Running) -> None:
    """Take a server off the record, and its key off the disk."""
    _path(record).unlink(missing_ok=True)
    if record.api_key_file is not None:
        forget_key(Path(record.api_key_file))


def find(name: str | None) -> Running:
    """Return the server of that name, or the only one.

    Raises:
        UsageError: There is none, or several and no name was given.
    """
    found = running()
    chosen = [record for record in found if name in {None, record.name}]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(record.name for record in found) or "none"
    what = "which server is meant" if chosen else f"no server called {name}" if name else "no server runs"
    fix = "Give one of these names." if found else "Start one with `kimi-nb serve --model nano --detach`."
    raise UsageError("KNB538", what, why=f"running are: {names}", fix=fix)


def stop(record: Running, *, within_s: float = 20.0) -> None:
    """End a server: politely, then by force.

    Raises:
        ServerError: It could not be ended.
    """
    for number, patience_s in ((signal.SIGTERM, within_s), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            if record.alive():
                os.kill(record.pid, number)
        deadline = time.monotonic() + patience_s
        while record.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not record.alive():
            forget(record)
            return
    why = f"process {record.pid} does not react to signal 9"
    raise ServerError("KNB523", f"{record.name} cannot be ended", why=why, fix="Restart the machine.")


def _path(record: Running) -> Path:
    return runtime_folder() / f"serve-{record.pid}.json"


def _write(record: Running) -> None:
    write_text(_path(record), json.dumps(asdict(record)), mode=0o600)
