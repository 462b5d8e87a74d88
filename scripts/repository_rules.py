"""The rules about notebooks and tests that other files must keep: sources, README, and what CI runs."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def complete_header(percent: str) -> list[str]:
    """Tell what the header of a percent source lacks."""
    parts = percent.split("# ---\n")
    if not percent.startswith("# ---\n") or len(parts) < 3:  # noqa: PLR2004 - before, header, after
        return ["the source has no header between two lines `# ---`"]
    wanted = ["extension: .py", "format_name: percent", "format_version:", "kernelspec:", "name: python3"]
    found = [f"the header lacks `{line}`" for line in wanted if line not in parts[1]]
    return found + (["the header holds jupytext_version"] if "jupytext_version" in parts[1] else [])


def listed_in_readme(readme: str, names: Iterable[str]) -> list[str]:
    """Tell which notebooks the README does not link."""
    return [
        f"README.md does not link notebooks/{name}" for name in names if f"(notebooks/{name})" not in readme
    ]


def run_in_ci(ci: str, makefile: str, programs: str, names: Iterable[str]) -> list[str]:
    """Tell which notebooks CI does not run.

    Args:
        ci: The text of the script that CI runs.
        makefile: The Makefile whose targets it makes.
        programs: The source of the command that runs the notebooks.
        names: The notebooks' file names.
    """
    commands = "\n".join(_reachable(ci, makefile))
    if "kimi-nb demo" in commands:
        commands += "\n" + programs
    whole = re.search(r"\*\.ipynb|notebooks_folder\(|find_notebooks\(", commands)
    return [
        f"CI does not run {name}"
        for name in names
        if not whole and name.removesuffix(".ipynb") not in commands
    ]


def tests_run_in_ci(ci: str, makefile: str, files: Iterable[str]) -> list[str]:
    """Tell which test files CI does not run.

    Args:
        ci: The text of the script that CI runs.
        makefile: The Makefile whose targets it makes.
        files: The test files' paths in the repository.
    """
    runs = [line for line in _reachable(ci, makefile) if re.search(r"\bpytest\b", line)]
    return [f"CI does not run {file}" for file in files if not any(_collects(line, file) for line in runs)]


def _collects(line: str, file: str) -> bool:
    words = line.split("pytest", 1)[1].replace('"', "").split()
    left_out = [
        word.split("=", 1)[1]
        for word in words
        if word.startswith(("--ignore=", "--ignore-glob=", "--deselect="))
    ]
    if any(fnmatch.fnmatch(file, pattern) or file.startswith(pattern) for pattern in left_out):
        return False
    paths = [word for word in words if word.startswith("tests")]
    return not paths or any(file == path or file.startswith(path.rstrip("/") + "/") for path in paths)


def _reachable(ci: str, makefile: str) -> list[str]:
    """List the commands that CI comes to: its own lines, and the recipes of the targets it makes."""
    recipes: dict[str, list[str]] = {}
    before: dict[str, list[str]] = {}
    target = ""
    for line in makefile.splitlines():
        if line.startswith("\t"):
            recipes.setdefault(target, []).append(line.strip())
        elif match := re.match(r"^([a-z-]+):([^=#]*)", line):
            target = match[1]
            before[target] = match[2].split()
    lines = [line.strip() for line in ci.splitlines() if not line.lstrip().startswith("#")]
    waiting = [word for line in lines if line.startswith("make ") for word in line.split()[1:]]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += before.get(name, [])
            lines += [line for line in recipes.get(name, []) if not line.lstrip("@").startswith("#")]
    return lines
