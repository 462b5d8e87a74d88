"""``kimi-nb models``: what lies in the models folder, and how to remove it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from kimi_nb.commands._options import add_models_folder
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from kimi_nb.engine.fetch.shelf import Shelf


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "path", "remove"],
        default="list",
        help="what to do (default: list)",
    )
    parser.add_argument("name", nargs="?", help="namespace/name:quant, or a part of it that fits only one")
    add_models_folder(parser)
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument(
        "--adopted-too",
        action="store_true",
        help="delete an adopted set's files as well, not only our record",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(args: argparse.Namespace) -> int:
    """List sets, print the path of one, or remove one."""
    from kimi_nb.engine.fetch.shelf import Shelf
    from kimi_nb.engine.fetch.stock import find

    if args.folder is not None and args.folder.exists() and not args.folder.is_dir():
        raise UsageError(
            "KNB418", f"{args.folder} is no folder", why="models lie in one", fix="Name the models folder."
        )
    shelf = Shelf(args.folder)
    if args.action == "list":
        return _list(shelf, as_json=args.json)
    if args.name is None:
        raise UsageError(
            "KNB418",
            f"models {args.action} needs a name",
            why="it acts on one set",
            fix="See kimi-nb models.",
        )
    if args.action == "path":
        from kimi_nb.engine.download import first_shard

        path = str(first_shard(find(shelf, args.name)))
        print(json.dumps({"first_shard": path}) if args.json else path)
        return 0
    return _remove(shelf, args)


def _list(shelf: Shelf, *, as_json: bool) -> int:
    from kimi_nb.engine.fetch.stock import stock

    sets = stock(shelf)
    if as_json:
        print(json.dumps({"folder": str(shelf.folder), "models": [each.as_dict() for each in sets]}))
        return 0
    if not sets:
        print(f"no models in {shelf.folder}; see kimi-nb download --help")
    for each in sets:
        manifest = each.entry.manifest
        state = (
            f"{each.state}, {each.whole} of {len(manifest.files)} files"
            if each.state != "verified"
            else each.state
        )
        where = f"  adopted from {each.entry.root}" if each.entry.adopted else ""
        print(
            f"{each.here_bytes / 1e9:9.2f} of {manifest.size / 1e9:.2f} GB  {state}  {manifest.name}{where}"
        )
    return 0


def _remove(shelf: Shelf, args: argparse.Namespace) -> int:
    from kimi_nb.engine.fetch.stock import find, plan_removal, remove

    removal = plan_removal(shelf, find(shelf, args.name), adopted_too=args.adopted_too)
    name = removal.entry.manifest.name
    print(f"{name}: {len(removal.files)} files, {removal.freed_bytes / 1e9:.2f} GB", file=sys.stderr)
    for path in removal.kept:
        why = "adopted" if removal.entry.adopted and not args.adopted_too else "another set has it too"
        print(f"  stays: {path} ({why})", file=sys.stderr)
    if not args.yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "KNB418", f"{name} was not removed", why="nobody is there to be asked", fix="Add --yes."
            )
        print("Remove it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            print("nothing was removed", file=sys.stderr)
            return 1
    remove(shelf, removal)
    if args.json:
        value = {
            "removed": name,
            "files": [str(path) for path in removal.files],
            "freed_bytes": removal.freed_bytes,
        }
        print(json.dumps(value))
    else:
        print(f"removed {name}")
    return 0
