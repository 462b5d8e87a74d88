"""The one build of llama.cpp that everything here runs on: found, or made where there is none.

A build appears under its final name only when it is complete. Until then it lives in a work folder, which an
interruption of any kind leaves so that the next call continues.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kimi_nb.engine import manifest as manifests
from kimi_nb.engine.compile import PROGRAMS, Compilation
from kimi_nb.engine.jobs import default_jobs
from kimi_nb.engine.own_build import VARIABLE, backend_of, own_folder, version_of
from kimi_nb.engine.sdist import fetch_sdist, unpack_sdist
from kimi_nb.engine.storage import check_space, engine_home, require_folder, storage_errors
from kimi_nb.engine.target import Target, choose_target
from kimi_nb.engine.toolchain import ensure_tools, no_compiler
from kimi_nb.errors import BuildError, UsageError
from kimi_nb.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kimi_nb.engine.storage import Progress

__all__ = ["Build", "ensure_build", "find_build", "verify_build"]

#: Free space asked for before starting, and memory for each compiler, in MiB. For cpu, 290 MiB of disk were
#: measured (while pip has the source unpacked); for the others an allowance is added, which was not measured.
NEED_MIB = {"cpu": 500, "metal": 500, "vulkan": 800, "cuda": 2000}
JOB_MIB = {"cpu": 1500, "metal": 1500, "vulkan": 1500, "cuda": 2500}


@dataclass(frozen=True)
class Build:
    """A finished build: a folder with llama.cpp's programs and the shared libraries they use.

    Attributes:
        bin: The folder.
        backend: ``cpu``, ``cuda``, ``metal`` or ``vulkan``.
        version: What ``llama-server --version`` says.
        manifest: What it was made from, and each file's sha256; no ``files`` for a person's own build.
    """

    bin: Path
    backend: str
    version: str
    manifest: dict[str, Any] = field(repr=False)

    def program(self, name: str) -> Path:
        """Return the path of one of llama.cpp's programs, such as ``llama-server``.

        Raises:
            BuildError: The build does not have it (KNB201).
        """
        path = self.bin / name
        if not os.access(path, os.X_OK):
            own = not self.manifest.get("files")
            raise BuildError(
                "KNB201",
                f"there is no program {name} in {self.bin}",
                why="this is your own build, and it was not built there" if own else "we do not build it",
                fix=f"Build it there, or unset {VARIABLE}." if own else f"There are: {', '.join(PROGRAMS)}.",
            )
        return path


def find_build(
    *,
    backend: str | None = None,
    source: Path | None = None,
    ref: str | None = None,
    cuda_arch: str | None = None,
    whole: bool = True,
) -> Build | None:
    """Return the finished build for these choices if there is one; nothing is fetched or built.

    The choices and errors are those of :func:`ensure_build`.

    Args:
        backend: As there.
        source: As there.
        ref: As there.
        cuda_arch: As there.
        whole: Leave out a build of which a file is missing or has another size.
    """
    if source is None and ref is None and (own := _own(backend)):
        return own
    target = choose_target(backend=backend, source=source, ref=ref, cuda_arch=cuda_arch, fetch=False)
    return _finished(target, whole=whole) if target else None


def ensure_build(
    *,
    backend: str | None = None,
    source: Path | None = None,
    ref: str | None = None,
    cuda_arch: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Build:
    """Return the finished build for these choices, making it first where there is none.

    Making it takes some minutes (12 core-minutes for the CPU backend). Interrupted at any point, the
    next call continues; of two calls at once the second waits for the first.

    Args:
        backend: ``cpu``, ``cuda``, ``metal`` or ``vulkan``; by default what is on the machine decides.
        source: A checkout of llama.cpp to build instead of the pinned source.
        ref: A branch, tag or commit of upstream's repository to build instead.
        cuda_arch: CUDA architectures such as ``"90"`` or ``"86;89"``; by default those of the GPUs present.
        jobs: How many compilers run at once; by default as many as processors and memory allow.
        progress: Called with a line of text, and with the fraction done where there is one.

    Raises:
        UsageError: One of the choices is wrong.
        BuildError: It cannot be built; the message says why and what to do.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(
            "KNB207", f"cannot build with {jobs} jobs", why="at least 1 must run", fix="Give 1 or more."
        )
    report = progress or (lambda _text, _fraction: None)
    if source is None and ref is None and (own := _own(backend)):
        return own
    target = choose_target(backend=backend, source=source, ref=ref, cuda_arch=cuda_arch)
    assert target is not None  # noqa: S101 - it is None only where fetching is not allowed
    if found := _finished(target):
        return found
    with _locked(report):
        found = _finished(target) or _make(target, jobs, report)
        _tidy(target)
        return found


