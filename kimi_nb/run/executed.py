"""The executed notebook that a run leaves: without papermill's claims and secrets, marked where it failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kimi_nb.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from kimi_nb.run.record import Failure, NotebookStatus
    from kimi_nb.run.secrets import Secrets

__all__ = ["MARK", "save_executed"]

#: Papermill removes cells with this tag when the notebook is run again.
MARK = "papermill-error-cell-tag"
_INJECTED = "injected-parameters"


def save_executed(
    partial: Path,
    target: Path,
    *,
    status: NotebookStatus,
    error: Failure | None,
    parameters: dict[str, Any],
    secrets: Secrets,
) -> bool:
    """Write what a notebook's process left to its final place.

    Args:
        partial: What the process wrote last.
        target: Where the executed notebook belongs.
        status: What became of the notebook.
        error: Why it did not succeed.
        parameters: What it was given, secrets masked.
        secrets: What must not be in it; its count tells how often something was.

    Returns:
        Whether there was anything to write: a process that ended before its kernel started has left nothing.
    """
    try:
        notebook = json.loads(partial.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    cells = [cell for cell in notebook["cells"] if MARK not in cell["metadata"].get("tags", [])]
    for cell in cells:
        _tidy(cell, parameters)
    notebook["metadata"].pop("papermill", None)
    notebook["metadata"].pop("widgets", None)
    notebook["metadata"]["kimi_nb"] = {
        "status": status,
        "parameters": parameters,
        "error": None if error is None else error.to_json(),
    }
    notebook["cells"] = cells if error is None else _marked(cells, status, error)
    write_text(target, json.dumps(secrets.mask_tree(notebook), indent=1, ensure_ascii=False) + "\n")
    return True


def _tidy(cell: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Drop what papermill says of a cell, join what it printed, and write the injected parameters anew."""
    metadata = cell["metadata"]
    metadata.pop("papermill", None)
    if not metadata.get("tags", True):
        del metadata["tags"]
    if _INJECTED in metadata.get("tags", []):
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        cell["source"] = "\n".join(["# Parameters given to this run", *lines])
    joined: list[dict[str, Any]] = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            output["text"] = "".join(output["text"])
            if joined and joined[-1]["output_type"] == "stream" and joined[-1]["name"] == output["name"]:
                # A secret that was printed in two pieces would be found in neither.
                joined[-1]["text"] += output["text"]
                continue
        joined.append(output)
    for output in joined:
        if output["output_type"] == "stream" and "\r" in output["text"]:
            # A terminal shows what follows the last return. (nbclient's own way takes hours for a long line.)
            lines = output["text"].replace("\r\n", "\n").split("\n")
            output["text"] = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    if cell["cell_type"] == "code":
        cell["outputs"] = joined


def _marked(cells: list[dict[str, Any]], status: NotebookStatus, error: Failure) -> list[dict[str, Any]]:
    """Put a note at the top, and another before the cell that failed, which the first one links to."""
    # A block of HTML, because Markdown would make something of the stars and brackets that errors hold.
    text = f"<strong>This run {status}.</strong> {error.to_html()}"
    if error.cell is None:
        return [_note("kimi-nb-note", f"<p>{text}</p>"), *cells]
    given = [at for at, cell in enumerate(cells) if _INJECTED not in cell["metadata"].get("tags", [])]
    at = given[error.cell] if error.cell < len(given) else len(cells)
    link = '<a href="#kimi-nb-error">Go to the cell where it stopped.</a>'
    top = _note("kimi-nb-note", f"<p>{text} {link}</p>")
    here = _note("kimi-nb-mark", '<p id="kimi-nb-error"><strong>The run stopped in this cell:</strong></p>')
    return [top, *cells[:at], here, *cells[at:]]


def _note(id_: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": id_, "metadata": {"tags": [MARK]}, "source": source}
