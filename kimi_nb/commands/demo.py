"""``kimi-nb demo``: the whole path on nano, from source code to a report that can be opened."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.progress import ProgressLine, bar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from kimi_nb.chat.modes import Mode
    from kimi_nb.engine import Engine
    from kimi_nb.run import Run

__all__ = ["configure", "main"]

_QUESTION = "How many experts does Kimi K2.5 have?"
_CITY_QUESTION = "What is the weather in Oslo?"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("runs/demo"),
        help="the run's folder (default: runs/demo)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")


def main(args: argparse.Namespace) -> int:
    """Build, serve nano, chat, let it call a tool, run all notebooks; return as `kimi-nb run` does."""
    from kimi_nb.commands.run import exit_code
    from kimi_nb.run.headless import run_folder
    from kimi_nb.run.shipped import notebooks_folder

    # What the last step needs is looked at first: the build before it can take many minutes.
    notebooks = sorted(notebooks_folder().glob("*.ipynb"))
    run_folder(args.out)
    say = _screen(quiet=args.json)
    started = time.monotonic()
    say("1/4  llama.cpp")
    _build()
    say("2/4  nano: Kimi K2.5's architecture and prompt format, 18 million parameters")
    from kimi_nb.engine import LlamaServer
    from kimi_nb.nano import nano_path
    from kimi_nb.plan import Settings

    model = nano_path()
    say(f"     {model.stat().st_size / 1e6:.1f} MB, ships with this package")
    say("3/4  a real llama-server, a chat and a tool call")
    # One thread: nano gains little from more, and on a busy machine two wait for each other.
    with LlamaServer(model, settings=Settings(ctx_size=8192, parallel=1, threads=1), alias="nano") as server:
        say(f"     ready at {server.base_url}, with a key of its own")
        tokens_s = _chat(server.engine, say)
        called = _tool(server.engine, say)
    say("4/4  the notebooks, headless")
    run, report = _notebooks(notebooks, args.out)
    seconds = time.monotonic() - started
    good = sum(notebook.status == "succeeded" for notebook in run.notebooks)
    code = exit_code(run) or (0 if called else 1)
    if args.json:
        answer = {
            "status": run.status,
            "tool_called": called,
            "decode_tok_s": tokens_s,
            "seconds": round(seconds, 1),
            "report": str(report),
            "notebooks": [notebook.to_json() for notebook in run.notebooks],
        }
        print(json.dumps(answer, ensure_ascii=False))
        return code
    for notebook in run.notebooks:
        print(f"     {notebook.status:<10} {notebook.seconds:5.1f} s  {notebook.name}")
        if notebook.error is not None:
            print(f"       {notebook.error}")
    if not called:
        print("     nano did not call the tool it was asked to use; notebook 06 shows how calls are made.")
    print(f"\n{good} of {len(run.notebooks)} notebooks succeeded; {seconds:.0f} s in all.")
    print(f"Report:  {report}")
    us = _as_called(sys.argv[0])
    print(f"Next:    {us} lab      opens the notebooks in JupyterLab")
    print(f"         {us} check    says which quants of Kimi K2.5 this machine could hold")
    return code


def _as_called(program: str) -> str:
    """Return what to type for this program: its name where the shell finds it by that, else its path."""
    found = shutil.which("kimi-nb")
    if found is not None and Path(found).absolute() == Path(program).absolute():
        return "kimi-nb"
    return shlex.quote(os.path.relpath(program)) if Path(program).name == "kimi-nb" else "python -m kimi_nb"


def _screen(*, quiet: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    return say


def _build() -> None:
    from kimi_nb.engine import ensure_build

    line = ProgressLine()

    def show(text: str, done: float | None) -> None:
        if done is None:
            line.done(f"     {text}")
        else:
            line.update(f"     {bar(done)} {text}")

    build = ensure_build(progress=show)
    line.done(f"     llama.cpp {build.version} ({build.backend}) is ready")


def _chat(engine: Engine, say: Callable[[str], None]) -> float | None:
    from kimi_nb.chat import Chat

    speed = None
    modes: tuple[Mode, ...] = ("thinking", "instant")
    with Chat(engine) as chat:
        for mode in modes:
            reply = chat.ask(_QUESTION, mode=mode, max_tokens=200, temperature=0)
            speed = reply.meter.tok_s
            say(f"     {mode:<9} {_QUESTION}")
            if reply.reasoning:
                say(f"       thinks   {reply.reasoning}")
            say(f"       answers  {reply.content}")
    if speed:
        say(f"     {speed:.0f} tokens/s")
    return speed


def _tool(engine: Engine, say: Callable[[str], None]) -> bool:
    from kimi_nb.chat import Chat, Limits, tool_loop

    with Chat(engine) as chat:
        limits = Limits(max_tokens=200)
        told = tool_loop(chat, _CITY_QUESTION, [get_weather], mode="instant", limits=limits, temperature=0)
    say(f"     tool      {_CITY_QUESTION}")
    for call in told.calls:
        say(f"       calls    {call.name} {call.arguments} -> {call.output}")
    say(f"       answers  {told.answer}")
    return any(call.outcome == "ok" for call in told.calls)


def get_weather(city: str) -> dict[str, str | int]:
    """Get the weather of a city.

    Args:
        city: name of the city
    """
    return {"city": city, "temp_c": 4, "sky": "light rain"}


def _notebooks(notebooks: list[Path], out: Path) -> tuple[Run, Path]:
    from kimi_nb.run import html_report, run_notebooks

    run = run_notebooks(notebooks, out=out, progress=ProgressLine())
    return run, html_report(run)
