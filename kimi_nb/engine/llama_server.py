"""A llama-server of our own: started, watched, restarted if so wished, and never left behind."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine import server_command as form
from kimi_nb.engine.endpoint import Engine
from kimi_nb.engine.runtime_folder import forget_key, keep_key
from kimi_nb.engine.secrets_out import environment_secrets, redactor
from kimi_nb.engine.server_log import ServerLog, new_log_path
from kimi_nb.engine.server_metrics import Tells
from kimi_nb.engine.server_process import Progress, ServerProcess
from kimi_nb.engine.server_state import ServerState, StateMachine
from kimi_nb.engine.server_watch import Probe, RestartPolicy, Watch
from kimi_nb.errors import KimiNbError, ServerError
from kimi_nb.files import at_home
from kimi_nb.plan import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from kimi_nb.engine.build import Build
    from kimi_nb.engine.server_http import Answer

__all__ = ["LlamaServer", "RestartPolicy", "ServerState"]

#: The context that a slot gets when the settings do not say: llama.cpp would take the model's whole 256k.
SLOT_CTX = 8192
_RUNNING = (ServerState.READY, ServerState.DEGRADED)
_PROBE_EVERY_S = 15.0
_PROBE_TIMEOUT_S = 10.0
_HUNG_S = 900.0


class LlamaServer(Tells):
    """One llama-server on this machine, bound to 127.0.0.1, with a key of its own.

    It is ready when it has answered for its health, for the model's name and for one token, so the first real
    request finds nothing left to go wrong. It dies with this process, however this process ends. Every method
    may be called from any thread. It is a context manager, also for ``async with``.

    Args:
        model: A GGUF file, or any one of its shards.
        settings: How llama.cpp is to run it.
        build: The llama.cpp to use; by default the finished build, made first where there is none.
        alias: The name that clients ask for; by default the file's.
        port: 0 lets the system choose one.
        api_key: By default one is made. It travels in the server's environment, never on its command line.
        log_path: Where its log goes, without secrets; by default a new file in our cache folder.
        extra_args: More arguments for llama-server.
        on_progress: Told what happens while it starts, with a fraction from 0 to 1 or None.
        restart: Start it again when it ends by itself after it was ready; by default it stays down.
        stall_s: While loading, give up when nothing at all has happened for so many seconds.
        allow_header_only: Run also a file that has no weights, to find out what running it takes.

    Raises:
        UsageError: An argument cannot be used.
    """

    def __init__(  # noqa: PLR0913 - all but the model have a default, and are named in the call
        self,
        model: Path | str,
        *,
        settings: Settings | None = None,
        build: Build | None = None,
        alias: str | None = None,
        port: int = 0,
        api_key: str | None = None,
        log_path: Path | None = None,
        extra_args: Sequence[str] = (),
        on_progress: Progress | None = None,
        restart: RestartPolicy | None = None,
        stall_s: float = 300.0,
        allow_header_only: bool = False,
    ) -> None:
        self.model = at_home(model).absolute()
        self.alias = form.check_alias(_name_of(self.model) if alias is None else alias)
        given = settings or Settings()
        parallel = given.parallel or 1
        ctx_size = SLOT_CTX * parallel if given.ctx_size is None else given.ctx_size
        self.settings = given.replace(parallel=parallel, ctx_size=ctx_size)
        self.api_key = secrets.token_urlsafe(32) if api_key is None else form.check_key(api_key)
        form.check_extra_args(extra_args)
        self._extra_args = tuple(extra_args)
        self._wanted_port = form.check_port(port)
        self._build = build
        self._on_progress: Progress = on_progress or (lambda _text, _fraction: None)
        self._listeners: list[Callable[[ServerState], None]] = []
        self._key_file: Path | None = None
        self._policy = restart
        self._restarts: list[float] = []
        self._stall_s = stall_s
        self._allow_header_only = allow_header_only
        self._log = ServerLog(
            form.check_log(log_path) if log_path else new_log_path("llama-server"),
            redactor({self.api_key, *environment_secrets()}),
        )
        self._owner = os.getpid()
        self._states = StateMachine(self._changed)
        self._lock = threading.RLock()
        self._asking = threading.Lock()
        self._cancel = threading.Event()
        self._starter: threading.Thread | None = None
        self._process: ServerProcess | None = None
        self._watch: Watch | None = None
        self._down = threading.Event()
        self._down.set()
        self._coming_back = False
        #: Why it failed, while the state is failed.
        self.error: KimiNbError | None = None
        #: While it starts: what it does, and how far it is from 0 to 1 where that is known.
        self.loading: tuple[str, float | None] = ("", None)

    # What it is

    @property
    def state(self) -> ServerState:
        """Where it stands."""
        return self._states.state

    @property
    def pid(self) -> int | None:
        """Process id of llama-server, or None while nothing runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def port(self) -> int:
        """The port it listens on; before it is ready, the one that was asked for."""
        process = self._process
        return process.port if process is not None and process.port else self._wanted_port

    @property
    def base_url(self) -> str:
        """Where clients reach it.

        Raises:
            ServerError: It is not ready.
        """
        return f"http://127.0.0.1:{self._running().port}/v1"

    @property
    def engine(self) -> Engine:
        """What a client needs to talk to it.

        Raises:
            ServerError: It is not ready.
        """
        return Engine("llama-server", self.base_url, self.api_key, self.alias)

    @property
    def down(self) -> bool:
        """Whether nothing runs, and nothing is about to be started again."""
        return self._down.is_set()

    def key_file(self) -> Path:
        """Return a file that holds the key, for other programs; only this user can read it.

        It is removed when the server is stopped.

        Raises:
            ServerError: There is no folder that is private.
        """
        with self._lock:
            if self._key_file is None:
                self._key_file = keep_key(self.api_key, f"{time.monotonic_ns() % 10**9:09}")
            return self._key_file

    def on_change(self, listener: Callable[[ServerState], None]) -> Callable[[], None]:
        """Have ``listener`` called with every new state, by whichever thread brings it about.

        It must return soon. Returns a function that ends it.
        """
        self._listeners = [*self._listeners, listener]

        def forget() -> None:
            self._listeners = [one for one in self._listeners if one is not listener]

        return forget

    @property
    def log_path(self) -> Path:
        """Where its log is."""
        return self._log.path

    def log_tail(self, n: int = 50) -> list[str]:
        """Return the newest lines of its log, without secrets."""
        return self._log.tail(n)

    def __repr__(self) -> str:
        where = f" at http://127.0.0.1:{self.port}/v1, process {self.pid}" if self.state in _RUNNING else ""
        return f"<LlamaServer {self.alias}: {self.state}{where}>"

    # What it does

    def start(self) -> Self:
        """Start it and wait until it is ready; do nothing if it is.

        Raises:
            UsageError: There is no such model file.
            ModelFileError: The model file is damaged.
            BuildError: llama.cpp could not be built.
            ServerError: It did not become ready; it is down again.
        """
        while True:
            if self._states.wait_while({ServerState.STARTING, ServerState.STOPPING}) in _RUNNING:
                return self
            with self._lock:
                if self._states.go(ServerState.STARTING, only_from={ServerState.STOPPED, ServerState.FAILED}):
                    self._cancel.set()  # a restart that was waiting for its time
                    self._coming_back = False
                    cancel = self._cancel = threading.Event()
                    if self._watch is not None:
                        self._watch.close()
                    break
        self._owner = os.getpid()
        self._restarts.clear()
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        watch = Watch(died=self._died, ask=self._look_after, every_s=_PROBE_EVERY_S)
        self._bring_up(watch, self._wanted_port, cancel)
        with self._lock:
            self._watch = watch
            watch.open()
        return self

    def wait(self, timeout_s: float | None = None) -> ServerState:
        """Wait until it is down for good, or the time is over; return its state.

        A server that is about to be started again is not down for good.
        """
        self._down.wait(timeout_s)
        return self.state

    def stop(self, *, grace_s: float = 3.0) -> None:
        """Stop it, also while it starts or answers; do nothing if it is down.

        Args:
            grace_s: How long it may take to end by itself. A connected client keeps it from that; then it is
                told more firmly.

        Raises:
            ServerError: It could not be ended.
        """
        if os.getpid() != self._owner:
            return  # a copy of its owner, made by fork
        while True:
            with self._lock:
                state = self.state
                if state in {ServerState.STARTING, ServerState.FAILED}:
                    self._cancel.set()
                if state is ServerState.STOPPED or (
                    state is ServerState.STARTING and self._starter is threading.current_thread()
                ):
                    return
                if state is ServerState.FAILED:
                    self._states.go(ServerState.STOPPED)
                    break
                if self._states.go(ServerState.STOPPING, only_from=_RUNNING):
                    break
            self._states.wait_while({ServerState.STARTING, ServerState.STOPPING})
        self._let_go(grace_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        import asyncio

        given_up = threading.Event()

        def begin() -> None:
            self.start()
            if given_up.is_set():
                self.stop()

        try:
            await asyncio.to_thread(begin)
        except asyncio.CancelledError:
            given_up.set()
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.shield(asyncio.to_thread(self.stop))

    # How it does it

    def _changed(self, state: ServerState) -> None:
        if state is ServerState.STARTING:
            self._down.clear()
        elif state is ServerState.STOPPED or (state is ServerState.FAILED and not self._coming_back):
            self._down.set()
        for listener in self._listeners:
            listener(state)

    def _progress(self, text: str, fraction: float | None) -> None:
        self.loading = (text, fraction)
        self._on_progress(text, fraction)

    def _running(self) -> ServerProcess:
        process = self._process
        if process is None or self.state not in _RUNNING:
            why = str(self.error) if self.error is not None else f"it is {self.state}"
            raise ServerError("KNB533", "the server does not run", why=why, fix="Call start() first.")
        return process

    def _ask(self, path: str) -> Answer:
        with self._asking:
            return self._running().http.ask(path, timeout_s=_PROBE_TIMEOUT_S)

    def _bring_up(self, watch: Watch, port: int, cancel: threading.Event) -> None:
        """Go from starting to ready, or to failed or stopped with nothing left behind."""
        self._starter = threading.current_thread()
        self.error = None
        self.loading = ("", None)
        try:
            self._launch(watch, port, cancel)
            with self._lock:
                _raise_if(cancel)
                self._states.go(ServerState.READY)
        except BaseException as error:
            process, self._process = self._process, None
            if process is not None:
                with suppress(ServerError):  # what we raise is the cause, not that it cannot be ended
                    process.stop(grace_s=0.2)
            if isinstance(error, KimiNbError) and error.id != _CANCELLED:
                self.error = error
                self._states.go(ServerState.FAILED)
            else:
                self._states.go(ServerState.STOPPING)
                self._states.go(ServerState.STOPPED)
            raise
        finally:
            self._starter = None

    def _launch(self, watch: Watch, port: int, cancel: threading.Event) -> None:
        from kimi_nb.engine.build import ensure_build
        from kimi_nb.model import read_header

        header = read_header(self.model, allow_header_only=self._allow_header_only)
        if self._build is None:
            self._build = ensure_build(progress=self._progress)
        words = form.command(
            self._build.program("llama-server"),
            Path(header.source),
            alias=self.alias,
            port=port,
            settings=self.settings,
            extra_args=self._extra_args,
        )
        _raise_if(cancel)
        self._process = ServerProcess(
            words, env=form.environment(self.api_key), api_key=self.api_key, log=self._log, on_end=watch.wake
        )
        self._process.wait_until_ready(
            model=self.alias,
            total_bytes=header.file_bytes,
            stall_s=self._stall_s,
            check=lambda: _raise_if(cancel),
            progress=self._progress,
        )
        ping = partial(self._process.ping, _PROBE_TIMEOUT_S)
        self._probe = Probe(ping, self._process.cpu_s, hung_s=_HUNG_S)

    def _let_go(self, grace_s: float) -> None:
        atexit.unregister(self.stop)
        # A question that meets the end is never answered, and llama-server waits for who asked it.
        if self._asking.acquire(timeout=0.5):
            self._asking.release()
        with self._lock:
            process, self._process = self._process, None
            watch, self._watch = self._watch, None
        try:
            if process is not None:
                process.stop(grace_s=grace_s)
        finally:
            if watch is not None:
                watch.close()
            if self._key_file is not None:
                forget_key(self._key_file)
                self._key_file = None
            self._states.go(ServerState.STOPPED, only_from={ServerState.STOPPING})

    def _look_after(self) -> None:
        well = self._probe.well()
        with self._lock:
            if well:
                self._states.go(ServerState.READY, only_from={ServerState.DEGRADED})
            else:
                self._states.go(ServerState.DEGRADED, only_from={ServerState.READY})

    def _died(self) -> bool:
        """Called by the watch: see to a server that ended by itself; return whether one runs now."""
        process = self._process
        if process is None or self.state not in _RUNNING:
            return False
        if process.poll() is None:
            return True
        error = process.death("while it was running")
        with self._lock:
            if self.state not in _RUNNING:
                return False
            self.error = error
            self._process = None
            cancel, watch = self._cancel, self._watch
            self._coming_back = self._policy is not None and watch is not None
            self._states.go(ServerState.FAILED)
        if watch is not None and self._start_again(watch, process.port, cancel):
            return True
        with self._lock:
            if not cancel.is_set():  # otherwise stop() or start() has seen to it
                self._coming_back = False
                self._down.set()
        return False

    def _start_again(self, watch: Watch, port: int, cancel: threading.Event) -> bool:
        """Start it again as the policy says; return whether it runs."""
        while (policy := self._policy) is not None:
            delay_s = policy.delay_s(self._restarts, time.monotonic())
            if delay_s is None:
                why = f"it ended {len(self._restarts) + 1} times, at last because: {self.error}"
                fix = f"Mend the cause, then start it again. The log is {self._log.path}."
                self.error = ServerError("KNB534", "llama-server keeps ending", why=why, fix=fix)
                return False
            if cancel.wait(delay_s):
                return False
            with self._lock:
                if cancel.is_set() or not self._states.go(
                    ServerState.STARTING, only_from={ServerState.FAILED}
                ):
                    return False
            self._restarts.append(time.monotonic())
            try:
                self._bring_up(watch, port, cancel)
            except KimiNbError:
                continue  # failed again, or stopped: the next look at cancel tells
            return True
        return False


_CANCELLED = "KNB521"


def _raise_if(cancel: threading.Event) -> None:
    if cancel.is_set():
        why = "stop() was called while it was starting"
        raise ServerError(
            _CANCELLED, "the server was stopped", why=why, fix="Call start() to start it again."
        )


def _name_of(model: Path) -> str:
    name = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", model.name)
    return "".join(letter if letter.isprintable() and letter != "," else "_" for letter in name) or "model"
