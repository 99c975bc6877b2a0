"""Other people's protocols, each written against :class:`agentrl.serve.host.ToolHost` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from aiohttp import web

from agentrl.serve.host import ToolHost
from agentrl.serve.protocols import mcp, sandbox_fusion, search_r1, verl_tool

PROTOCOLS: Mapping[str, Callable[[ToolHost], list[web.RouteDef]]] = MappingProxyType(
    {
        "mcp": mcp.routes,
        "sandbox-fusion": sandbox_fusion.routes,
        "search-r1": search_r1.routes,
        "verl-tool": verl_tool.routes,
    }
)
"""By name: what makes a protocol's routes."""
