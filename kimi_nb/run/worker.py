"""The process that runs one notebook: ``python -m kimi_nb.run.worker JOB.json``.

It tells what happens as lines of JSON on its standard output, the last of them the result. Everything else
that it or the kernel prints goes to its standard error. What became of it when it could not tell is for its
owner to find out.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from kimi_nb.run.papermill_engine import Watch

__all__ = ["main"]

#: Two kernels that start at once may pick the same port; the one that loses dies, and a second try works.
RACE = "Kernel died before replying to kernel_info"
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_OURS = re.compile(r"^(KNB\d{3}): ")
_MESSAGE = 2000


class _Events:
    """The owner's end of our standard output, which from now on nobody else writes to."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)

    def send(self, event: str, **facts: Any) -> None:
        self._file.write(json.dumps({"event": event, **facts}) + "\n")


class _Stopped:
    """The signal that was sent to end us, if any; it raises KeyboardInterrupt once, wherever we are."""

    def __init__(self) -> None:
        self.by: str | None = None
        self.watch: Watch | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.by is not None:
            return
        self.by = signal.Signals(number).name
        if self.watch is not None and self.watch.client is not None:
            self.watch.client.shutdown_kernel = "immediate"  # our guardian gives us two seconds
        raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Run the job in the file ``argv[0]`` and tell what happened; 0 says only that we could tell."""
    events = _Events()
    stopped = _Stopped()
    result: dict[str, Any] = {}
    try:
        job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
        for attempt in (1, 2):
            result = _attempt(job, events, stopped)
            result["attempts"] = attempt
            if RACE not in result.get("message", ""):
                break
    except KeyboardInterrupt:
        result = {"status": "interrupted", "by": stopped.by}
    events.send("result", **result)
    return 0


def _attempt(job: dict[str, Any], events: _Events, stopped: _Stopped) -> dict[str, Any]:
    # jsonschema, which papermill loads, would spend 1.2 s on a grammar for addresses that nobody checks here;
    # None is Python's own way to say that a module is not installed.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # typeshed leaves None out
    from papermill.exceptions import PapermillExecutionError

    from kimi_nb.run.papermill_engine import Watch, execute

    watch = stopped.watch = Watch(events.send)
    raised: BaseException | None = None
    try:
        execute(
            Path(job["notebook"]),
            Path(job["target"]),
            job["parameters"],
            cell_timeout_s=job["cell_timeout_s"],
            start_timeout_s=job["start_timeout_s"],
            watch=watch,
        )
    except PapermillExecutionError:
        pass  # the watch has seen the error, or it was one that its cell may raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - our owner must hear of all
        raised = error
    kernel_mib = _kernel_peak_mib(watch)
    tree_mib = None if watch.memory is None else watch.memory.tree_mib
    return {
        **_verdict(watch, raised, stopped, job),
        "cells_run": watch.cells_run,
        "kernel_peak_mib": kernel_mib,
        "peak_mib": max(filter(None, (kernel_mib, tree_mib)), default=None),
    }


def _verdict(  # noqa: PLR0911 - one for each way in which a notebook can end
    watch: Watch, raised: BaseException | None, stopped: _Stopped, job: dict[str, Any]
) -> dict[str, Any]:
    """Tell what happened, from what was raised and what the watch saw."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    where = {"cell": watch.cell, "line": watch.line}
    if isinstance(raised, KeyboardInterrupt):
        return {"status": "interrupted", "by": stopped.by, **(where if watch.running else {})}
    if watch.error is not None:
        kind, message = watch.error
        ours = _OURS.match(message)
        id_ = ours[1] if ours else "KNB712" if kind == "SystemExit" else "KNB711"
        if kind == "SystemExit":
            how = "exit" if message == "exit" else f"sys.exit({message})"
            message = f"the cell ended the notebook with {how}"
        elif ours:
            message = message[ours.end() :]
        return _failed(id_, kind, message, where)
    if raised is None:
        return {"status": "succeeded"}
    kind = type(raised).__name__
    if isinstance(raised, CellTimeoutError):
        limit = job["cell_timeout_s"]
        if watch.running and "IOPub" not in str(raised):
            return _failed(
                "KNB714", kind, f"the cell was still running after {limit} s, its time limit", where
            )
        return _failed("KNB714", kind, "the cell ended, but its output did not arrive", where)
    if isinstance(raised, DeadKernelError):
        signal_name, how = _end_of_kernel(watch)
        return {**_failed("KNB713", kind, how, where), "kernel_signal": signal_name}
    if watch.kernel is None:
        return _failed("KNB716", kind, _plain(str(raised)), {})
    return _failed("KNB719", kind, _plain(str(raised)), where)


def _failed(id_: str, kind: str, message: str, where: dict[str, Any]) -> dict[str, Any]:
    return {"status": "failed", "id": id_, "class": kind, "message": _plain(message), **where}


def _plain(text: str) -> str:
    text = " ".join(_COLOURS.sub("", text).split()).rstrip(".")
    return text if len(text) <= _MESSAGE else text[: _MESSAGE - 1] + "…"


def _end_of_kernel(watch: Watch) -> tuple[str | None, str]:
    code = None if watch.kernel is None else watch.kernel.poll()
    when = "while the cell ran" if watch.running else "after the cell had ended"
    if code is None:
        return None, f"the kernel stopped answering {when}"
    if code < 0:
        name = signal.Signals(-code).name
        return name, f"the kernel was killed by {name} {when}"
    return None, f"the kernel ended by itself with exit code {code} {when}"


def _kernel_peak_mib(watch: Watch) -> float | None:
    if watch.memory is None:
        return None
    seen = watch.memory.process_mib
    if watch.kernel is None or (watch.kernel.poll() or 0) >= 0:
        return seen
    # A kernel that is killed takes its own high-water mark along; the system keeps that of the children it
    # has buried.
    unit = 1 if sys.platform == "darwin" else 1024
    buried = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / (1 << 20)
    return max(seen or 0.0, round(buried, 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
