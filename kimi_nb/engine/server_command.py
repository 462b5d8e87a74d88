"""The command line and the environment that llama-server is started with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.secrets_out import without_secrets
from kimi_nb.engine.server_http import HOST
from kimi_nb.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.plan import Settings

__all__ = [
    "check_alias",
    "check_extra_args",
    "check_key",
    "check_log",
    "check_port",
    "command",
    "environment",
]

#: What the supervisor decides itself, or could not see through.
_OURS = {
    "-m": "it is the model that the server was made for",
    "--model": "it is the model that the server was made for",
    "-a": "use alias",
    "--alias": "use alias",
    "--host": f"the server is bound to {HOST}",
    "--port": "use port",
    "--reuse-port": "two servers on one port could not be told apart",
    "--api-key": "everyone on the machine could read it in the process list; use api_key",
    "--api-key-file": "use api_key",
    "--api-prefix": "the supervisor asks under /",
    "--ssl-key-file": "the supervisor speaks plain HTTP on loopback",
    "--ssl-cert-file": "the supervisor speaks plain HTTP on loopback",
    "--log-disable": "the supervisor reads the log",
    "--log-file": "use log_path",
    "--log-jsonl": "the supervisor reads the log",
    "--log-verbosity": "the supervisor reads the log; -v shows more",
    "--verbosity": "the supervisor reads the log; -v shows more",
    "-lv": "the supervisor reads the log; -v shows more",
    "-sp": "special tokens in the text break Kimi's tool calls",
    "--special": "special tokens in the text break Kimi's tool calls",
    "--no-mmap": "llama.cpp dropped it; use the setting load_mode",
    "--mlock": "llama.cpp dropped it; use the setting load_mode",
}
_KEY = re.compile(r"[!-+\--~]{8,}")  # visible ASCII without the comma, at which llama-server splits keys
_HIGHEST_PORT = 65535


def check_extra_args(extra_args: Sequence[str]) -> None:
    """Refuse arguments that would take the server out of our hands.

    Raises:
        UsageError: One of them is of that kind.
    """
    for word in extra_args:
        name = word.partition("=")[0]
        name = name.replace("_", "-") if name.startswith("--") else name  # as llama.cpp reads it
        if name in _OURS:
            what = f"extra_args cannot have {name}"
            raise UsageError("KNB525", what, why=_OURS[name], fix=f"Take {name} out of extra_args.")


def check_key(key: object) -> str:
    """Return a key that llama-server will take as one key.

    Raises:
        UsageError: It is too short, or has a comma, a space or something that is not ASCII.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        why = "a key has at least 8 visible ASCII characters and no comma"
        raise UsageError(
            "KNB526", "the API key cannot be used", why=why, fix="Leave it out to have one made."
        )
    return key


def check_port(port: object) -> int:
    """Return a port number, 0 meaning that the system chooses.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _HIGHEST_PORT:
        why = f"a port is a whole number up to {_HIGHEST_PORT}"
        raise UsageError(
            "KNB524", f"port cannot be {port!r}", why=why, fix="Leave it out to have one chosen."
        )
    return port


def check_log(path: Path) -> Path:
    """Return the whole path of a log that someone asked for.

    Raises:
        UsageError: Its folder is not there, so nothing could be written.
    """
    path = Path(path).absolute()
    if not path.parent.is_dir():
        why = f"there is no folder {path.parent}"
        raise UsageError(
            "KNB541", f"the log cannot be {path}", why=why, fix="Make the folder, or name another."
        )
    return path


def check_alias(alias: object) -> str:
    """Return the name that the model is to go by.

    Raises:
        UsageError: llama-server would not take it as one name.
    """
    if not isinstance(alias, str) or not alias.strip() or "," in alias or not alias.isprintable():
        why = "it is a text of one line without a comma, at which llama-server splits names"
        raise UsageError("KNB524", f"alias cannot be {alias!r}", why=why, fix="Choose another name.")
    return alias


def command(
    program: Path, model: Path, *, alias: str, port: int, settings: Settings, extra_args: Sequence[str]
) -> list[str]:
    """Return the whole command line; it holds nothing secret."""
    return [
        str(program),
        *("--model", str(model)),
        *("--alias", alias),
        *("--host", HOST),
        *("--port", str(port)),
        "--no-webui",  # the name that older builds know too
        "--metrics",
        *(
            "--cors-origins",
            "localhost",
        ),  # by default any web page may ask, and is told that it may send a key
        *settings.argv(),
        *extra_args,
    ]


def environment(api_key: str) -> dict[str, str]:
    """Return our environment with the key, without other secrets and without settings for llama.cpp.

    llama-server would obey ``LLAMA_ARG_CTX_SIZE`` and its like, which no plan and no report would then show.
    """
    kept = without_secrets(os.environ)
    kept = {name: value for name, value in kept.items() if not name.startswith("LLAMA_")}
    return kept | {"LLAMA_API_KEY": api_key}
