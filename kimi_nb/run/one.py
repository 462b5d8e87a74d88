"""One notebook in a process of its own: started, watched, stopped in time, and its leavings put in order."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.files import write_json, write_text
from kimi_nb.processes import OwnedProcess, spawn
from kimi_nb.run.executed import save_executed
from kimi_nb.run.memory import oom_kills
from kimi_nb.run.notebook import code_cells, read_notebook
from kimi_nb.run.record import Failure, NotebookRun
from kimi_nb.run.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.progress import ProgressLine

__all__ = ["Job", "run_one"]

#: How long a process that was asked to stop may take before it is killed.
GRACE_S = 10.0
_LOOK_S = 0.2

_FIXES = {
    "KNB711": "Open the executed notebook: the cell's full error is there.",
    "KNB712": "Leave a cell by raising an error, or put the rest of it under an if.",
    "KNB713": "If memory ran out, run a smaller model or context; the log may tell another cause.",
    "KNB714": "Allow more with --cell-timeout, or make the cell's work smaller.",
    "KNB715": "Allow more with --wall, or make the notebook's work smaller.",
    "KNB716": "Run the kimi-nb of the environment it is installed in; the log says more.",
    "KNB717": "Run it again.",
    "KNB718": "See the log; if memory ran out, close other programs or run a smaller model.",
    "KNB719": "See the log.",
}


@dataclass(frozen=True)
class Job:
    """What to run, and for how long at most."""

    notebook: Path
    name: str
    parameters: dict[str, Any]
    label: str
    cell_timeout_s: int
    wall_s: float
    start_timeout_s: int


@dataclass
class _Course:
    """What the process has told, and what its owner did to it."""

    result: dict[str, Any] | None = None
    cell: int | None = None
    line: str | None = None
    cells_begun: int = 0
    timed_out: bool = False
    code: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def take(self, data: bytes) -> bool:
        """Take some of the process's output; tell whether another cell has begun."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        begun = self.cells_begun
        for line in lines:
            event = json.loads(line)
            if event.pop("event") == "result":
                self.result = event
            else:
                self.cell, self.line = event["cell"], event["line"]
                self.cells_begun += 1
        return self.cells_begun > begun


def run_one(job: Job, out: Path, *, stop: Sequence[str], progress: ProgressLine | None = None) -> NotebookRun:
    """Run one notebook and return its record.

    Args:
        job: What to run.
        out: The run's folder.
        stop: Holds something once the run is to end; a second entry means at once.
        progress: Where to tell which cell is running.
    """
    cells = len(code_cells(read_notebook(job.notebook)))
    secrets = Secrets(job.parameters)
    given = secrets.mask_parameters(job.parameters)
    secrets.found = 0  # what a parameter's own record hides was not found in an output
    here = out / "files" / job.name
    here.mkdir(parents=True, exist_ok=True)
    kills = oom_kills()
    started = time.monotonic()
    # Private, because what a cell printed may hold a secret until we have looked; a killed run leaves it for
    # rescue.
    private = Path(tempfile.mkdtemp(prefix=f".partial-{job.name}-", dir=out))
    with (private / "log").open("wb") as log:
        process = _start(job, private, here, log)
        try:
            course = _follow(process, job, cells, stop, progress)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
    seconds = time.monotonic() - started
    killed = None if kills is None else (oom_kills() or kills) - kills
    result = course.result or {}
    status, error = _judge(job, course, killed, stop)
    if error is not None:
        error = Failure(
            error.id,
            error.kind,
            secrets.mask(error.message),
            error.cell,
            _masked(secrets, error.line),
            error.fix,
        )
    executed = save_executed(
        private / "notebook.ipynb",
        out / f"{job.name}.ipynb",
        status=status,
        error=error,
        parameters=given,
        secrets=secrets,
    )
    log_text = (private / "log").read_text(encoding="utf-8", errors="replace")
    write_text(out / "logs" / f"{job.name}.log", secrets.mask(log_text))
    shutil.rmtree(private)
    record = NotebookRun(
        name=job.name,
        status=status,
        seconds=seconds,
        error=error,
        parameters=given,
        cells=cells,
        cells_run=result.get("cells_run", max(course.cells_begun - 1, 0)),
        kernel_peak_mib=result.get("kernel_peak_mib"),
        peak_mib=result.get("peak_mib"),
        oom_kills=killed,
        attempts=result.get("attempts", 1),
        masked=secrets.found,
        executed=f"{job.name}.ipynb" if executed else None,
        log=f"logs/{job.name}.log",
        source=job.notebook,
    )
    if progress is not None:
        progress.done(_last_line(job, record))
    return record


