"""An MCP server as a program of ours: it dies with us, sees what it is given, and cannot fill our memory.

The mcp package would start it itself, with part of our environment and without a guardian, and would read a
line of any length.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from kimi_nb.processes import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from kimi_nb.processes import OwnedProcess

__all__ = ["ServerProgram"]

_LONGEST_LINE = 16 * 2**20
_ENDS_BY_ITSELF_S = 1.0
_LAST_WORDS = 5


class ServerProgram:
    """A program that speaks MCP on its standard input and output, as a transport of the mcp package.

    Args:
        command: Program and arguments.
        env: Its environment; beside this it only gets our ``PATH``, so that programs can be found.
        cwd: Its working folder.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None) -> None:
        self._command = list(command)
        self._env = {"PATH": os.environ.get("PATH", os.defpath), **env}
        self._cwd = cwd
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)
        #: Its process id, once it runs.
        self.pid: int | None = None

    @property
    def last_words(self) -> str:
        """What it last wrote to its standard error."""
        return " / ".join(self._said)

    @asynccontextmanager
    async def streams(self) -> AsyncGenerator[tuple[Any, Any], None]:
        """Run it, and give the streams of messages from and to it; end it at the end.

        Raises:
            OSError: It cannot be started.
        """
        import anyio

        pipe = subprocess.PIPE
        process = await asyncio.to_thread(
            spawn, self._command, env=self._env, cwd=self._cwd, stdin=pipe, stdout=pipe, stderr=pipe
        )
        if process.stdin is None or process.stdout is None:
            raise AssertionError("it was started with pipes")
        self.pid = process.command_pid
        listener = threading.Thread(
            target=self._listen, args=(process.stderr,), name="kimi-nb mcp", daemon=True
        )
        listener.start()
        send_in, received = anyio.create_memory_object_stream[Any](0)
        to_send, send_out = anyio.create_memory_object_stream[Any](0)
        try:
            async with anyio.create_task_group() as group, received, to_send:
                group.start_soon(_read, process.stdout, send_in)
                group.start_soon(_write, process.stdin, send_out, send_in)
                try:
                    yield received, to_send
                finally:
                    to_send.close()
                    with anyio.CancelScope(shield=True):
                        await asyncio.to_thread(_end, process)
                    group.cancel_scope.cancel()
        finally:
            await asyncio.to_thread(listener.join, 2.0)
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    stream.close()

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(4096):
                if text := line.decode(errors="replace").strip():
                    self._said.append(text[:300])


async def _read(stream: IO[bytes], out: Any) -> None:
    """Pass on what the program writes, one message a line, until it ends or writes a line without end."""
    import anyio
    from mcp import types
    from mcp.shared.message import SessionMessage

    async with out:
        while True:
            line = await asyncio.to_thread(stream.readline, _LONGEST_LINE)
            if not line.endswith(b"\n"):
                return
            try:
                message: Any = SessionMessage(
                    types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                )
            except ValueError as error:
                message = error
            try:
                await out.send(message)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return


async def _write(stream: IO[bytes], source: Any, out: Any) -> None:
    async with source:
        async for message in source:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                await asyncio.to_thread(_put, stream, text.encode() + b"\n")
            except (OSError, ValueError):  # it is gone: whoever waits for an answer is told
                await out.aclose()
                return


def _put(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)
    stream.flush()


def _end(process: OwnedProcess) -> None:
    """End it as the protocol says: no more input, then a signal, then another."""
    with suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number == signal.SIGKILL:
            process.kill()
        elif number is not None:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_BY_ITSELF_S)
            return
