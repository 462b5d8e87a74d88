"""``kimi-nb download``: fetch a quant of a model and prove that it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="M", help="a model of the catalog, such as kimi-k2.5, or nano")
    what.add_argument("--repo", metavar="NAMESPACE/NAME", help="any repository on the Hub")
    parser.add_argument("--quant", metavar="Q", help="which quant, such as UD-TQ1_0")
    parser.add_argument(
        "--include", metavar="PATTERN", action="append", default=[], help="further files, by pattern"
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: the pinned one, else main)"
    )
    parser.add_argument("--folder", metavar="DIR", type=Path, help="models folder (default: KIMI_NB_MODELS)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """Download, and say where the first shard is."""
    from kimi_nb.engine.download import download

    result = download(
        args.model or args.repo,
        args.quant,
        revision=args.revision,
        folder=args.folder,
        patterns=args.include,
    )
    if args.json:
        value = {
            "first_shard": str(result.first_shard),
            "files": [str(path) for path in result.files],
            "commit": result.manifest.commit,
            "fetched_bytes": result.fetched_bytes,
            "total_bytes": result.manifest.size,
            "transfer": result.transfer,
        }
        print(json.dumps(value))
    else:
        print(f"verified: {result.first_shard}")
    return 0
