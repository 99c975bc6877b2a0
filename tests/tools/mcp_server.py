"""An MCP server for the tests: its tools count, draw, fail, wait and die."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

from mcp import MCPError
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import INVALID_PARAMS, ToolAnnotations

SQUARE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060f80f"
    "0001040100a1a3b0d50000000049454e44ae426082"
)

server = MCPServer("tests", log_level="ERROR")
count = 0


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def up() -> str:
    """Count up, in this process."""
    global count
    count += 1
    return f"{count} in {os.getpid()}"


@server.tool()
def square() -> Image:
    """Draw a square."""
    return Image(data=SQUARE, format="png")


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("the well is dry")


@server.tool()
def refuse() -> str:
    """Refuse the call itself."""
    raise MCPError(INVALID_PARAMS, "not on Sundays")


@server.tool()
def hang() -> str:
    """Never answer."""
    time.sleep(3600)
    return "late"


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


def guarded(app: Any) -> Any:
    """The application, for those alone who show the word "please"."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"authorization", b"Bearer please") not in scope["headers"]:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return guard


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        import uvicorn

        listening = socket.socket(fileno=int(sys.argv[1]))
        app = guarded(server.streamable_http_app())
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])
