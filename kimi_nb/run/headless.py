"""Run notebooks without anyone watching, each in a process of its own, and record honestly what happened."""

from __future__ import annotations

import math
import signal
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import KimiNbError, RunError, UsageError
from kimi_nb.files import make_folder, write_json
from kimi_nb.run.notebook import find_notebooks
from kimi_nb.run.one import Job, run_one
from kimi_nb.run.parameters import assign_parameters
from kimi_nb.run.record import Failure, NotebookRun, Run, RunStatus
from kimi_nb.run.report import INDEX
from kimi_nb.run.secrets import Secrets

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import FrameType

    from kimi_nb.progress import ProgressLine

__all__ = ["RECORD", "run_folder", "run_notebooks"]

RECORD = "run.json"
_PACKAGES = [
    "ipykernel",
    "jupyter-client",
    "jupyterlab",
    "llama-cpp-python",
    "nbclient",
    "nbconvert",
    "openai",
    "papermill",
]

_LOST = "the run itself was ended, without time to say how, while this notebook ran"
_UNDER_WAY: dict[str, Any] = {
    "status": "interrupted",
    "error": Failure("KNB718", "RunLost", _LOST, None, None, "Run it again."),
}


def run_notebooks(
    notebooks: Iterable[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    cell_timeout_s: int = 600,
    wall_s: float = 1800,
    start_timeout_s: int = 60,
    progress: ProgressLine | None = None,
) -> Run:
    """Run notebooks one after another, each in a process of its own, in a folder of its own.

    A notebook that fails does not keep the next one from running. What a run leaves in its folder:
    ``run.json``, an executed copy of each notebook as far as it ran, ``logs/NAME.log``, and ``files/NAME/``,
    the folder in which the notebook ran. Secrets are kept out of all of it but the last.

    Args:
        notebooks: Paths of notebooks, or of folders that hold some.
        out: The run's folder; ``runs/DATE-TIME`` in the current one when not given.
        parameters: Values by name. Each goes to the notebooks that declare it; one that none declares is an
            error.
        cell_timeout_s: How long one cell may take, in seconds.
        wall_s: How long one notebook may take, in seconds.
        start_timeout_s: How long a kernel may take to start, in seconds.
        progress: Where to tell people which notebook and which cell is running.

    Returns:
        The record. Ctrl-C, SIGTERM and SIGHUP end the run early, with ``interrupted_by`` set; they raise
        nothing.

    Raises:
        UsageError: A notebook cannot be read, a parameter is wrong, or the run's folder cannot be used;
            nothing was started.
        RunError: Another run uses the folder.
    """
    paths = find_notebooks(notebooks)
    if cell_timeout_s < 1 or start_timeout_s < 1 or not 0 < wall_s < math.inf:
        raise UsageError(
            "KNB709", "a time limit is not positive", why="a run without time would end at once",
            fix="Give seconds, 1 or more.",
        )  # fmt: skip
    assigned = assign_parameters(paths, parameters or {})
    names = _names(paths)
    folder = run_folder(out)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    waiting = [
        NotebookRun(name, "not_run", parameters=Secrets(given).mask_parameters(given))
        for name, given in zip(names, assigned, strict=True)
    ]
    run = Run("interrupted", tuple(waiting), folder, started, 0.0, _versions())
    with _sole_user(folder), _signals() as stop:
        done: list[NotebookRun] = []
        (folder / INDEX).unlink(missing_ok=True)  # a report of the run before would be taken for this one's
        for number, (path, name, given) in enumerate(zip(paths, names, assigned, strict=True), start=1):
            if stop:
                break
            # Written before it begins: should this process be killed, the record says what is true then.
            _write(
                replace(run, notebooks=(*done, replace(waiting[len(done)], **_UNDER_WAY), *waiting[number:]))
            )
            label = f"[{number}/{len(paths)}] {name}"
            job = Job(path, name, given, label, cell_timeout_s, wall_s, start_timeout_s)
            try:
                done.append(run_one(job, folder, stop=stop, progress=progress))
            except OSError as error:
                raise _unusable(folder, error.strerror or str(error)) from None
            run = replace(run, notebooks=(*done, *waiting[number:]), seconds=time.monotonic() - clock)
        cut = bool(stop) and (len(done) < len(paths) or done[-1].status == "interrupted")
        run = replace(run, status=_status(done, cut=cut), interrupted_by=stop[0] if cut else None)
        _write(run)
    return run


def _status(done: Sequence[NotebookRun], *, cut: bool) -> RunStatus:
    seen = {notebook.status for notebook in done}
    if cut:
        return "interrupted"
    return "failed" if "failed" in seen else "interrupted" if "interrupted" in seen else "succeeded"


def _write(run: Run) -> None:
    try:
        write_json(run.out / RECORD, run.to_json())
    except OSError as error:
        raise _unusable(run.out, error.strerror or str(error)) from None


def _names(paths: Sequence[Path]) -> list[str]:
    """Name each notebook by its file, and number those that share a name."""
    names: list[str] = []
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}-{number}", number + 1
        names.append(name)
    return names


def run_folder(out: str | os.PathLike[str] | None) -> Path:
    """Make the folder of a run, and prove that it can be written.

    Args:
        out: Which; ``runs/DATE-TIME`` in the current one when not given.

    Raises:
        UsageError: It cannot be used (KNB706).
    """
    try:
        if out is not None:
            folder = Path(out).absolute()
            make_folder(folder)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        stem = f"runs/{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        for number in range(1, 100):
            folder = Path(stem if number == 1 else f"{stem}-{number}").absolute()
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise _unusable(Path(out or "runs"), error.strerror or str(error)) from None
    raise _unusable(Path(stem), "a hundred runs began there in this second")


def _unusable(folder: Path, why: str) -> UsageError:
    return UsageError(
        "KNB706", f"the run's folder {folder} cannot be used", why=why, fix="Name another one with --out."
    )


@contextmanager
def _sole_user(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout:
        raise RunError(
            "KNB707",
            f"the run's folder {folder} is in use",
            why="another run is writing there",
            fix="Wait for it to end, or name another folder with --out.",
        ) from None


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collect the names of the signals that ask us to stop, which could tear us from half a file."""
    received: list[str] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only, and are its business
        return
    wanted = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from kimi_nb import __version__

    versions = {"python": platform.python_version(), "kimi_nb": __version__, "system": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        from kimi_nb.engine import find_build

        build = find_build()
    except KimiNbError:
        build = None
    if build is not None:
        versions["llama.cpp"] = f"{build.version} ({build.backend})"
    return versions
