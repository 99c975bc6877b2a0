"""An MCP server for the tests: its tools count, draw, fail, wait and die."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

SQUARE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63606060f80f"
    "0001040100a1a3b0d50000000049454e44ae426082"
)

server = MCPServer("tests", log_level="ERROR")
count = 0


@server.tool()
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
def hang() -> str:
    """Never answer, nor anything after it."""
    Path(f"{sys.argv[2]}/hangs").touch()
    time.sleep(3600)
    return "late"


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