def verify_build(build: Build) -> list[str]:
    """Read every file of a build again and return one line for each that is not what was built."""
    return manifests.faults(build.bin.parent, build.manifest)


def _own(backend: str | None) -> Build | None:
    folder = own_folder()
    if folder is None:
        return None
    has = backend_of(folder)
    if backend not in {None, has}:
        raise UsageError(
            "KNB216",
            f"{VARIABLE} names a build for {has}, and {backend} is asked for",
            why="a person's own build is used as it is",
            fix=f"Unset {VARIABLE}, or drop the backend.",
        )
    return Build(folder, has, version_of(folder), {"own": True, "files": {}})


def _finished(target: Target, *, whole: bool = True) -> Build | None:
    if target.compiler is None:  # then what some compiler has made for the same rest is as good
        wanted = target.parts() | {"compiler": None}
        folders = sorted(target.folder.parent.glob(f"{target.backend.name}-*"))
        found = (_read(folder, whole=whole) for folder in folders)
        same = (build for build in found if build and build.manifest["parts"] | {"compiler": None} == wanted)
        return next(same, None)
    return _read(target.folder, whole=whole)


def _read(folder: Path, *, whole: bool) -> Build | None:
    manifest = manifests.read(folder)
    if manifest is None or (whole and not manifests.looks_complete(folder, manifest)):
        return None
    return Build(folder / "bin", manifest["backend"], manifest["version"], manifest)


@contextmanager
def _locked(report: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    home = require_folder(engine_home())
    lock = FileLock(home / "lock")  # the kernel lets go of it when its holder ends, even by kill -9
    with storage_errors(home):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report("another process is building llama.cpp; waiting until it is done", None)
            lock.acquire(poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()


def _make(target: Target, jobs: int | None, report: Progress) -> Build:
    if target.compiler is None:
        raise no_compiler()
    started = time.monotonic()
    continued = target.work.exists()
    check_space(engine_home(), NEED_MIB[target.backend.name] // (2 if continued else 1))
    require_folder(target.work)
    with storage_errors(engine_home()):
        require_folder(target.log.parent)
        target.log.write_text("")
    jobs = jobs or default_jobs(JOB_MIB[target.backend.name])
    report(f"building {target.source.label} for {target.backend.name}: {target.backend.why}", None)
    report(f"{'continuing' if continued else 'starting'}: {target.compiler.version}, {jobs} at once", None)
    compilation = Compilation(
        tree=_tree(target, report),
        work=target.work,
        flags=target.flags,
        compiler=target.compiler,
        tools=ensure_tools(target.log, report),
        log=target.log,
        report=report,
    )
    compilation.configure()
    compilation.compile(jobs)
    if target.as_it_is_now() != target:
        raise BuildError(
            "KNB204",
            f"the checkout {target.source.label} changed while it was being built",
            why="the programs may be a mixture of before and after",
            fix="Run the same command again: only what changed is compiled.",
        )
    record = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "continued": continued,
        "jobs": jobs,
    }
    return _finish(target, compilation.build / "bin", record)


def _tree(target: Target, report: Progress) -> Path:
    if target.source.folder is not None:
        return target.source.folder
    tree = target.work / "source"
    if not tree.exists():
        archive = fetch_sdist(target.log, report)
        report("unpacking llama.cpp's source", None)
        unpack_sdist(archive, tree)
    return tree


def _tidy(target: Target) -> None:
    """Remove the work folder; that of a checkout stays, so that after an edit only the edit is compiled."""
    if not target.may_be_edited:
        shutil.rmtree(target.work, ignore_errors=True)


def _version(target: Target, folder: Path) -> str:
    """Ask the program, which is not where it was built: this proves that the folder can be moved."""
    try:
        return version_of(folder)
    except BuildError as error:
        # A container for GPUs may be made where there is no driver; the programs cannot run there.
        if target.backend.name == "cuda" and "libcuda." in error.why:
            return f"not run yet (commit {(target.source.commit or 'unknown')[:9]})"
        raise


def _finish(target: Target, made: Path, record: dict[str, Any]) -> Build:
    """Move what was made to its final name, in one step, after everything else is written."""
    stage = target.folder.with_name(f".{target.key}.partial")
    with storage_errors(target.folder):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        made.replace(stage / "bin")
        manifest = {
            "version": _version(target, stage / "bin"),
            "backend": target.backend.name,
            "why": target.backend.why,
            "source": target.source.label,
            "commit": target.source.commit,
            **record,
            "parts": target.parts(),
            "files": manifests.inventory(stage / "bin"),
        }
        write_json(stage / manifests.NAME, manifest)
        shutil.rmtree(
            target.folder, ignore_errors=True
        )  # one that is there is damaged, or we would have found it
        stage.replace(target.folder)
    return Build(target.folder / "bin", target.backend.name, str(manifest["version"]), manifest)
