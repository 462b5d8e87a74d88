"""The pinned source: llama-cpp-python's source distribution carries all of llama.cpp under ``vendor/``.

pip is the client, so that every mirror, proxy and certificate setting made for it holds here too.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.logged import run_logged
from kimi_nb.engine.storage import disk_full, engine_home, require_folder, storage_errors
from kimi_nb.errors import BuildError
from kimi_nb.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimi_nb.engine.storage import Progress

__all__ = ["COMMIT", "FILE", "SHA256", "VERSION", "fetch_sdist", "sdist_path", "unpack_sdist"]

VERSION = "0.3.36"
FILE = f"llama_cpp_python-{VERSION}.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
#: The commit of llama.cpp in it, as its submodule's HEAD says.
COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
MIB = 73

#: Parts of llama.cpp's tree that no build reads: 90 of its 140 MB.
UNUSED = frozenset(
    {
        *("benches", "ci", "conversion", "docs", "examples", "gguf-py", "grammars"),
        *("media", "models", "pocs", "requirements", "skills", "tests"),
    }
)

# pip asks a source distribution's build backend for metadata even when it only downloads. This stands in
# for the backend, so that nothing else is fetched and nothing unpinned is run.
_BACKEND = """\
import pathlib
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "llama_cpp_python-{version}.dist-info")
    folder.mkdir()
    text = "Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: {version}\\n"
    (folder / "METADATA").write_text(text)
    return folder.name
"""
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def sdist_path() -> Path:
    """Return where the source distribution is kept; a person without network may put it there by hand."""
    return engine_home() / "source" / FILE


def fetch_sdist(log: Path, report: Progress) -> Path:
    """Return the verified source distribution, fetching it where it is missing or damaged.

    Args:
        log: pip's output is appended here.
        report: Told what happens.

    Raises:
        BuildError: It cannot be had (KNB202), or what came is something else (KNB203).
    """
    path = sdist_path()
    if path.is_file():
        if sha256_file(path) == SHA256:
            return path
        report(f"{path} is damaged; fetching it again", None)
    require_folder(path.parent)
    with storage_errors(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as name:
        arrived = _pip_download(Path(name), log, report)
        arrived.replace(path)
    return path


def _pip_download(folder: Path, log: Path, report: Progress) -> Path:
    """Have pip put the file into ``folder``; pip itself checks the hash before it looks inside."""
    backend = folder / "scikit_build_core"
    backend.mkdir()
    (backend / "__init__.py").touch()
    (backend / "build.py").write_text(_BACKEND.format(version=VERSION))
    (folder / "pinned.txt").write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
    command: list[str | Path] = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"),
        *("--no-binary", "llama-cpp-python", "--require-hashes", "--requirement", folder / "pinned.txt"),
        *("--dest", folder / "got", "--no-input", "--disable-pip-version-check", "--progress-bar", "raw"),
    ]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        "TMPDIR": str(folder),  # pip unpacks the file to look at it, and /tmp may be small
    }
    lines: list[str] = []

    def on_line(line: str) -> None:
        if match := _PROGRESS.match(line):
            done, whole = int(match[1]), int(match[2])
            report(
                f"fetching llama.cpp's source: {done >> 20} of {whole >> 20} MiB",
                done / whole if whole else None,
            )
        else:
            lines.append(line)

    report(f"fetching llama.cpp's source ({FILE}, {MIB} MiB) with pip", None)
    code = run_logged(command, log=log, env=env, on_line=on_line)
    arrived = folder / "got" / FILE
    if code == 0 and arrived.is_file() and sha256_file(arrived) == SHA256:
        return arrived
    raise _explain("\n".join(lines), log)


def _explain(output: str, log: Path) -> BuildError:
    if "No space left on device" in output:
        return disk_full(engine_home(), 2 * MIB)
    if "DO NOT MATCH THE HASHES" in output or "ERROR" not in output:
        return BuildError(
            "KNB203",
            f"the file that came as {FILE} is not llama.cpp's pinned source",
            why=f"its sha256 is not {SHA256[:16]}…, so it is damaged or was replaced on the way",
            fix=f"Try again, or another package index (pip's own settings hold). pip's log: {log}",
        )
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return BuildError(
        "KNB202",
        "llama.cpp's source could not be fetched",
        why=f"pip says: {errors[0]}" if errors else "pip failed",
        fix=f"Check the network and pip's index and proxy settings, or put {FILE} at {sdist_path()} by hand. "
        f"pip's log: {log}",
    )


def unpack_sdist(archive: Path, folder: Path) -> None:
    """Unpack llama.cpp's tree without the parts that no build reads; ``folder`` appears when it is complete.

    Args:
        archive: The verified source distribution.
        folder: Where the tree goes.
    """
    prefix = f"{FILE.removesuffix('.tar.gz')}/vendor/llama.cpp/"

    def wanted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        for member in tar:
            inside = member.name.removeprefix(prefix)
            top = inside.partition("/")[0]
            if inside != member.name and not top.startswith(".") and top not in UNUSED:
                member.name = inside
                yield member

    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with storage_errors(folder), tarfile.open(archive) as tar:
        partial.mkdir(parents=True)
        # Python before 3.11.4, Debian 12's own among them, knows no filters.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(partial, members=wanted(tar))  # noqa: S202 - its hash has proven what is in it
        partial.replace(folder)
