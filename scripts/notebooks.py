"""Keep the notebooks and their percent sources in step.

    scripts/notebooks.py sync     make each notebooks/NAME.ipynb from notebooks/NAME.py
    scripts/notebooks.py check    say what is out of step or breaks a rule, and change nothing
    scripts/notebooks.py pull     take what was edited in the .ipynb files back into their sources

``notebooks/NAME.py`` is what people review and edit; the .ipynb is made from it, without outputs and with
nothing in its metadata that differs from machine to machine. A cell keeps its id as long as it can be
recognised, as ``jupytext --update`` does; a new cell gets an id made from its text, so that everyone makes
the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupytext.combine import map_outputs_to_inputs

sys.path.insert(0, str(Path(__file__).parent))

import notebook_rules as rules  # beside this script
import repository_rules

from kimi_nb.errors import UsageError
from kimi_nb.files import write_text
from kimi_nb.run.notebook import read_notebook

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---
"""


def generate(percent: str, name: str, before: str | None = None) -> str:
    """Make a notebook from its percent source.

    Args:
        percent: The source.
        name: The notebook's name without a suffix; new ids are made from it.
        before: The notebook as it was, whose ids are kept.

    Returns:
        The content of the .ipynb file.
    """
    source = jupytext.reads(percent, fmt="py:percent")
    old = [] if before is None else nbformat.reads(before, as_version=4).cells
    known = map_outputs_to_inputs(source.cells, old) if old else [None] * len(source.cells)
    taken = {old[at].id for at in known if at is not None}
    cells: list[Any] = []
    for cell, at in zip(source.cells, known, strict=True):
        id_ = old[at].id if at is not None else _new_id(name, cell.cell_type, cell.source, taken)
        taken.add(id_)
        made = {
            "cell_type": cell.cell_type,
            "id": id_,
            "metadata": dict(cell.metadata),
            "source": cell.source,
        }
        if cell.cell_type == "code":
            made |= {"execution_count": None, "outputs": []}
        cells.append(made)
    metadata = {"kernelspec": rules.KERNELSPEC, "language_info": {"name": "python"}}
    notebook = nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def _new_id(name: str, kind: str, source: str, taken: set[str]) -> str:
    number = 0
    while True:
        id_ = hashlib.sha256(f"{name}\n{kind}\n{number}\n{source}".encode()).hexdigest()[:8]
        if id_ not in taken:
            return id_
        number += 1


def percent_of(notebook: str) -> str:
    """Make the percent source of a notebook's text, with the complete header."""
    body = jupytext.writes(nbformat.reads(notebook, as_version=4), fmt="py:percent")
    return HEADER + re.sub(r"\A# ---\n.*?^# ---\n", "", body, flags=re.DOTALL | re.MULTILINE)


def out_of_step(folder: Path) -> list[str]:
    """Tell which notebooks are not what their sources make."""
    found = []
    for source in sorted(folder.glob("*.py")):
        target = source.with_suffix(".ipynb")
        percent = source.read_text(encoding="utf-8")
        found += [f"{source.name}: {what}" for what in repository_rules.complete_header(percent)]
        if not target.exists():
            found.append(f"{target.name} was not made from {source.name}")
        elif generate(percent, source.stem, before := target.read_text(encoding="utf-8")) != before:
            found.append(f"{target.name} is not what {source.name} makes")
    sources = {source.stem for source in folder.glob("*.py")}
    found += [
        f"{path.name} has no source {path.stem}.py"
        for path in folder.glob("*.ipynb")
        if path.stem not in sources
    ]
    return found


def check(root: Path) -> list[str]:
    """Tell what is out of step, and what breaks a rule."""
    folder = root / "notebooks"
    found = out_of_step(folder)
    for path in sorted(folder.glob("*.ipynb")):
        try:
            notebook = read_notebook(path)
        except UsageError as error:
            found.append(str(error))
            continue
        for name, rule in rules.RULES.items():
            found += [f"{path.name}: {what} ({name})" for what in rule(notebook)]
    names = sorted(path.name for path in folder.glob("*.ipynb"))
    readme = (root / "README.md").read_text(encoding="utf-8")
    return found + repository_rules.listed_in_readme(readme, names)


def sync(root: Path, *, force: bool = False) -> list[str]:
    """Make every notebook from its source; tell which were left alone because they had been edited since."""
    left: list[str] = []
    for source in sorted((root / "notebooks").glob("*.py")):
        target = source.with_suffix(".ipynb")
        before = target.read_text(encoding="utf-8") if target.exists() else None
        made = generate(source.read_text(encoding="utf-8"), source.stem, before)
        if made == before:
            continue
        newer = before is not None and target.stat().st_mtime > source.stat().st_mtime
        if newer and not force and percent_of(before or "") != percent_of(made):
            left.append(
                f"{target.name} was edited after {source.name}: pull keeps that, sync --force loses it"
            )
            continue
        write_text(target, made)
        print(f"made {target.relative_to(root)}")
    return left


def pull(root: Path) -> None:
    """Write the source of every notebook whose text differs from what its source makes."""
    for target in sorted((root / "notebooks").glob("*.ipynb")):
        source = target.with_suffix(".py")
        text = target.read_text(encoding="utf-8")
        now = percent_of(text)
        made = generate(source.read_text(encoding="utf-8"), source.stem, text) if source.exists() else None
        if made is None or percent_of(made) != now:
            write_text(source, now)
            print(f"wrote {source.relative_to(root)}")


def main(argv: list[str] | None = None) -> int:
    """Do what the verb says; return 1 if something is out of step or breaks a rule."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("verb", choices=["sync", "check", "pull"])
    parser.add_argument(
        "--force", action="store_true", help="sync: overwrite notebooks that were edited since"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.verb == "pull":
        pull(args.root)
    found = check(args.root) if args.verb == "check" else sync(args.root, force=args.force)
    for line in found:
        print(line, file=sys.stderr)
    if args.verb == "check" and not found:
        print("The notebooks are what their sources make, and keep every rule.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
