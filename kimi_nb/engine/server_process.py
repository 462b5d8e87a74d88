"""One life of one llama-server: started, watched until it answers, ended."""

from __future__ import annotations

import math
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from kimi_nb.engine.out_of_memory import OutOfMemoryWatch
from kimi_nb.engine.server_errors import explain
from kimi_nb.engine.server_http import HOST, ServerHttp
from kimi_nb.engine.server_liveness import Liveness
from kimi_nb.engine.server_load import Activity
from kimi_nb.errors import ServerError
from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimi_nb.engine.server_log import ServerLog

__all__ = ["Progress", "ServerProcess"]

#: Told what happens while a server starts, and how far it is from 0 to 1 where that is known.
Progress: TypeAlias = Callable[[str, float | None], None]

_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_REPORT_EVERY_S = 0.5
_LOOK_EVERY_S = 0.05


class ServerProcess:
    """A llama-server that has been started.

    Args:
        command: Program and arguments.
        env: Its whole environment, with the key.
        api_key: The key, for our own requests.
        log: Where its output goes.
        on_end: Called once, by another thread, when it has closed its output.

    Raises:
        ServerError: The program could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        api_key: str,
        log: ServerLog,
        on_end: Callable[[], None],
    ) -> None:
        self._api_key = api_key
        self._log = log
        self._since = log.count
        self._port = 0
        self._listening = threading.Event()
        self._liveness = Liveness()
        self._memory = OutOfMemoryWatch()
        try:
            self._process = spawn(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            why = error.strerror or str(error)
            fix = "Build llama.cpp again with `kimi-nb build`."
            raise ServerError("KNB527", f"{command[0]} cannot be started", why=why, fix=fix) from error
        #: Process id of llama-server itself, not of its guardian.
        self.pid = self._process.command_pid
        if self._process.stdout is None:
            raise AssertionError("it was started with a pipe")
        self._silent = threading.Event()
        self._on_end = on_end
        self._reader = log.follow(self._process.stdout, on_line=self._read_line, on_end=self._end_of_output)

    def _read_line(self, line: str) -> None:
        if not self._listening.is_set() and (found := _LISTENING.search(line)):
            self._port = int(found[1])
            self._listening.set()

    def _end_of_output(self) -> None:
        self._silent.set()
        self._on_end()

    @property
    def http(self) -> ServerHttp:
        """A client for it; only once it is listening."""
        return ServerHttp(self._port, self._api_key)

    @property
    def port(self) -> int:
        """Where it listens; 0 before it has told."""
        return self._port

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        code = self._process.poll()
        if code is None and self._silent.is_set():
            # Its output ends a moment before the system tells that it has ended.
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(2.0)
        return code

    def ping(self, timeout_s: float) -> None:
        """Make sure that it answers; raise OSError when it does not. See :class:`Liveness`."""
        self._liveness.ask(self.http, timeout_s)

    def cpu_s(self) -> float | None:
        """Return the processor time it has used, or None when that cannot be told."""
        import psutil

        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return None
        return float(times.user + times.system)

    def death(self, when: str) -> ServerError:
        """Return why it ended; it must have ended."""
        code = self._process.wait()
        self._reader.join(5.0)  # its last words may still be on the way
        return explain(
            code,
            self._log.tail(2000, since=self._since),
            when=when,
            log=self._log.path,
            out_of_memory=self._memory.verdict(),
        )

    def wait_until_ready(
        self,
        *,
        model: str,
        total_bytes: int,
        stall_s: float,
        check: Callable[[], None],
        progress: Progress,
    ) -> None:
        """Wait until it has loaded the model and answered a request with our key.

        Args:
            model: The name it must go by.
            total_bytes: Size of the model's files.
            stall_s: Give up when for so many seconds nothing at all happened.
            check: Called often; raises to end the wait.
            progress: Told what happens.

        Raises:
            ServerError: It ended, it does nothing any more, or it answers wrongly.
        """
        activity = Activity(self.pid, total_bytes, lambda: self._log.count)
        told = -math.inf

        def look() -> None:
            nonlocal told
            check()
            if self.poll() is not None:
                raise self.death("while starting")
            activity.look()
            if activity.idle_s > stall_s:
                why = f"no processor time, no byte read and no line logged for {activity.idle_s:.0f} s"
                fix = f"See whether the model's disk answers. The log is {self._log.path}."
                raise ServerError("KNB520", "llama-server has stopped loading", why=why, fix=fix)
            if time.monotonic() - told > _REPORT_EVERY_S:
                told = time.monotonic()
                loaded = self._listening.is_set()
                progress("waiting for the first token" if loaded else str(activity), activity.fraction)

        look()  # so that a caller hears of every start, also of one that is over in an instant
        while not self._listening.wait(_LOOK_EVERY_S):
            look()
        self._prove(model, look)

    def _prove(self, model: str, look: Callable[[], None]) -> None:
        """Ask for health, for the model's name with the key, and for one token."""
        self._expect("/health", None, look)
        answer = self._expect("/v1/models", None, look)
        names = [entry.get("id") for entry in (answer or {}).get("data", [])]
        if model not in names:
            raise self._wrong(f"it serves {', '.join(map(str, names)) or 'no model'} and not {model}")
        body = {"prompt": ".", "n_predict": 1, "cache_prompt": False}
        answer = self._expect("/completion", body, look)
        if not isinstance(answer, dict) or answer.get("tokens_predicted") != 1:
            raise self._wrong(f"asked for one token it answered {str(answer)[:200]}")

    def _expect(self, path: str, body: dict[str, Any] | None, look: Callable[[], None]) -> Any:
        try:
            answer = self.http.ask(path, body, while_waiting=look)
        except OSError as error:
            # It may have died in the middle of the answer, which is then the better story.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
                raise self.death("on its first request") from error
            raise self._wrong(f"{path} gave no answer: {error}") from error
        if answer.status != HTTPStatus.OK:
            raise self._wrong(f"{path} was answered with {answer.status}: {answer.text()[:200]}")
        return answer.json()

    def _wrong(self, why: str) -> ServerError:
        what = "llama-server runs but does not answer as it should"
        return ServerError("KNB522", what, why=why, fix=f"Start it again. The log is {self._log.path}.")

    def stop(self, *, grace_s: float) -> None:
        """End it, even with a client in the middle of an answer, and wait until its port is free.

        On a first SIGTERM llama-server waits for as long as a client stays connected; on a second it leaves.

        Raises:
            ServerError: It could not be ended.
        """
        for _ in range(2):
            if self.poll() is not None:
                break
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        if self.poll() is None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10.0)
        if self.poll() is None:
            why = f"process {self.pid} does not even react to signal 9, as when its disk or GPU hangs"
            raise ServerError("KNB523", "llama-server cannot be ended", why=why, fix="Restart the machine.")
        self._reader.join(10.0)
        deadline = time.monotonic() + 2.0
        while self._port and _answers(self._port) and time.monotonic() < deadline:
            time.sleep(0.02)


def _answers(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
