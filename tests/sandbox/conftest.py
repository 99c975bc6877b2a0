"""A real sandbox for every test: where this machine cannot make one, the tests fail and say why."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentrl.sandbox import NamespaceSandbox, Session

sys.path.insert(0, str(Path(__file__).parent))  # the tests share `process_tree`


@pytest.fixture(scope="session")
def isolation() -> None:
    """Fails the tests, rather than skipping them, on a machine without isolation."""
    availability = NamespaceSandbox.availability()
    if not availability.ok:
        pytest.fail(f"the sandbox cannot be tested on this machine: {availability.reason}")


@pytest.fixture
async def sandbox(isolation: None) -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def session(sandbox: NamespaceSandbox) -> AsyncIterator[Session]:
    async with await sandbox.create() as session:
        yield session
