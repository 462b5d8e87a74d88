"""A server that runs in a process of its own and has a name: started from here, or found on this machine."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.detached import start_detached
from kimi_nb.engine.endpoint import Engine
from kimi_nb.engine.running import Running, running, stop
from kimi_nb.engine.server_http import ServerHttp
from kimi_nb.engine.server_log import last_lines
from kimi_nb.engine.server_metrics import Tells
from kimi_nb.engine.server_state import ServerState
from kimi_nb.errors import KimiNbError, ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.engine.server_http import Answer

__all__ = ["NamedServer"]


class NamedServer(Tells):
    """A ``kimi-nb serve`` on this machine. It goes on when this process ends.

    It is read like a :class:`~kimi_nb.engine.llama_server.LlamaServer`. As it lives elsewhere, its state is
    what :meth:`look` found last.

    Args:
        record: A running one.
        words: The options of ``kimi-nb serve`` to start it with; empty for one that runs.
    """

    def __init__(self, record: Running | None = None, *, words: Sequence[str] = ()) -> None:
        self._record = record
        self._words = tuple(words)
        self._starting: int | None = None
        self._told_to_stop = False
        #: Where it stood when it was last looked at.
        self.state = ServerState.STOPPED
        #: Why it failed, while the state is failed.
        self.error: KimiNbError | None = None
        if record is not None:
            self.state = ServerState.STARTING if record.base_url is None else ServerState.READY

    # What it is

    @property
    def name(self) -> str:
        """Its name; empty before it has one."""
        return self._record.name if self._record is not None else ""

    @property
    def alias(self) -> str:
        """The model's name, as clients ask for it; empty before that is known."""
        return self._record.model if self._record is not None else ""

    @property
    def startable(self) -> bool:
        """Whether it is known how to start it."""
        return bool(self._words)

    @property
    def down(self) -> bool:
        """Whether nothing runs."""
        return self.state in {ServerState.STOPPED, ServerState.FAILED}

    @property
    def loading(self) -> tuple[str, float | None]:
        """What it does while it starts; how far it is cannot be told from here."""
        return "loading the model; its log tells more", None

    @property
    def pid(self) -> int | None:
        """Process id of its llama-server, or None while that is not known."""
        return self._record.server_pid if self._record is not None else None

    @property
    def base_url(self) -> str:
        """Where clients reach it.

        Raises:
            ServerError: It is not ready.
        """
        record = self._record
        if record is None or record.base_url is None or self.down:
            why = str(self.error) if self.error is not None else f"it is {self.state}"
            raise ServerError("KNB533", "the server does not run", why=why, fix="Start it.")
        return record.base_url

    @property
    def engine(self) -> Engine:
        """What a client needs to talk to it.

        Raises:
            ServerError: It is not ready, or its key cannot be read.
        """
        return Engine("llama-server", self.base_url, self._key(), self.alias)

    def key_file(self) -> Path | None:
        """Return the file that holds its key, or None where the key is in an environment variable."""
        path = self._record.api_key_file if self._record is not None else None
        return None if path is None else Path(path)

    @property
    def key_variable(self) -> str | None:
        """The environment variable that its key was taken from, if it was."""
        return self._record.api_key_env if self._record is not None else None

    @property
    def log_path(self) -> Path | None:
        """Where its log is."""
        return Path(self._record.log) if self._record is not None else None

    def log_tail(self, n: int = 50) -> list[str]:
        """Return the newest lines of its log, without secrets."""
        if self.log_path is None:
            return []
        try:
            return last_lines(self.log_path, n)
        except OSError:
            return []

    def __repr__(self) -> str:
        return f"<NamedServer {self.name or '(no name yet)'}: {self.state}>"

    # What it does

    def look(self) -> ServerState:
        """See where it stands now, and return that."""
        pid = self._starting if self._record is None else self._record.pid
        if pid is None or (self.down and self._record is not None and not self._record.alive()):
            return self.state
        found = [record for record in running() if record.pid == pid]
        if found:
            self._record = found[0]
            self.state = ServerState(found[0].state())
        elif self._starting is None:
            self._gone()
        return self.state

    def start(self) -> NamedServer:
        """Start it and wait until it is ready; do nothing if it is.

        Raises:
            KimiNbError: It did not become ready; it is down again.
        """
        if not self.down:
            return self
        self.state, self.error, self._record, self._told_to_stop = ServerState.STARTING, None, None, False
        try:
            start_detached(self._words, self._begun)
        except KimiNbError as error:
            self._starting = None
            if self._told_to_stop:
                self.state = ServerState.STOPPED
                why, fix = "it was told to while it was starting", "Start it again."
                raise ServerError("KNB521", "the server was stopped", why=why, fix=fix) from error
            self.state, self.error = ServerState.FAILED, error
            raise
        self.look()
        self._starting = None
        return self

    def stop(self) -> None:
        """Stop it, also while it starts; do nothing if it is down.

        Raises:
            ServerError: It could not be ended.
        """
        self._told_to_stop = True
        self.look()
        record = self._record
        if record is None and self._starting is not None:
            os.kill(self._starting, signal.SIGTERM)  # start() waits for it and says the rest
        if record is None or self.down:
            return
        stop(record)
        if self._starting is None:
            self._gone()

    def _begun(self, pid: int) -> None:
        self._starting = pid
        if self._told_to_stop:
            os.kill(pid, signal.SIGTERM)

    def _gone(self) -> None:
        record = self._record
        if record is None or self._told_to_stop:
            self.state = ServerState.STOPPED
            return
        self.state = ServerState.FAILED
        what, why = (
            f"the server {record.name} has ended",
            "it was stopped from elsewhere, or its llama-server ended",
        )
        self.error = ServerError(
            "KNB543", what, why=why, fix=f"Start it again; the end of {record.log} tells more."
        )

    def _key(self) -> str:
        path, variable = self.key_file(), self.key_variable
        why = "its key is not on record"
        if path is not None:
            try:
                return path.read_text(encoding="utf-8")
            except OSError as error:
                why = error.strerror or str(error)
        elif variable is not None:
            if key := os.environ.get(variable):
                return key
            why = f"it was taken from the variable {variable}, which is not set here"
        fix = "Give the key to your client yourself."
        raise ServerError("KNB542", f"the key of {self.name} cannot be had", why=why, fix=fix)

    def _ask(self, path: str) -> Answer:
        url, key = self.base_url, ""
        with suppress(ServerError):
            key = self._key()
        return ServerHttp.at(url, key).ask(path)
