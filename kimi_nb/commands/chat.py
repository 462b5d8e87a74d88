"""``kimi-nb chat``: one question, its answer streamed, and how fast it came."""

from __future__ import annotations

import json
import re
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.commands._types import seconds, whole
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from kimi_nb.chat import Reply
    from kimi_nb.chat.events import Event
    from kimi_nb.engine import Engine

__all__ = ["configure", "main"]

# What a terminal would take for a command; a model may write anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="the question; - reads it from standard input")
    add(
        "--model",
        metavar="NAME",
        help="nano or a GGUF file, to start a server for this; else the engine's name for it",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--base-url", metavar="URL", help="an engine that is running, up to and with /v1")
    where.add_argument("--server", metavar="NAME", help="a server that `kimi-nb serve` runs here")
    key = parser.add_mutually_exclusive_group()
    key.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds its key")
    key.add_argument("--api-key-file", metavar="FILE", type=Path, help="the file that holds its key")
    add("--engine", choices=("llama-server", "vllm", "moonshot"), help="what answers there; default: ask it")
    add("--mode", choices=("thinking", "instant"), help="default: thinking, where the model can")
    add("--system", metavar="TEXT", help="instructions before the question")
    add("--max-tokens", type=whole(1), metavar="N", help="the most tokens to generate, thinking included")
    add("--temperature", type=float, metavar="T", help="default: what the model card says for the mode")
    add("--deadline", type=seconds, metavar="SECONDS", help="give up after so long")
    add("--timeout", type=seconds, default=600.0, metavar="SECONDS", help="the longest silence; default: 600")
    add("--json", action="store_true", help="print the whole reply as one JSON document at the end")


def main(args: argparse.Namespace) -> int:
    """Ask; 0 with an answer, 1 without one."""
    from kimi_nb.chat import Chat, Done

    messages = [{"role": "system", "content": args.system}] if args.system else []
    messages.append({"role": "user", "content": _prompt(args.prompt)})
    show = _Show(live=not args.json)
    with _engine(args) as engine, Chat(engine, timeout_s=args.timeout) as chat:
        options = {"mode": args.mode, "max_tokens": args.max_tokens, "temperature": args.temperature}
        with closing(chat.stream(messages, deadline_s=args.deadline, **options)) as events:
            try:
                for event in events:
                    show.event(event)
                    if isinstance(event, Done):
                        return _finish(event.reply, show, as_json=args.json)
            finally:
                show.end()
    return 1


def _finish(reply: Reply, show: _Show, *, as_json: bool) -> int:
    show.end()
    if as_json:
        print(json.dumps(reply.as_dict(), ensure_ascii=False))
    else:
        print(f"\n{reply.usage.completion_tokens or '?'} tokens, {reply.meter.line()}")
    for hint in reply.hints:
        print(f"kimi-nb: {hint}", file=sys.stderr)
    return 0 if reply.content.strip() else 1


def _prompt(words: str) -> str:
    try:
        question = words if words != "-" else sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise UsageError(
            "KNB622", "the question cannot be read", why="it is not UTF-8 text", fix="Convert it, or type it."
        ) from None
    if not question.strip():
        raise UsageError("KNB622", "there is no question", why="the text is empty", fix="Type one.")
    return question


@contextmanager
def _engine(args: argparse.Namespace) -> Iterator[Engine]:
    from kimi_nb.chat.reach import engine_at, read_key, running_engine, started_engine
    from kimi_nb.progress import ProgressLine

    if args.server is not None:
        yield running_engine(args.server)
    elif args.base_url is not None:
        key = read_key(args.api_key_env, args.api_key_file)
        yield engine_at(args.base_url, key, model=args.model, kind=args.engine)
    elif args.model is None:
        raise UsageError(
            "KNB640", "no engine was named", why="there is nothing to ask", fix="Try `--model nano`."
        )
    else:
        line = ProgressLine()
        with started_engine(args.model, lambda text, _done: line.update(text)) as engine:
            line.done(f"{engine.model} is ready")
            yield engine


class _Show:
    """Print the thinking, labelled and dim, and the answer after it, as they come."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._dim = sys.stdout.isatty()
        self._part = ""

    def event(self, event: Event) -> None:
        from kimi_nb.chat import ContentDelta, ReasoningDelta

        if not self._live or not isinstance(event, ContentDelta | ReasoningDelta):
            return
        part = "answer" if isinstance(event, ContentDelta) else "thinking"
        if part != self._part:
            self.end()
            self._part = part
            print(f"[{part}]{_DIM if self._dim and part == 'thinking' else ''}")
        print(_CONTROL.sub("\ufffd", event.text), end="", flush=True)

    def end(self) -> None:
        if self._part:
            print(_PLAIN if self._dim and self._part == "thinking" else "", flush=True)
            self._part = ""
