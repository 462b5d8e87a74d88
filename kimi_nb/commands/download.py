"""``kimi-nb download``: fetch a quant of a model and prove that it is whole."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.commands._options import add_models_folder
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from kimi_nb.engine.download import DownloadPlan, DownloadResult

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_MIB = 1024 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", metavar="M", help="a model of the catalog, such as kimi-k2.5, or nano")
    what.add_argument("--repo", metavar="NAMESPACE/NAME", help="any repository on the Hub")
    parser.add_argument("--quant", metavar="Q", help="which quant, such as UD-TQ1_0")
    parser.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="more files, by pattern; repeatable",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: pinned, else main)"
    )
    parser.add_argument("--update", action="store_true", help="take the newest commit although a set is here")
    add_models_folder(parser)
    parser.add_argument(
        "--no-fit-check", action="store_true", help="do not look whether the model suits this machine"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="say what would be done, and do none of it")
    mode.add_argument(
        "--verify",
        metavar="DIR",
        nargs="?",
        const="",
        help="hash a set again, or a folder that something else filled, and fetch only what is broken",
    )
    parser.add_argument("--no-repair", action="store_true", help="with --verify: change nothing")
    parser.add_argument(
        "--limit-rate", metavar="RATE", type=_rate, help="bytes a second at most, such as 20M"
    )
    parser.add_argument(
        "--connections", metavar="N", type=_count, default=8, help="at once (default: %(default)s)"
    )
    parser.add_argument(
        "--window-mib",
        metavar="N",
        type=_count,
        default=8,
        help="the most of a file an interruption may cost; more is faster from afar (default: %(default)s)",
    )
    parser.add_argument(
        "--transfer",
        choices=["auto", "http", "xet"],
        default="auto",
        help="how files come (default: whichever the repository and this machine offer)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Download, verify or plan, and say where the first shard is."""
    if args.model is None and args.repo is None and args.verify is None:
        raise UsageError(
            "KNB405",
            "nothing to download was named",
            why="neither --model nor --repo was given",
            fix="For example: kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0",
        )
    if args.repo is not None and not re.fullmatch(r"[^/\s]+/[^/\s]+", args.repo):
        raise UsageError(
            "KNB405",
            f"there is no repository {args.repo!r}",
            why="its name on the Hub is a namespace, a slash and a name",
            fix="Such as --repo unsloth/Kimi-K2.5-GGUF.",
        )
    if args.model == "nano":
        return _nano(as_json=args.json)
    return _plan(args) if args.dry_run else _bring(args)


def _where(args: argparse.Namespace) -> dict[str, Any]:
    """Return which set is meant, where it lies, and how to transfer: what every function here takes."""
    from kimi_nb.engine.download import Options

    options = Options(
        connections=args.connections,
        limit_bytes_s=args.limit_rate,
        window=args.window_mib * _MIB,
        transfer=args.transfer,
    )
    model = args.model or args.repo
    return {
        "model": model,
        "quant": args.quant,
        "revision": args.revision,
        "folder": args.folder,
        "options": options,
    }


def _set(args: argparse.Namespace) -> dict[str, Any]:
    """Return that, and what belongs to a set that is fetched as a whole."""
    whole = {"patterns": args.include, "update": args.update, "check_fit": not args.no_fit_check}
    return _where(args) | whole


def _bring(args: argparse.Namespace) -> int:
    from kimi_nb.engine.download import download, verify
    from kimi_nb.engine.fetch.show import Show

    with Show() as show:
        if args.verify is None:
            result = download(**_set(args), progress=show.progress, notice=show.notice)
        else:
            result = verify(
                Path(args.verify) if args.verify else None,
                **_where(args),
                repair=not args.no_repair,
                progress=show.progress,
                notice=show.notice,
            )
    if args.json:
        print(json.dumps(_as_json(result)))
    else:
        print(_as_text(result))
    return 0


def _as_json(result: DownloadResult) -> dict[str, object]:
    return {
        "first_shard": str(result.first_shard),
        "files": [str(path) for path in result.files],
        "repo": result.manifest.repo,
        "quant": result.manifest.quant,
        "commit": result.manifest.commit,
        "total_bytes": result.manifest.size,
        "fetched_bytes": result.fetched_bytes,
        "repaired": [look.as_dict() for look in result.repaired],
        "linked": {path: str(place) for path, place in result.linked},
        "transfer": result.transfer,
        "verified": True,
    }


def _as_text(result: DownloadResult) -> str:
    lines = [f"{look.file.path} was {look.verdict.value} and is whole now" for look in result.repaired]
    lines += [f"{path} is linked to {place}" for path, place in result.linked]
    if result.transfer:
        lines.append(f"fetched {result.fetched_bytes / 1e9:.2f} GB by {result.transfer}")
    lines.append(f"{len(result.files)} files, {result.manifest.size / 1e9:.2f} GB, every byte verified")
    return "\n".join([*lines, f"first shard: {result.first_shard}"])


def _plan(args: argparse.Namespace) -> int:
    from kimi_nb.engine.download import plan_download

    plan = plan_download(**_set(args))
    if args.json:
        print(json.dumps(_plan_json(plan)))
        return 0
    for look in plan.checked:
        print(f"{look.file.size / 1e9:9.2f} GB  {look.verdict.value:12}  {look.file.path}")
    manifest = plan.manifest
    print(f"{manifest.size / 1e9:9.2f} GB in all, {manifest.repo} at commit {manifest.commit}")
    print(f"{plan.fetch_bytes / 1e9:9.2f} GB to fetch into {plan.folder}, by {plan.transfer}")
    print(f"{plan.room.free_bytes / 1e9:9.2f} GB free on {plan.room.mount} ({plan.room.filesystem})")
    for line in (*plan.warnings, *plan.outlook):
        print(f"note: {line}")
    return 0


def _plan_json(plan: DownloadPlan) -> dict[str, object]:
    return {
        "repo": plan.manifest.repo,
        "quant": plan.manifest.quant,
        "commit": plan.manifest.commit,
        "folder": str(plan.folder),
        "files": [
            {**look.as_dict(), "bytes": look.file.size, "sha256": look.file.sha256} for look in plan.checked
        ],
        "total_bytes": plan.manifest.size,
        "fetch_bytes": plan.fetch_bytes,
        "free_bytes": plan.room.free_bytes,
        "filesystem": plan.room.filesystem,
        "transfer": plan.transfer,
        "warnings": [*plan.warnings, *plan.outlook],
    }


def _nano(*, as_json: bool) -> int:
    """Nano ships with this package: there is nothing to fetch."""
    from kimi_nb.nano import nano_path

    path = nano_path()
    size = path.stat().st_size
    if as_json:
        print(
            json.dumps(
                {"first_shard": str(path), "files": [str(path)], "total_bytes": size, "fetched_bytes": 0}
            )
        )
    else:
        print(f"nano ships with this package, and is verified: {path}")
    return 0


def _rate(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?(?:/s)?", text.lower())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: write 20M for 20 million bytes a second")
    return float(match[1]) * _UNITS[match[2]]


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1024:  # noqa: PLR2004 - more is a slip of the finger
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1024")
    return int(text)
