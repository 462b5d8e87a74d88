"""The notebooks that come with kimi-nb: those of a clone as they lie, those of an installation as copies.

A wheel carries the notebooks inside the package, where nobody should write: a run reads them there, and
JupyterLab is given a folder of copies, which are the person's own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb import __version__
from kimi_nb.errors import RunError, UsageError
from kimi_nb.files import make_folder, sha256_file, write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COPIES", "WorkingFolder", "named_notebook", "notebooks_folder", "working_folder"]

#: The folder of copies that ``kimi-nb lab`` makes where it is called.
COPIES = "kimi-nb-notebooks"
#: Beside the copies: which originals they were made from, by name. Without it every file counts as changed.
_ORIGINS = ".kimi-nb.json"
_PACKAGE = Path(__file__).parents[1]
_WAIT_S = 30.0


@dataclass(frozen=True)
class WorkingFolder:
    """The notebooks that a person edits.

    Attributes:
        folder: Where they are.
        told: What there is to say about it, in lines; nothing in a clone.
    """

    folder: Path
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Step:
    """One notebook that is not yet what it should be; ``target`` is None where only the record is behind."""

    original: Path
    sha256: str
    target: Path | None
    told: str | None


def notebooks_folder(start: Path | None = None) -> Path:
    """Return the folder with the notebooks: of the clone around ``start``, else those of this package.

    Args:
        start: Where to look from; the current folder when not given.

    Raises:
        UsageError: There is none (KNB721).
    """
    here = (start or Path.cwd()).absolute()
    for folder in [here, *here.parents, _PACKAGE, _PACKAGE.parent]:
        notebooks = folder / "notebooks"
        if (notebooks / "01_setup.ipynb").is_file():
            return notebooks
    raise UsageError(
        "KNB721",
        "the notebooks were not found",
        why=f"neither {here} nor a folder above it is a clone of this repository, and {_PACKAGE} has none",
        fix="Go into a clone, or install kimi-nb again from its wheel.",
    )


def named_notebook(word: str, start: Path | None = None) -> Path | None:
    """Return the notebook that a number (``4``) or a name (``inference``, ``04_inference``) stands for.

    Of an installation it is the original, unless the person changed their copy of it.

    Args:
        word: What was typed.
        start: Where to look from; the current folder when not given.
    """
    try:
        source = notebooks_folder(start)
    except UsageError:
        return None
    name = word.removesuffix(".ipynb")
    for original in sorted(source.glob("*.ipynb")):
        number, _, title = original.stem.partition("_")
        same = name.isdecimal() and name.lstrip("0") == number.lstrip("0")
        if same or name in {original.stem, title}:
            return _changed_copy(original, start) or original
    return None


def working_folder(start: Path | None = None) -> WorkingFolder:
    """Return the notebooks to edit: the clone's, or copies of the installed ones, brought up to date.

    The copies are made in ``kimi-nb-notebooks`` in the folder ``start``. What a person changed there stays
    as it is; where this version's notebook differs from the one that they began with, it is put beside
    theirs under a name of its own.

    Raises:
        UsageError: There are no notebooks (KNB721), or the copies cannot be written (KNB723).
        RunError: Another process is writing them, and does not end (KNB723).
    """
    source = notebooks_folder(start)
    if source != _PACKAGE / "notebooks":
        return WorkingFolder(source)
    folder = _copies_folder(start)
    where = f"The notebooks are in {folder}, and yours to edit."
    if not _steps(source, folder):
        return WorkingFolder(folder, (where,))
    from filelock import FileLock, Timeout

    try:
        make_folder(folder)
        with FileLock(folder / ".kimi-nb.lock", timeout=_WAIT_S):
            steps = _steps(source, folder)  # another call may have taken them meanwhile
            _take(steps, folder)
    except Timeout:
        why = f"another kimi-nb has been writing there for {_WAIT_S:.0f} s"
        raise RunError("KNB723", _not_copied(folder), why=why, fix="End it, and try again.") from None
    except OSError as error:
        raise UsageError(
            "KNB723",
            _not_copied(folder),
            why=error.strerror or str(error),
            fix="Go to a folder that you may write to and call kimi-nb lab there.",
        ) from None
    return WorkingFolder(folder, (where, *(step.told for step in steps if step.told)))


def _copies_folder(start: Path | None) -> Path:
    here = (start or Path.cwd()).absolute()
    # Called again from among the copies, it means these and not copies within them. Above this folder only
    # their own name counts: anybody may write a record into /tmp.
    around = [here, *(place for place in here.parents if place.name == COPIES)]
    return next((place for place in around if (place / _ORIGINS).is_file()), here / COPIES)


def _steps(source: Path, folder: Path) -> list[_Step]:
    origins = _origins(folder)
    steps = []
    for original in sorted(source.glob("*.ipynb")):
        new, began, copy = sha256_file(original), origins.get(original.name), folder / original.name
        if not os.path.lexists(copy):
            steps.append(_Step(original, new, copy, None))
        elif began == new:
            continue
        elif (has := _sha256(copy)) == new:
            steps.append(_Step(original, new, None, None))
        elif has is not None and has == began:
            told = f"{copy.name} is now this version's: you had not changed it."
            steps.append(_Step(original, new, copy, told))
        else:
            beside = copy.with_stem(f"{copy.stem}-{__version__}")
            told = f"{copy.name} stays as you changed it; this version's is {beside.name}, beside it."
            steps.append(_Step(original, new, None if os.path.lexists(beside) else beside, told))
    return steps


def _take(steps: Iterable[_Step], folder: Path) -> None:
    for step in steps:
        if step.target is not None:
            write_bytes(step.target, step.original.read_bytes())
    # Last: what is written and not yet recorded is found to be this version's when this is called again.
    write_json(folder / _ORIGINS, _origins(folder) | {step.original.name: step.sha256 for step in steps})


def _changed_copy(original: Path, start: Path | None) -> Path | None:
    if original.parent != _PACKAGE / "notebooks":
        return None
    folder = _copies_folder(start)
    copy = folder / original.name
    if not copy.is_file():
        return None
    unchanged = {sha256_file(original), _origins(folder).get(original.name)}
    return None if _sha256(copy) in unchanged else copy


def _origins(folder: Path) -> dict[str, str]:
    try:
        known = json.loads((folder / _ORIGINS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sha256(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None  # a folder, or not ours to read: not what we wrote


def _not_copied(folder: Path) -> str:
    return f"the notebooks cannot be copied into {folder}"
