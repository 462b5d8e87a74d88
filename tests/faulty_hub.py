"""A local Hub that misbehaves on demand, and small GGUF models to serve from it."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kimi_nb.nano.hub import LocalHub

if TYPE_CHECKING:
    from pathlib import Path

REPO = "local/tiny-GGUF"
MIB = 1024 * 1024


@dataclass
class Fault:
    """One way to misbehave.

    ``kind``: drop (end the connection after ``at`` bytes), stall (send ``at`` bytes, then nothing for ``seconds``),
    drip (``rate`` bytes a second from ``at`` on), flip (wrong byte at offset ``at`` of the file), length (a body and
    total that are ``at`` bytes off), status (answer ``status``, with Retry-After ``seconds`` if given), expired (403),
    norange (send the whole file), shifted (206 from another offset), html (a login page), reset (no answer at all).
    ``times``: for how many requests. ``host``: storage or hub. ``where``: part of the path or of the file's name.
    """

    kind: str
    at: int = 0
    times: int = 1
    host: str = "storage"
    where: str = ""
    status: int = 503
    seconds: float | None = None
    rate: int = 10_000
    met: int = field(default=0, init=False)


class FaultyHub(LocalHub):
    """See :class:`Fault`; ``faults`` are met in the order they are listed, each until it has been met ``times`` times."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.faults: list[Fault] = []
        self._one = threading.Lock()
        self._stopping = threading.Event()

    def start(self):
        self._stopping.clear()
        return super().start()

    def stop(self) -> None:
        self._stopping.set()
        super().stop()

    def _next(self, handler, kinds: set[str], name: str = "") -> Fault | None:
        """The fault whose turn it is, if it is of one of these kinds: each step of an answer asks for its own."""
        if handler.server.host == "storage" and handler.command == "HEAD":
            return None
        with self._one:
            for fault in self.faults:
                fits = fault.where in handler.path or fault.where in name
                if fits and fault.met < fault.times and fault.host == handler.server.host:
                    if fault.kind not in kinds:
                        return None
                    fault.met += 1
                    return fault
        return None

    def _name(self, handler) -> str:
        blob = self.blob(handler.path.partition("?")[0].removeprefix("/blobs/"))
        return str(blob.source) if blob else ""

    def before(self, handler) -> bool:
        fault = self._next(
            handler, {"status", "expired", "html", "reset", "length", "shifted"}, self._name(handler)
        )
        if fault is None:
            return False
        if fault.kind == "reset":
            handler.close_connection = True
        elif fault.kind == "status":
            extra = {} if fault.seconds is None else {"Retry-After": f"{fault.seconds:g}"}
            handler.refuse(fault.status, "", "as asked", extra)
        elif fault.kind == "expired":
            handler.refuse(403, "", "Request has expired")
        elif fault.kind == "html":
            page = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"
            _send(handler, 200, page, {"Content-Type": "text/html"})
        else:
            blob = self.blob(handler.path.partition("?")[0].removeprefix("/blobs/"))
            start, stop = self.range_of(handler, blob) or (0, blob.size)
            data = blob.source.read_bytes()
            if fault.kind == "shifted":
                start, stop = start + 1, stop + 1
            total = blob.size + fault.at if fault.kind == "length" else blob.size
            headers = {"Content-Range": f"bytes {start}-{stop - 1}/{total}", "ETag": f'"{blob.sha256}"'}
            _send(handler, 206, (data + b"\0" * 64)[start:stop], headers)
        return True

    def range_of(self, handler, blob):
        if self._next(handler, {"norange"}, str(blob.source)):
            return None
        return super().range_of(handler, blob)

    def send_body(self, handler, blob, start: int, stop: int) -> None:
        fault = self._next(handler, {"drop", "stall", "drip", "flip"}, str(blob.source))
        if fault is None:
            super().send_body(handler, blob, start, stop)
        elif fault.kind == "flip":
            data = bytearray(blob.source.read_bytes()[start:stop])
            where = fault.at - start if start <= fault.at < stop else len(data) // 2
            data[where] ^= 1
            handler.wfile.write(data)
            handler.seen.sent += len(data)
        elif fault.kind == "drip":
            end = min(stop, start + fault.at)
            super().send_body(handler, blob, start, end)
            for position in range(end, stop, max(1, fault.rate // 10)):
                if self._stopping.wait(0.1):
                    break
                super().send_body(handler, blob, position, min(stop, position + max(1, fault.rate // 10)))
            handler.close_connection = True
        else:
            super().send_body(handler, blob, start, min(stop, start + fault.at))
            handler.wfile.flush()
            if fault.kind == "stall":
                self._stopping.wait(fault.seconds)
            handler.close_connection = True

    # ---- what a test asks afterwards

    def bytes_of(self, name: str) -> int:
        """How many bytes of bodies were sent for the files whose paths contain ``name``."""
        return sum(count for path, count in self.sent().items() if name in path)

    def sent(self) -> Counter[str]:
        """Bytes sent from the second host, by the file's path on this disk."""
        counted: Counter[str] = Counter()
        for seen in list(self.seen):
            if seen.host == "storage":
                blob = self.blob(seen.path.partition("?")[0].removeprefix("/blobs/"))
                if blob is not None:
                    counted[str(blob.source)] += seen.sent
        return counted


def _send(handler, status: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
        handler.seen.sent += len(body)


# ---- models to serve


def gguf(size: int, *, seed: int, number: int = 0, count: int = 1, name: str = "tiny") -> bytes:
    """A valid GGUF file of exactly ``size`` bytes: one tensor of random int8, and the keys of a split."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("deepseek2")]
    pairs += [text("general.name") + struct.pack("<I", 8) + text(name)]
    if count > 1:
        pairs += [text("split.no") + struct.pack("<IH", 2, number)]
        pairs += [text("split.count") + struct.pack("<IH", 2, count)]
        pairs += [text("split.tensors.count") + struct.pack("<Ii", 5, count)]

    def head(length: int) -> bytes:
        tensor = text(f"blk.{number}.weight") + struct.pack("<IQIQ", 1, length, 24, 0)
        raw = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(pairs)) + b"".join(pairs) + tensor
        return raw + b"\0" * (-len(raw) % 32)

    length = size - len(head(0))
    chance = random.Random(f"{seed} {number} {name}")
    pieces = [chance.randbytes(min(16 * MIB, length - at)) for at in range(0, length, 16 * MIB)]
    return b"".join([head(length), *pieces])


def make_repo(
    folder: Path, *, quants: tuple[str, ...] = ("Q4",), shards: int = 5, mib: float = 8, seed: int = 0
) -> Path:
    """Lay out a repository as Unsloth does: a folder for each quant, with its shards."""
    for quant in quants:
        (folder / quant).mkdir(parents=True, exist_ok=True)
        for number in range(shards):
            size = int(mib * MIB) + 4096 * number if shards > 1 else int(mib * MIB)
            path = folder / quant / f"tiny-{quant}-{number + 1:05d}-of-{shards:05d}.gguf"
            path.write_bytes(gguf(size, seed=seed, number=number, count=shards, name=f"tiny {quant}"))
    (folder / "README.md").write_text("---\nlicense: other\n---\n# tiny\n")
    return folder


# ---- a download in a process of its own, to be killed


def start_download(
    hub: LocalHub, folder: Path, *, extra: str = "", env: dict[str, str] | None = None
) -> subprocess.Popen:
    """Start ``download(REPO, "Q4")`` into ``folder`` in a new process."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from kimi_nb.engine.download import Options, download\n"
        "from kimi_nb.errors import KimiNbError\n"
        "try:\n"
        f"    result = download({REPO!r}, 'Q4', endpoint={hub.endpoint!r}, folder=Path({str(folder)!r}),\n"
        f"                      options=Options(backoff_s=0.05{extra}))\n"
        "    print('FETCHED', result.fetched_bytes, flush=True)\n"
        "except KimiNbError as error:\n"
        "    print(error, flush=True)\n"
        "    sys.exit(error.exit_code)\n"
    )
    environment = os.environ | {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"} | (env or {})
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def same_files(repo: Path, folder: Path, pattern: str = "Q4/*.gguf") -> None:
    """Assert that every file of ``repo`` fitting ``pattern`` is in ``folder``, byte for byte, and no part is left."""
    paths = sorted(repo.glob(pattern))
    assert paths
    for path in paths:
        assert (folder / path.relative_to(repo)).read_bytes() == path.read_bytes(), path.name
    left = [path.name for path in folder.rglob(".*.part*")]
    assert not left, left


SECRET = re.compile(r"hf_[A-Za-z0-9]+|Signature=")
