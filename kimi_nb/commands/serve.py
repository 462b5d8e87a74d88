"""``kimi-nb serve``: run llama-server on 127.0.0.1 until told to stop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.llama_server import LlamaServer, RestartPolicy
from kimi_nb.engine.runtime_folder import forget_key, keep_key
from kimi_nb.errors import ServerError, UsageError
from kimi_nb.plan.arguments import add_settings, read_settings
from kimi_nb.progress import ProgressLine, bar

if TYPE_CHECKING:
    import argparse
    from types import FrameType

__all__ = ["configure", "main"]


class _ToldToStop(BaseException):
    """A signal said so; like KeyboardInterrupt, nothing that handles errors should catch it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--model", required=True, metavar="nano|FILE", help="nano, or a GGUF file of your own"
    )
    parser.add_argument("--alias", metavar="NAME", help="the name that clients ask for; default: the file's")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="on 127.0.0.1; default: a free one")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="take the key from this environment variable; default: make one"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="where the server's log goes")
    parser.add_argument("--restart", action="store_true", help="start it again when it ends by itself")
    parser.add_argument("--json", action="store_true", help="print one line of JSON when it is ready")
    add_settings(parser)


def main(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; 0 when it was stopped so, 1 when it failed, 130 when not even ready."""
    line = ProgressLine()
    server = LlamaServer(
        _model(args.model),
        settings=read_settings(args),
        alias=args.alias or ("nano" if args.model == "nano" else None),
        port=args.port,
        api_key=_key(args.api_key_env),
        log_path=args.log,
        on_progress=lambda text, done: line.update(text if done is None else f"{bar(done)} {text}"),
        restart=RestartPolicy() if args.restart else None,
    )
    key_file = None
    ready = False
    _raise_on_signals()
    try:
        key_file = None if args.api_key_env else keep_key(server.api_key)
        server.start()
        line.done(f"{server.alias} is ready at {server.base_url}")
        print(_announcement(server, args.api_key_env, key_file, as_json=args.json), flush=True)
        ready = True
        server.wait()
        raise server.error or ServerError(
            "KNB533", "the server is down", why="it was stopped", fix="Start it again."
        )
    except (_ToldToStop, KeyboardInterrupt):
        return 0 if ready else 130
    finally:
        server.stop()
        if key_file is not None:
            forget_key(key_file)


def _model(name: str) -> Path:
    if name != "nano":
        return Path(name)
    from kimi_nb.nano import nano_path

    return nano_path()


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        what = f"there is no key in {variable}"
        raise UsageError(
            "KNB535", what, why="it is not set", fix=f"Set {variable}, or leave --api-key-env out."
        )
    return key


def _raise_on_signals() -> None:
    """Turn the first signal that means "stop" into an exception; what is ignored already stays ignored."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)  # stopping is under way and takes seconds at most
        raise _ToldToStop

    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, stop)


def _announcement(server: LlamaServer, variable: str | None, key_file: Path | None, *, as_json: bool) -> str:
    if as_json:
        where = {"api_key_env": variable} if variable else {"api_key_file": str(key_file)}
        found = {
            "base_url": server.base_url,
            **where,
            "pid": os.getpid(),
            "model": server.alias,
            "server_pid": server.pid,
            "log": str(server.log_path),
        }
        return json.dumps(found, ensure_ascii=False)
    key = f'"${variable}"' if variable else f'"$(cat {key_file})"'
    return (
        f"  key   {f'in ${variable}' if variable else f'in {key_file}, which only you can read'}\n"
        f"  log   {server.log_path}\n"
        f"  try   curl -H Authorization:\\ Bearer\\ {key} {server.base_url}/models\n"
        "Ctrl-C stops it."
    )
