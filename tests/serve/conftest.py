"""One server for the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from serve_support import Running, running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Running]:
    """Offers the tools that run code."""
    async with running("code{seconds: 5}", "python{seconds: 5}") as server:
        yield server
