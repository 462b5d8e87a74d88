"""What has been measured so far: one JSON line a row, kept through every interruption."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from kimi_nb.files import write_json

__all__ = ["Ledger", "code_identity"]

Row = dict[str, Any]


def code_identity() -> str:
    """Return a hash of the code that is put to the proof: after a change, earlier rows prove nothing."""
    import kimi_nb

    top = Path(kimi_nb.__file__).parent
    total = hashlib.sha256()
    for part in ("model", "plan", "rehearse"):
        for path in sorted((top / part).glob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


class Ledger:
    """A folder with the rows of each stage.

    Args:
        folder: Made if missing. Rows of another machine, build or code in it are moved aside, not mixed in.
        identity: What the rows are true of.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = identity
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / "identity.json"
        if place.exists() and json.loads(place.read_text(encoding="utf-8")) != identity:
            aside = folder / time.strftime("earlier-%Y%m%d-%H%M%S")
            aside.mkdir()
            for path in [*folder.glob("*.jsonl"), *folder.glob("*.profile.json"), place]:
                path.rename(aside / path.name)
        write_json(place, identity)

    def rows(self, stage: str) -> dict[str, Row]:
        """Return a stage's rows by their key, the newest of each, without a line that a crash cut off."""
        found: dict[str, Row] = {}
        try:
            lines = (self.folder / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            found[row["key"]] = row
        return found

    def add(self, stage: str, key: str, row: Row) -> None:
        """Write a row; it is on the disk when this returns. May be called from any thread."""
        line = json.dumps({"key": key, **row}) + "\n"
        with self._lock, (self.folder / f"{stage}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
