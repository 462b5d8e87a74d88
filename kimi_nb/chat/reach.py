"""Find an engine to talk to: at an address, among the servers that run here, or started for the occasion."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kimi_nb.chat.failures import explain
from kimi_nb.engine.endpoint import Engine, EngineKind
from kimi_nb.errors import UsageError
from kimi_nb.files import at_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Reached", "engine_at", "reach", "read_key", "running_engine", "started_engine"]

_MOONSHOT_HOSTS = ("moonshot.ai", "moonshot.cn")
_OWNERS: dict[str, EngineKind] = {"llamacpp": "llama-server", "vllm": "vllm", "moonshot": "moonshot"}
_ASK_S = 10.0
#: The variable that our examples take a server's key from.
_KEY_ENV = "LLAMA_API_KEY"


@dataclass(frozen=True)
class Reached:
    """An engine, and where a program of the user's own would find its key.

    Attributes:
        engine: Who answers.
        key_env: The variable of the environment that holds its key, or is to hold it; empty if it needs none.
    """

    engine: Engine
    key_env: str


def reach(
    to: Any = None,
    *,
    api_key_env: str | None = None,
    model: str | None = None,
    kind: EngineKind | None = None,
) -> Reached:
    """Return the engine that somebody means.

    Args:
        to: The name of a server that runs here (None: the only one), an address that begins with ``http``, an
            :class:`~kimi_nb.engine.Engine`, or whatever has one as its ``engine`` or behind its ``server``: a
            :class:`~kimi_nb.engine.LlamaServer`, a server panel.
        api_key_env: The variable of the environment that holds an address's key.
        model: The model's name at an address; the first that it names by default.
        kind: What answers at an address; asked by default.

    Raises:
        UsageError: ``KNB651``, it is none of these; or there is no such server or key.
        ServerError: The server is not ready.
        EngineError: The address does not answer.
    """
    if isinstance(to, Engine):
        return Reached(to, (api_key_env or _KEY_ENV) if to.api_key else "")
    if isinstance(to, str) and to.startswith(("http://", "https://")):
        key = read_key(api_key_env, None)
        return Reached(engine_at(to, key, model=model, kind=kind), api_key_env or "")
    if to is None or isinstance(to, str):
        from kimi_nb.engine.running import find

        return Reached(running_engine(to), find(to).api_key_env or _KEY_ENV)
    behind = getattr(to, "engine", None)
    if behind is None:
        behind = getattr(to, "server", None)
    if behind is None:
        raise UsageError(
            "KNB651",
            f"this is no engine to talk to: {type(to).__name__}",
            why="it is no server's name, no address and no object that has an engine",
            fix="Give a name, an address, a LlamaServer or a server panel.",
        )
    return reach(behind, api_key_env=api_key_env, model=model, kind=kind)


def read_key(variable: str | None, file: Path | None) -> str:
    """Return a key from a variable of the environment or from a file; empty when neither is named.

    Raises:
        UsageError: ``KNB640``, there is none where it was said to be.
    """
    if variable is not None:
        key, where = os.environ.get(variable, ""), f"the environment variable {variable}"
    elif file is not None:
        where = str(file)
        try:
            key = at_home(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _no_key(where, f"it cannot be read ({getattr(error, 'strerror', error)})") from None
    else:
        return ""
    key = key.strip()
    if not key:
        raise _no_key(where, "it is empty or not set")
    if not (key.isascii() and key.isprintable()):
        raise _no_key(where, "what stands there is no key: a key is one line of plain characters")
    return key


def engine_at(base_url: str, key: str, *, model: str | None = None, kind: EngineKind | None = None) -> Engine:
    """Return the engine at an address, asking it what it is and what it serves where that is not given.

    Args:
        base_url: Usually up to and with ``/v1``.
        key: Empty when it needs none.
        model: By default the first that it names.
        kind: By default what its host or its list of models says, else llama-server.

    Raises:
        EngineError: It does not answer.
        UsageError: ``KNB640``, it names no model.
    """
    host = urlsplit(base_url).hostname or ""
    if kind is None and host.endswith(_MOONSHOT_HOSTS):
        kind = "moonshot"
    if kind is not None and model is not None:
        return Engine(kind=kind, base_url=base_url, api_key=key, model=model)
    served = _served(Engine(kind=kind or "llama-server", base_url=base_url, api_key=key, model=model or ""))
    if model is None and not served:
        raise UsageError(
            "KNB640",
            f"no model was named, and {base_url} names none",
            why="its list of models is empty",
            fix="Name one with --model.",
        )
    known = dict(served)
    owner = known.get(model, "") if model is not None else served[0][1]
    return Engine(
        kind=kind or _OWNERS.get(owner, "llama-server"),
        base_url=base_url,
        api_key=key,
        model=served[0][0] if model is None else model,
    )


def _served(engine: Engine) -> list[tuple[str, str]]:
    """Return the names and the owners of the models that an engine serves."""
    import openai

    from kimi_nb.chat.client import Chat

    with Chat(engine) as chat:
        try:
            page = chat.client.models.list(timeout=_ASK_S)
        except openai.OpenAIError as error:
            raise explain(error, engine) from None
    return [(str(each.id), str(each.owned_by or "")) for each in page.data or () if each.id]


def running_engine(name: str | None) -> Engine:
    """Return the engine of a server that ``kimi-nb serve`` runs here, by its name, or the only one.

    Raises:
        UsageError: There is none, or it is not ready.
    """
    from kimi_nb.engine.running import find

    record = find(name)
    if record.base_url is None:
        raise UsageError(
            "KNB640",
            f"{record.name} is not ready yet",
            why="it is still loading",
            fix="Ask again in a while.",
        )
    key = read_key(record.api_key_env, Path(record.api_key_file) if record.api_key_file else None)
    return Engine(kind="llama-server", base_url=record.base_url, api_key=key, model=record.model)


@contextmanager
def started_engine(model: str, progress: Callable[[str, float | None], None]) -> Iterator[Engine]:
    """Start a server for nano or a GGUF file, and stop it at the end.

    Raises:
        UsageError: ``KNB640``, it is neither.
        ServerError: The server could not be started.
    """
    from kimi_nb.engine import LlamaServer

    if model == "nano":
        from kimi_nb.nano import nano_path

        path = nano_path()
    else:
        path = at_home(model)
        if not path.is_file():
            raise UsageError(
                "KNB640",
                f"there is no engine for {model}",
                why="no address was given, and it is neither nano nor a GGUF file",
                fix="Add --base-url and a key, or --server for one that runs here, or use --model nano.",
            )
    with LlamaServer(path, alias="nano" if model == "nano" else None, on_progress=progress) as server:
        yield server.engine


def _no_key(where: str, why: str) -> UsageError:
    return UsageError(
        "KNB640", f"there is no key in {where}", why=why, fix="Put the engine's key there, and nothing else."
    )