def _start(job: Job, private: Path, here: Path, log: Any) -> OwnedProcess:
    order = {
        "notebook": str(job.notebook.absolute()),
        "target": str(private / "notebook.ipynb"),
        "parameters": job.parameters,
        "cell_timeout_s": job.cell_timeout_s,
        "start_timeout_s": job.start_timeout_s,
    }
    path = private / "job.json"
    write_json(path, order)
    env = {
        **os.environ,
        "KIMI_NB_HEADLESS": "1",  # notebooks show text in place of widgets
        "IPYTHONDIR": str(
            private / "ipython"
        ),  # a person's own start-up files would make the run theirs alone
        "JUPYTER_RUNTIME_DIR": str(private / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, and not one installed for the user
    }
    # -P: the notebook's folder must not shadow our modules.
    command = [sys.executable, "-P", "-m", "kimi_nb.run.worker", str(path)]
    return spawn(command, env=env, cwd=here, stdout=subprocess.PIPE, stderr=log)


def _follow(
    process: OwnedProcess, job: Job, cells: int, stop: Sequence[str], progress: ProgressLine | None
) -> _Course:
    """Read what the process tells until it has ended; end it when its time is over or the run is to stop."""
    course = _Course()
    stream = process.stdout
    assert stream is not None  # noqa: S101 - we asked for a pipe
    started = time.monotonic()
    deadline: float | None = None
    killed = False
    while True:
        ready, _, _ = select.select([stream], [], [], _LOOK_S)
        if ready:
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                break
            course.take(data)
        now = time.monotonic()
        if progress is not None and course.result is None:
            where = f"cell {course.cells_begun} of {cells}" if course.cells_begun else "starting the kernel"
            progress.update(f"{job.label}: {where}, {now - started:.0f} s")
        if deadline is None and (stop or now - started > job.wall_s):
            course.timed_out = not stop
            deadline = now + GRACE_S
            process.send_signal(signal.SIGINT if stop and stop[0] == "SIGINT" else signal.SIGTERM)
        elif deadline is not None and not killed and (now > deadline or len(stop) > 1):
            killed = True
            process.kill()
    course.code = process.wait()
    return course


def _judge(job: Job, course: _Course, killed: int | None, stop: Sequence[str]) -> tuple[Any, Failure | None]:
    """Tell what became of the notebook, from what its process told and how it ended."""
    result = course.result
    cell, line = (course.cell, course.line) if result is None else (result.get("cell"), result.get("line"))
    if result is not None and result["status"] == "succeeded":
        return "succeeded", None
    if result is not None and result["status"] == "failed":
        message = result["message"]
        if result["id"] == "KNB713":
            message += _memory_note(result.get("kernel_signal"), killed)
        fix = _FIXES.get(result["id"], "Open the executed notebook: the cell's full error is there.")
        return "failed", Failure(result["id"], result["class"], message, cell, line, fix)
    if course.timed_out:
        message = f"the notebook was still running after {job.wall_s:g} s, its time limit"
        return "failed", Failure("KNB715", "WallClockTimeout", message, cell, line, _FIXES["KNB715"])
    if stop or result is not None:
        by = stop[0] if stop else (result or {}).get("by") or "a signal"
        how = "Ctrl-C (SIGINT)" if by == "SIGINT" else by
        return "interrupted", Failure(
            "KNB717", "Interrupted", f"it was stopped by {how}", cell, line, _FIXES["KNB717"]
        )
    how = _ending(course.code)
    if killed:
        message = f"the process that ran the notebook {how}{_memory_note('SIGKILL', killed)}"
        return "failed", Failure("KNB718", "OutOfMemory", message, cell, line, _FIXES["KNB718"])
    status = "interrupted" if "killed by" in how else "failed"
    return status, Failure(
        "KNB718", "WorkerDied", f"the process that ran the notebook {how}", cell, line, _FIXES["KNB718"]
    )


def _ending(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return f"was killed by {signal.Signals(number).name}"
    return f"ended with exit code {code} and did not say why"


def _memory_note(name: str | None, killed: int | None) -> str:
    if killed:
        times = "once" if killed == 1 else f"{killed} times"
        return (
            f"; memory ran out: the system's out-of-memory killer (oom_kill) acted {times} in this container"
        )
    if name == "SIGKILL":
        seen = "" if killed is None else ", though the container's oom_kill counter did not move"
        return f"; most often that means memory ran out{seen}"
    return ""


def _masked(secrets: Secrets, line: str | None) -> str | None:
    return None if line is None else secrets.mask(line)


def _last_line(job: Job, record: NotebookRun) -> str:
    peak = "" if record.peak_mib is None else f", {record.peak_mib:.0f} MiB at most"
    text = f"{job.label} {record.status} after {record.seconds:.1f} s{peak}"
    if record.masked:
        text += f"; a secret was found {record.masked} times in what it left, and masked"
    return text if record.error is None else f"{text}\n    {record.error}"
