"""An MCP server for tests, made with the mcp package: stdio, or HTTP on a free port.

Run as ``python mcp_stranger.py stdio|http``; with ``http`` it prints its port first.
"""

import json
import os
import sys
from typing import Annotated

from mcp.server import MCPServer
from pydantic import Field

server = MCPServer("stranger")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool(name="files/read.text")
def odd_name(path: Annotated[str, Field(pattern="^[a-z]+$")]) -> str:
    """Read."""
    return f"text of {path}"


@server.tool()
def environment() -> str:
    """Tell the environment."""
    return json.dumps(dict(os.environ))


@server.tool()
def weather() -> dict[str, int | str]:
    """Tell the weather."""
    return {"temp_c": 31, "sky": "sun"}


@server.tool()
def big() -> str:
    """Say very much."""
    return "y" * 3_000_000


@server.tool()
def fail(secret: str) -> str:
    """Fail."""
    raise RuntimeError(f"no luck with {secret} and {os.environ.get('STRANGER_KEY')}")


@server.tool()
def pid() -> str:
    """Tell the process id."""
    return str(os.getpid())


def http() -> None:
    import socket

    import uvicorn

    key = os.environ.get("STRANGER_KEY")
    inner = server.streamable_http_app()

    async def guarded(scope, receive, send):
        told = dict(scope.get("headers") or [])
        if scope["type"] == "http" and key and told.get(b"authorization") != f"Bearer {key}".encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
            return
        await inner(scope, receive, send)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(guarded, log_level="error", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    print("stranger speaking", file=sys.stderr, flush=True)
    http() if sys.argv[1] == "http" else server.run()
