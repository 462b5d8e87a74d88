"""An MCP server's tools become tools of ours, under all the rules that ours keep.

A server is a stranger. What it declares is bounded and checked, what it returns is bounded and cut, it sees
no environment but what it is given, and each call needs a person's approval unless its tool is trusted by
name: that a server calls a tool of its own harmless counts for nothing.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from kimi_nb.chat.foreign_schema import foreign_check
from kimi_nb.chat.functions import Tool
from kimi_nb.chat.mcp_pipe import ServerProgram
from kimi_nb.chat.messages import plain_name, whole_text
from kimi_nb.chat.running import cut_short
from kimi_nb.engine.secrets_out import redactor
from kimi_nb.errors import ChatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from pathlib import Path

__all__ = ["McpServer"]

_MOST_TOOLS = 128
_MOST_PAGES = 32
_MOST_DESCRIPTION = 4_000
_MOST_RESULT = 1_000_000
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class McpServer:
    """The tools of one MCP server, while it is connected; a context manager.

    Args:
        server: The address of a server that speaks streamable HTTP, or the command of one that speaks on its
            standard input and output, as a list of words; no shell is involved.
        env: For a command: its whole environment, beside ``PATH``.
        cwd: For a command: its working folder.
        headers: For an address: sent with every request, such as a key.
        only: Names of the tools to take, as the server gives them; all when None.
        trusted: Names of the tools that may run without a person's approval, as the server gives them.
        timeout_s: The longest wait for a connection, and for one call.

    Attributes:
        tools: What can be given to :func:`~kimi_nb.chat.tool_loop`.
        refused: Tools that cannot be used, by the server's name for them, and why.

    Raises:
        UsageError: ``KNB623``, it is neither an address nor a command.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        headers: Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
        trusted: Collection[str] = (),
        timeout_s: float = 30.0,
    ) -> None:
        self.tools: list[Tool] = []
        self.refused: dict[str, str] = {}
        self._program: ServerProgram | None = None
        self._url = ""
        if isinstance(server, str):
            self._url = server
            self._name = urlsplit(server).hostname or "?"
            if not server.startswith(("http://", "https://")) or env or cwd:
                raise _no_server(
                    server, "an address begins with http:// or https://, a command is a list of words"
                )
        else:
            words = list(server)
            if not words or headers or not all(isinstance(word, str) for word in words):
                raise _no_server(
                    str(words)[:60], "a command is a list of words, and takes env and cwd but no headers"
                )
            self._program = ServerProgram(words, env=env or {}, cwd=cwd)
            self._name = words[0]
        self._headers = dict(headers or {})
        self._only, self._trusted = only, frozenset(trusted)
        self._timeout_s = timeout_s
        given = {*(env or {}).values(), *self._headers.values()}
        given |= {word for value in self._headers.values() for word in value.split()}
        self._hide = redactor(value for value in given if len(value) >= len("password"))
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"McpServer({self._name}, {len(self.tools)} tools)"

    @property
    def pid(self) -> int | None:
        """Process id of a server that was started here."""
        return self._program.pid if self._program is not None else None

    def __enter__(self) -> Self:
        """Connect, and read what the server offers.

        Raises:
            ChatError: ``KNB624``, it cannot be reached, or does not speak the protocol.
        """
        ready = threading.Event()
        trouble: list[BaseException] = []

        def live() -> None:
            try:
                asyncio.run(self._live(ready))
            except BaseException as error:  # noqa: BLE001 - told by the thread that waits for it
                trouble.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=live, name="kimi-nb mcp", daemon=True)
        self._thread.start()
        try:
            ready.wait()
        except BaseException:  # such as Ctrl-C
            self.close()
            raise
        if trouble:
            self._thread.join()
            raise self._failed(trouble[0]) from None
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, and end a server that was started here; its tools then fail."""
        loop, leave, thread = self._loop, self._leave, self._thread
        if loop is not None and leave is not None and not loop.is_closed():
            loop.call_soon_threadsafe(leave.set)
        if thread is not None:
            thread.join(30.0)

    async def _live(self, ready: threading.Event) -> None:
        """Hold the connection; all of it within one task, as the mcp package needs it."""
        from mcp import Client

        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._timeout_s):
                client = Client(
                    await self._transport(stack),
                    read_timeout_seconds=self._timeout_s,
                    cache=None,
                )
                self._client = await stack.enter_async_context(client)
                await self._list()
            ready.set()
            await self._leave.wait()
            self._client = None

    async def _transport(self, stack: AsyncExitStack) -> Any:
        if self._program is not None:
            return self._program.streams()
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        http = httpx2.AsyncClient(
            headers=self._headers,
            trust_env=urlsplit(self._url).hostname not in _LOOPBACK,
            timeout=httpx2.Timeout(self._timeout_s),
            event_hooks={"response": [_bounded]},
        )
        return streamable_http_client(self._url, http_client=await stack.enter_async_context(http))

    async def _list(self) -> None:
        self.tools, self.refused = [], {}
        cursor: str | None = None
        seen: set[str] = set()
        for _ in range(_MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            for declared in page.tools:
                if (self._only is None or declared.name in self._only) and declared.name not in seen:
                    seen.add(declared.name)
                    self._take(declared)
            cursor = page.next_cursor
            if cursor is None:
                break

    def _take(self, declared: Any) -> None:
        name = plain_name(declared.name)
        shown = whole_text(declared.name)[:80]
        try:
            if len(self.tools) >= _MOST_TOOLS:
                raise _no_server(
                    shown, f"more than {_MOST_TOOLS} tools are too many; name those wanted with only"
                )
            if any(each.name == name for each in self.tools):
                raise _no_server(shown, f"there is another tool called {name}")
            schema = {"type": "object", **declared.input_schema}
            made = Tool(
                name=name,
                description=cut_short(whole_text(declared.description or ""), _MOST_DESCRIPTION)[0],
                parameters=schema,
                check=foreign_check(schema, f"the tool {name}"),
                run=self._caller(declared.name),
                dangerous=declared.name not in self._trusted,
                timeout_s=self._timeout_s,
            )
            from kimi_nb.model.tools_ts import encode_tools

            encode_tools([made.declaration])  # it may still have something that has no TypeScript
        except UsageError as error:
            self.refused[shown] = error.why
        else:
            self.tools.append(made)

    def _caller(self, name: str) -> Callable[..., str]:
        def call(**arguments: Any) -> str:
            return self._wait(self._call(name, arguments))

        return call

    def _wait(self, call: Coroutine[Any, Any, str]) -> str:
        loop = self._loop
        if loop is None or loop.is_closed() or self._client is None:
            call.close()
            raise ConnectionError(f"the MCP server {self._name} is not connected")
        future = asyncio.run_coroutine_threadsafe(call, loop)
        try:
            return future.result(self._timeout_s + 5.0)
        finally:
            future.cancel()

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError, types

        # Not the package's own call_tool: it would hold the result to a schema of the server's, with Python's
        # regular expressions.
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=arguments))
        try:
            result = await self._client.session.send_request(
                request, types.CallToolResult, request_read_timeout_seconds=self._timeout_s
            )
        except MCPError as error:
            raise RuntimeError(self._hide(str(error.message)[:2000])) from None
        text = self._hide(_text(result))
        if result.is_error:
            raise RuntimeError(text[:2000] or "the tool failed and did not say why")
        return text

    def _failed(self, error: BaseException) -> ChatError:
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        if isinstance(error, KeyboardInterrupt):
            raise error
        why = f"it did not answer within {self._timeout_s:g} s" if isinstance(error, TimeoutError) else ""
        why = why or getattr(error, "strerror", None) or str(error) or type(error).__name__
        if self._program is not None and self._program.last_words:
            why += f"; its last words: {self._program.last_words}"
        return ChatError(
            "KNB624",
            f"the MCP server {self._name} cannot be used",
            why=" ".join(self._hide(why).split())[:400],
            fix="Check its command or address by itself first.",
        )


async def _bounded(response: Any) -> None:
    """Refuse an answer that announces too many bytes; a stream's events are bounded by the mcp package."""
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) > 16 * _MOST_RESULT:
        await response.aclose()
        raise ValueError(f"an answer of {length} bytes is too long")


def _text(result: Any) -> str:
    """Return a result as text; what is no text is named."""
    parts = []
    for block in result.content:
        embedded = getattr(block, "resource", None)
        text = getattr(block, "text", None) or getattr(embedded, "text", None)
        if isinstance(text, str):
            parts.append(text)
        elif block.type != "text":
            about = getattr(block, "mime_type", None) or getattr(block, "uri", None) or ""
            parts.append(f"[{block.type} {about} left out]".replace("  ", " "))
    text = "\n".join(parts)
    if result.structured_content is not None and (not parts or _holds(text, result.structured_content)):
        # Servers indent it; a model pays for each space, and Kimi knows JSON without.
        text = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    return cut_short(whole_text(text), _MOST_RESULT)[0]


def _holds(text: str, value: Any) -> bool:
    try:
        return bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False


def _no_server(what: str, why: str) -> UsageError:
    return UsageError(
        "KNB623",
        f"{what} cannot be used as an MCP server or tool",
        why=why,
        fix="Give an address such as http://127.0.0.1:8000/mcp, or a command: ['python', 'server.py'].",
    )
