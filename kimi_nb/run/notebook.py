"""Read notebooks, and say clearly what is wrong with one that cannot be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import UsageError
from kimi_nb.run.shipped import named_notebook

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

__all__ = ["code_cells", "find_notebooks", "first_line", "read_notebook", "source_of", "tags_of"]


def find_notebooks(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the notebooks that ``paths`` name.

    A folder stands for the notebooks in it, by name. A word that names nothing here can be the number or the
    name of a notebook that comes with kimi-nb.

    Raises:
        UsageError: A path is not there, or is neither a notebook nor a folder with notebooks.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(path.glob("*.ipynb"))
            if not inside:
                raise _not_a_notebook(path, "the folder holds no .ipynb file")
            found += inside
        elif not path.exists():
            ours = named_notebook(path.name) if path == Path(path.name) else None
            if ours is None:
                raise _not_a_notebook(path, "there is no such file")
            found.append(ours)
        elif path.suffix != ".ipynb":
            raise _not_a_notebook(path, f"its name ends in {path.suffix or 'nothing'!s} and not in .ipynb")
        else:
            found.append(path)
    if not found:
        raise UsageError(
            "KNB701",
            "there is nothing to run",
            why="no notebook was named",
            fix="Name a notebook or a folder.",
        )
    return found


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a Python notebook's content.

    Raises:
        UsageError: The file cannot be read, or is not a notebook of format 4 for Python.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _not_a_notebook(path, "there is no such file") from None
    except OSError as error:
        raise _not_a_notebook(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _broken(path, "it is not text", "Fetch it again.") from None
    try:
        notebook = json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, _why_not_json(text, error), "Fetch it again, or restore it from git.") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise _broken(path, "it is JSON, but has no list of cells", "Save it again from JupyterLab.")
    if notebook.get("nbformat") != 4:  # noqa: PLR2004 - the format's number
        raise _broken(
            path, f"its format is {notebook.get('nbformat')!r} and not 4", "Save it again from JupyterLab."
        )
    if not all(
        isinstance(cell, dict) and "cell_type" in cell and "source" in cell for cell in notebook["cells"]
    ):
        raise _broken(path, "one of its cells has no type or no source", "Save it again from JupyterLab.")
    metadata = notebook.setdefault("metadata", {})
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    if language not in {None, "python"}:
        raise _broken(path, f"it is written in {language}", "Only Python notebooks can be run.")
    return notebook


def source_of(cell: dict[str, Any]) -> str:
    """Return a cell's source as one text; the format allows a list of lines too."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags_of(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    tags = cell.get("metadata", {}).get("tags", [])
    return tags if isinstance(tags, list) else []


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells that a run executes, which are those with code in them."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and source_of(cell).strip()]


def first_line(source: str, *, most: int = 100) -> str:
    """Return the first line of a source that has something in it, cut to ``most`` characters."""
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 1] + "…"


def _not_a_notebook(path: Path, why: str) -> UsageError:
    return UsageError(
        "KNB701",
        f"cannot run {path}",
        why=why,
        fix="Name a notebook (.ipynb), a folder that holds some, or one of kimi-nb's own by its number.",
    )


def _broken(path: Path, why: str, fix: str) -> UsageError:
    return UsageError("KNB702", f"{path.name} is not a notebook that can be run", why=why, fix=fix)


def _why_not_json(text: str, error: json.JSONDecodeError) -> str:
    start = text.lstrip()[:200].lower()
    if not start:
        return "the file is empty"
    if start.startswith("version https://git-lfs"):
        return "it is a Git LFS pointer and not the file itself"
    if start.startswith(("<!doctype", "<html")):
        return "it is a web page"
    if error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated"):
        return "it ends in the middle, as a copy that was cut off does"
    return f"its JSON is broken at line {error.lineno}: {error.msg}"
