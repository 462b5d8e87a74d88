"""Which source of llama.cpp is built: the pinned one, a folder, or a git ref of upstream's repository."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kimi_nb.engine import sdist
from kimi_nb.engine.storage import engine_home, require_folder, storage_errors
from kimi_nb.errors import BuildError, UsageError
from kimi_nb.files import at_home, sha256_file, write_json

__all__ = ["Source", "fetch_ref", "fetched_ref", "folder_source", "pinned_source"]

#: git's own ``url.<base>.insteadOf`` setting leads to a mirror.
REPOSITORY = "https://github.com/ggml-org/llama.cpp"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """A tree of llama.cpp.

    Attributes:
        identity: Differs where the content differs.
        label: For people.
        commit: Upstream's commit, where it is known.
        folder: Where the tree is; None for the pinned source, which is unpacked for each build.
    """

    identity: str
    label: str
    commit: str | None
    folder: Path | None


def pinned_source() -> Source:
    """Return the source that this version of kimi-nb is made for."""
    return Source(f"sdist:{sdist.SHA256}", f"{sdist.FILE} (llama.cpp {sdist.COMMIT[:9]})", sdist.COMMIT, None)


def folder_source(folder: Path) -> Source:
    """Return a checkout as the source; its identity is a hash over the files that a build can read.

    Raises:
        UsageError: The folder does not hold llama.cpp.
    """
    folder = at_home(folder).absolute()
    lacking = [name for name in ("CMakeLists.txt", "include/llama.h") if not (folder / name).is_file()]
    if lacking:
        raise UsageError(
            "KNB204",
            f"{folder} is not a checkout of llama.cpp",
            why=f"it has no {lacking[0]}"
            if folder.is_dir()
            else "it is a file"
            if folder.exists()
            else "there is no such folder",
            fix="Name the top folder of a checkout: the one that holds CMakeLists.txt and include/llama.h.",
        )
    return Source(f"tree:{_tree_hash(folder)}", str(folder), None, folder)


def _tree_hash(folder: Path) -> str:
    total = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        here = Path(place)
        top = here == folder
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not (top and name in sdist.UNUSED)
            and not (
                here / name / "CMakeCache.txt"
            ).exists()  # a build that a person made inside the checkout
        )
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and path.is_file():
                total.update(f"{path.relative_to(folder)}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


def fetched_ref(ref: str) -> Source | None:
    """Return the source of ``ref`` as it was last fetched, or None; no network is used."""
    commit = ref if _COMMIT.fullmatch(ref) else _refs().get(ref)
    folder = engine_home() / "source" / f"git-{commit}"
    return _ref_source(ref, commit, folder) if commit and folder.is_dir() else None


def _ref_source(ref: str, commit: str, folder: Path) -> Source:
    return Source(f"git:{commit}", f"llama.cpp {ref} (commit {commit[:9]})", commit, folder)


def _refs() -> dict[str, str]:
    try:
        return dict(json.loads((engine_home() / "source" / "refs.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def fetch_ref(ref: str) -> Source:
    """Fetch a branch, a tag or a commit of upstream's repository, without its history.

    Raises:
        UsageError: The ref is no ref.
        BuildError: git is missing, the network is, or upstream has no such ref.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", ref):
        raise UsageError(
            "KNB205", f"{ref!r} is not a git ref", why="it has characters that no ref has", fix="Try master."
        )
    if _COMMIT.fullmatch(ref) and (known := fetched_ref(ref)):
        return known
    if shutil.which("git") is None:
        raise BuildError(
            "KNB205",
            f"llama.cpp {ref} cannot be fetched",
            why="git is not installed",
            fix="Install git, or drop --ref.",
        )
    home = require_folder(engine_home() / "source")
    with storage_errors(home), tempfile.TemporaryDirectory(dir=home, prefix=".fetch-") as name:
        tree = Path(name) / "tree"
        tree.mkdir()
        _git(ref, tree, "init", "--quiet")
        _git(ref, tree, "fetch", "--quiet", "--depth", "1", REPOSITORY, ref)
        _git(ref, tree, "checkout", "--quiet", "FETCH_HEAD")
        commit = _git(ref, tree, "rev-parse", "HEAD").strip()
        folder = home / f"git-{commit}"
        if not folder.exists():
            tree.replace(folder)
        write_json(home / "refs.json", _refs() | {ref: commit})
    return _ref_source(ref, commit, folder)


def _git(ref: str, folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", folder, *words],  # noqa: S607 - the git that the user's PATH names is the one meant
        capture_output=True,
        check=False,
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        errors="replace",
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))] or [
            "git failed"
        ]
        raise BuildError(
            "KNB205",
            f"llama.cpp {ref} could not be fetched",
            why=said[0],
            fix=f"Check the network and the ref: git ls-remote {REPOSITORY} {ref}",
        )
    return done.stdout
