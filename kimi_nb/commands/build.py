"""``kimi-nb build``: build llama.cpp, once, for every later step."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.commands._types import whole
from kimi_nb.engine.backend import BACKENDS
from kimi_nb.engine.build import ensure_build, find_build, verify_build
from kimi_nb.errors import BuildError
from kimi_nb.progress import ProgressLine, bar

if TYPE_CHECKING:
    import argparse

    from kimi_nb.engine.build import Build

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--backend", choices=BACKENDS, help="what to build for; default: chosen from what is on this machine"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--source", type=Path, metavar="DIR", help="build this checkout of llama.cpp")
    source.add_argument("--ref", help="build this branch, tag or commit of upstream's repository (needs git)")
    parser.add_argument("--cuda-arch", metavar="N", help='such as 90, or "86;89"; default: the GPUs present')
    parser.add_argument(
        "--jobs", type=whole(1), metavar="N", help="compilers at once; default: what memory allows"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read a finished build again and check every hash"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Build, or verify what was built."""
    choices: dict[str, Any] = {
        "backend": args.backend,
        "source": args.source,
        "ref": args.ref,
        "cuda_arch": args.cuda_arch,
    }
    if args.verify:
        return _verify(find_build(**choices, whole=False), as_json=args.json)
    line = ProgressLine()

    def show(text: str, done: float | None) -> None:
        if done is None:
            line.done(text)
        else:
            line.update(f"{bar(done)} {text}")

    build = ensure_build(**choices, jobs=args.jobs, progress=show)
    line.done(f"llama.cpp {build.version} is ready")
    if args.json:
        print(json.dumps(_as_dict(build)))
        return 0
    seconds = build.manifest.get("seconds")
    print(f"  backend  {build.backend} ({build.manifest.get('why', 'your own build')})")
    if seconds is not None:
        print(f"  made     {build.manifest['made']} in {seconds:.0f} s")
    print(f"  programs {build.bin}")
    return 0


def _as_dict(build: Build) -> dict[str, Any]:
    keys = ("why", "source", "commit", "made", "seconds", "jobs", "parts", "files")
    about = {key: build.manifest[key] for key in keys if key in build.manifest}
    return {"bin": str(build.bin), "backend": build.backend, "version": build.version, **about}


def _verify(build: Build | None, *, as_json: bool) -> int:
    if build is None:
        raise BuildError(
            "KNB200", "there is no finished build to verify", why="none was made", fix="kimi-nb build"
        )
    files = build.manifest["files"]
    if not files:
        raise BuildError(
            "KNB200",
            "a build of your own cannot be verified",
            why="it has no manifest",
            fix="Unset KIMI_NB_LLAMA_CPP.",
        )
    faults = verify_build(build)
    if faults:
        folder = build.bin.parent
        error = BuildError(
            "KNB219",
            f"the build in {folder} is damaged",
            why="; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if faults[3:] else ""),
            fix=f"rm -r {shlex.quote(str(folder))} && kimi-nb build",
        )
        raise error
    if as_json:
        print(json.dumps({"ok": True, "checked": len(files), **_as_dict(build)}))
    else:
        print(f"all {len(files)} files in {build.bin} are what was built")
    return 0
