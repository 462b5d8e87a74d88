"""Starting a server that outlives its starter, because it was asked to."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kimi_nb.errors import KimiNbError, ServerError, UsageError
from kimi_nb.guardian import DETACHED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kimi_nb.plan import Settings

__all__ = ["serve_words", "start_detached"]


def serve_words(
    model: Path | str,
    settings: Settings,
    *,
    name: str | None = None,
    alias: str | None = None,
    port: int = 0,
    restart: bool = False,
    api_key_env: str | None = None,
    log: Path | None = None,
) -> list[str]:
    """Return the options of ``kimi-nb serve`` that stand for these choices.

    Args:
        model: ``nano``, or a file by its full path.
        settings: How llama.cpp is to run it.
        name: What to call the server.
        alias: The name that clients ask for.
        port: 0 for a free one.
        restart: Whether it is started again when it ends by itself.
        api_key_env: The environment variable that holds its key.
        log: Where its log goes.
    """
    given = {
        "--model": model,
        "--name": name,
        "--alias": alias,
        "--port": port,
        "--api-key-env": api_key_env,
        "--log": log,
    }
    # The equals form, because a value may begin with a dash.
    words = [f"{option}={value}" for option, value in given.items() if value is not None]
    return [*words, *(["--restart"] if restart else []), *settings.argv()]


def start_detached(words: Sequence[str], on_start: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Run ``kimi-nb serve --json WORDS`` in a session of its own and return its line once it is ready.

    It lives until ``kimi-nb serve stop``, also when this process and the terminal are gone, and even when
    this process runs under a guardian. Its llama-server still dies with it.

    Args:
        words: The options.
        on_start: Told its process id, long before it is ready.

    Raises:
        KimiNbError: The error that it gave.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "kimi_nb.cli", "serve", "--json", *words],
        env=os.environ | {DETACHED: secrets.token_hex(8)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what it has to say is in its line and in its log
        start_new_session=True,
    )
    if process.stdout is None:
        raise AssertionError("it was started with a pipe")
    try:
        if on_start is not None:
            on_start(process.pid)
        with process.stdout as output:
            told = json.loads(output.readline() or b"{}")
    except BaseException:  # such as Ctrl-C: nobody knows of it yet
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20.0)
        process.kill()
        process.wait()
        raise
    if "base_url" not in told:
        raise _error(told, process.wait())
    # It is meant to run on; but it is our child, and stays a zombie if nobody asks how it ended.
    threading.Thread(target=process.wait, name="kimi-nb detached", daemon=True).start()
    return dict(told)


def _error(told: dict[str, Any], code: int) -> KimiNbError:
    found = told.get("error")
    if not isinstance(found, dict):
        why = f"it ended with code {code} and said nothing"
        return ServerError(
            "KNB518", "the detached server did not start", why=why, fix="Try it without --detach."
        )
    kind = UsageError if code == UsageError.exit_code else ServerError
    return kind(found["id"], found["what"], why=found["why"], fix=found["fix"])
