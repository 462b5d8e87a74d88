"""``kimi-nb serve``: run llama-server on 127.0.0.1 until told to stop; also status, stop and logs."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_nb.engine.detached import serve_words, start_detached
from kimi_nb.engine.fetch.trust import trust
from kimi_nb.engine.llama_server import LlamaServer, RestartPolicy
from kimi_nb.engine.planned import planned
from kimi_nb.engine.running import Running, announce, claim, find, forget, running, stop
from kimi_nb.engine.runtime_folder import forget_key, keep_key
from kimi_nb.engine.server_log import last_lines
from kimi_nb.errors import ServerError, UsageError
from kimi_nb.files import at_home
from kimi_nb.plan.arguments import add_settings, read_settings
from kimi_nb.progress import ProgressLine, bar

if TYPE_CHECKING:
    import argparse
    from types import FrameType

    from kimi_nb.plan import Settings

__all__ = ["configure", "main"]


class _ToldToStop(BaseException):
    """A signal said so; like KeyboardInterrupt, nothing that handles errors should catch it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        choices=("start", "status", "stop", "logs"),
        default="start",
        help="what to do; default: start",
    )
    add("--model", metavar="nano|FILE", help="nano, or a GGUF file of your own")
    add("--plan", metavar="FILE", type=Path, help="run what `kimi-nb plan --save FILE` planned")
    add("--name", help="what to call this server; for stop and logs, which one is meant")
    add("--alias", metavar="NAME", help="the name that clients ask for; default: the file's")
    add("--port", type=int, default=0, metavar="N", help="on 127.0.0.1; default: a free one")
    add(
        "--api-key-env", metavar="NAME", help="take the key from this environment variable; default: make one"
    )
    add("--log", type=Path, metavar="FILE", help="where the server's log goes")
    add("--lines", type=int, default=50, metavar="N", help="for logs: how many of the newest lines")
    add("--restart", action="store_true", help="start it again when it ends by itself")
    add("--detach", action="store_true", help="return when it is ready; it runs until `kimi-nb serve stop`")
    add("--json", action="store_true", help="print JSON; one line when the server is ready")
    add_settings(parser)


def main(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; 0 when it was stopped so, 1 when it failed, 130 when not even ready."""
    return {"start": _start, "status": _status, "stop": _stop, "logs": _logs}[args.action](args)


def _start(args: argparse.Namespace) -> int:
    settings = read_settings(args)
    if args.plan is not None:
        args.model, settings = planned(args.plan, args.model, settings)
    if args.model is None:
        raise UsageError("KNB539", "no model was named", why="serve needs --model", fix="Try `--model nano`.")
    model = _model(args.model)
    if args.detach:
        told = start_detached(_words(args, settings))
        print(json.dumps(told, ensure_ascii=False) if args.json else _for_people(told, "kimi-nb"))
        return 0
    line = ProgressLine()
    if (known := trust(model)) is not None:
        line.done(f"note: {known}")
    server = LlamaServer(
        model,
        settings=settings,
        alias=args.alias or ("nano" if args.model == "nano" else None),
        port=args.port,
        api_key=_key(args.api_key_env),
        log_path=args.log,
        on_progress=lambda text, done: line.update(text if done is None else f"{bar(done)} {text}"),
        restart=RestartPolicy() if args.restart else None,
    )
    return _serve(server, args, line)


def _serve(server: LlamaServer, args: argparse.Namespace, line: ProgressLine) -> int:
    record: Running | None = None
    key_file: Path | None = None
    ready = False
    _raise_on_signals()
    try:
        record = claim(args.name, model=server.alias, log=server.log_path)
        key_file = None if args.api_key_env else keep_key(server.api_key)
        server.start()
        record = announce(
            record,
            base_url=server.base_url,
            server_pid=server.pid,
            api_key_file=key_file and str(key_file),
            api_key_env=args.api_key_env,
        )
        line.done(f"{server.alias} is ready at {server.base_url}")
        ready = True  # whoever reads the line may stop us at once
        told = record.as_dict()
        print(
            json.dumps(told, ensure_ascii=False) if args.json else _for_people(told, "Ctrl-C, or kimi-nb"),
            flush=True,
        )
        server.wait()
        raise server.error or ServerError(
            "KNB533", "the server is down", why="it was stopped", fix="Start it."
        )
    except (_ToldToStop, KeyboardInterrupt):
        return 0 if ready else 130
    finally:
        server.stop()
        if key_file is not None:
            forget_key(key_file)
        if record is not None:
            forget(record)


def _status(args: argparse.Namespace) -> int:
    found = [{**record.as_dict(), "state": record.state()} for record in running()]
    if args.json:
        print(json.dumps({"servers": found}, ensure_ascii=False))
    elif not found:
        print("no server runs here; start one with kimi-nb serve --model nano --detach")
    for one in [] if args.json else found:
        print(f"{one['name']:<20} {one['state']:<9} {one.get('base_url', '-'):<28} process {one['pid']}")
    return 0 if found else 1


def _stop(args: argparse.Namespace) -> int:
    record = find(args.name)
    stop(record)
    print(json.dumps({"stopped": record.name}) if args.json else f"{record.name} is stopped")
    return 0


def _logs(args: argparse.Namespace) -> int:
    record = find(args.name)
    lines = last_lines(Path(record.log), args.lines)
    print(
        json.dumps({"log": record.log, "lines": lines}, ensure_ascii=False) if args.json else "\n".join(lines)
    )
    return 0


def _words(args: argparse.Namespace, settings: Settings) -> list[str]:
    """Return the options again, for a server of its own."""
    return serve_words(
        args.model if args.model == "nano" else at_home(args.model).absolute(),
        settings,
        name=args.name,
        alias=args.alias,
        port=args.port,
        restart=args.restart,
        api_key_env=args.api_key_env,
        log=args.log and args.log.absolute(),
    )


def _model(name: str) -> Path:
    if name == "nano":
        from kimi_nb.nano import nano_path

        return nano_path()
    from kimi_nb.model import catalog

    if name.lower() in catalog().models and not Path(name).exists():
        raise UsageError(
            "KNB539",
            f"{name} is not one file",
            why="serve takes nano, a GGUF file or a plan, and the catalog knows many quants of this model",
            fix=f"Plan it, `kimi-nb plan --model {name} --save FILE`, then `kimi-nb serve --plan FILE`; or "
            'serve a quant that is here, `kimi-nb serve --model "$(kimi-nb models path QUANT)"`.',
        )
    return Path(name)


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

    def told(_number: int, _frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)  # stopping is under way and takes seconds at most
        raise _ToldToStop

    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, told)


def _for_people(told: dict[str, Any], stop_with: str) -> str:
    variable, key_file = told.get("api_key_env"), told.get("api_key_file")
    key = f'"${variable}"' if variable else f'"$(cat {shlex.quote(str(key_file))})"'
    # printf is part of the shell and a pipe is no argument: so the key is in no list of processes.
    return (
        f"  key   {f'in ${variable}' if variable else f'in {key_file}, which only you can read'}\n"
        f"  log   {told['log']}\n"
        f"  try   printf 'Authorization: Bearer %s' {key} | curl -H @- {told['base_url']}/models\n"
        f"  stop  {stop_with} serve stop --name {told['name']}"
    )
