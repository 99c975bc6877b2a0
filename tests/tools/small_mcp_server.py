"""An MCP server that starts at once, without the SDK: its tools add, hang and die."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS = [{"name": name, "inputSchema": NUMBERS} for name in ("add", "hang", "die")]


def called(name: str, a: int = 0, b: int = 0) -> str:
    if name == "hang":
        time.sleep(3600)
    if name == "die":
        os._exit(3)
    return str(a + b)


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        version = params["protocolVersion"]
        info = {"name": "small", "version": "1"}
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
    if method == "tools/list":
        return {"result": {"tools": TOOLS}}
    if method == "tools/call":
        text = called(params["name"], **params.get("arguments", {}))
        return {"result": {"content": [{"type": "text", "text": text}]}}
    return {"error": {"code": -32601, "message": f"no method {method}"}}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:  # not a notification
        reply = {
            "jsonrpc": "2.0",
            "id": message["id"],
            **answer(message["method"], message.get("params", {})),
        }
        print(json.dumps(reply), flush=True)
