"""Papermill with an account of our own: which cell runs, which failed and why, what became of the kernel.

Papermill's own statuses cannot be trusted: when the kernel dies, a cell times out or Ctrl-C arrives it marks
every cell as completed, and it takes ``sys.exit(0)`` for success. So this engine, papermill's own point of
extension, tells a :class:`Watch` what really happens, and nobody reads papermill's statuses. It also saves so
that the executed notebook is never half a file, and bounds what a cell may print.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbclient.exceptions import CellExecutionError
from papermill import execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from kimi_nb.files import write_text
from kimi_nb.run.memory import PeakMemory
from kimi_nb.run.notebook import first_line, read_notebook

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Watch", "execute"]

NAME = "kimi-nb"
#: What one cell may print before the rest is dropped; a loop that prints would otherwise fill the memory.
CELL_PRINTS_BYTES = 8 << 20
#: Seconds between the end of a cell and its last output; papermill gives up after 4, too few on a busy
#: machine.
OUTPUT_LATE_S = 60
SAVE_EVERY_S = 10


@dataclass
class Watch:
    """What has happened in one attempt to run a notebook.

    Attributes:
        tell: Called with the name and the facts of each event, as it happens.
        cell: Index of the newest cell that was started, among the cells as given, without papermill's own.
        line: The first line of its source.
        running: Whether that cell has not ended yet.
        cells_run: How many cells have ended without an error.
        error: Class and message of the error that stopped the notebook.
        kernel: The kernel's process.
        memory: Its peak.
        client: The nbclient that runs the cells.
    """

    tell: Callable[..., None]
    cell: int | None = None
    line: str | None = None
    running: bool = False
    cells_run: int = 0
    error: tuple[str, str] | None = None
    kernel: subprocess.Popen[bytes] | None = None
    memory: PeakMemory | None = None
    client: Any = None
    injected: int | None = field(default=None, repr=False)

    def kernel_ready(self, notebook: Any) -> None:
        """Take note of the kernel; nbclient calls this when it answers."""
        self.kernel = self.client.km.provisioner.process
        self.memory = PeakMemory(self.client.km.provisioner.pid)
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        self.injected = next((at for at, tag in enumerate(tags) if "injected-parameters" in tag), None)

    def cell_begins(self, cell: Any, cell_index: int) -> None:
        """Take note of a cell that is about to run."""
        if cell_index != self.injected:
            self.cell = cell_index - int(self.injected is not None and cell_index > self.injected)
            self.line = first_line(cell.source)
            self.running = True
            self.tell("cell", cell=self.cell, line=self.line)

    def cell_ends(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        """Take note of a cell that has run, whether it raised or not."""
        if cell_index == self.injected:
            return
        self.running = False
        if self.memory is not None:
            self.memory.look()
        reply = execute_reply["content"]
        if any(payload.get("source") == "ask_exit" for payload in reply.get("payload", [])):
            # IPython's own `exit` reports success and ends the kernel a moment later, in the middle of the
            # next cell.
            self.error = ("SystemExit", "exit")
            raise CellExecutionError("", *self.error)
        if reply["status"] == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            self.error = (reply.get("ename", "Error"), reply.get("evalue", ""))
        else:
            self.cells_run += 1


class _Manager(NotebookExecutionManager):  # type: ignore[misc]  # papermill ships no types
    """Papermill's keeper of the notebook, which saves it whole or not at all."""

    def __init__(self, nb: Any, target: Path) -> None:
        self._target = target
        super().__init__(nb, progress_bar=False, autosave_cell_every=SAVE_EVERY_S)

    def save(self, nb: Any = None, **_: Any) -> None:
        if nb is not None:
            self.nb = nb
        write_text(self._target, json.dumps(self.nb), mode=0o600)
        self.last_save_time = self.now()


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill ships no types
    """Papermill's client, with a bound on what a cell may print."""

    _printed: tuple[int, int] = (-1, 0)

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            at, so_far = self._printed
            so_far = so_far if at == cell_index else 0
            size = len(msg["content"]["text"])
            self._printed = (cell_index, so_far + size)
            if so_far > CELL_PRINTS_BYTES:
                return None
            if so_far + size > CELL_PRINTS_BYTES:
                kept = msg["content"]["text"][: CELL_PRINTS_BYTES - so_far]
                mib = CELL_PRINTS_BYTES >> 20
                msg["content"]["text"] = (
                    f"{kept}\n[this cell printed more than {mib} MiB; the rest was dropped]\n"
                )
        return super().process_message(msg, cell, cell_index)


class _Engine(NBClientEngine):  # type: ignore[misc]  # papermill ships no types
    """What papermill runs our notebooks with."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        *,
        watch: Watch,
        target: Path,
        start_timeout: int,
        cell_timeout: int,
        **_: Any,
    ) -> Any:
        manager = _Manager(nb, target)
        manager.notebook_start()
        try:
            watch.client = _Client(
                manager,
                kernel_name=kernel_name,
                timeout=cell_timeout,
                startup_timeout=start_timeout,
                iopub_timeout=OUTPUT_LATE_S,
                on_notebook_start=watch.kernel_ready,
                on_cell_execute=watch.cell_begins,
                on_cell_executed=watch.cell_ends,
            )
            watch.client.execute()
        finally:
            if watch.memory is not None:
                watch.memory.stop()
            manager.notebook_complete()
        return manager.nb


papermill_engines.register(NAME, _Engine)


def execute(
    notebook: Path,
    target: Path,
    parameters: dict[str, Any],
    *,
    cell_timeout_s: int,
    start_timeout_s: int,
    watch: Watch,
) -> None:
    """Run ``notebook`` in this process's folder, keeping ``target`` up to date.

    Whether it succeeded is for the caller to tell: from what this raises, and from ``watch``.
    """
    execute_notebook(
        # Papermill formats paths with the parameters, so that a brace in a folder's name would break them.
        str(notebook).replace("{", "{{").replace("}", "}}"),
        None,
        parameters=parameters,
        engine_name=NAME,
        kernel_name=read_notebook(notebook)["metadata"].get("kernelspec", {}).get("name", "python3"),
        language="python",
        progress_bar=False,
        start_timeout=start_timeout_s,
        watch=watch,
        target=target,
        cell_timeout=cell_timeout_s,
    )
