"""The namespace backend keeps what every backend promises, one test per check; attacks of a shared collection
too, if there is one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from attack_list import shared_attacks

from agentrl.sandbox import NamespaceSandbox
from agentrl.sandbox.conformance import ATTACKS, RUNNERS, Attack, Promise, Suite, promises
from agentrl.sandbox.conformance.targets import targets

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def suite(isolation: None) -> AsyncIterator[Suite]:
    """One sandbox for all checks: what one of them breaks shows in the next."""
    async with Suite(NamespaceSandbox) as suite:
        yield suite


@pytest.mark.parametrize(
    "promise",
    promises(more_attacks=shared_attacks(RUNNERS)),
    ids=lambda promise: f"{promise.group}-{promise.name}",
)
@pytest.mark.asyncio(loop_scope="module")
async def test_namespace(promise: Promise, suite: Suite) -> None:
    check = await suite.check(promise)
    assert check.ok, f"{promise.text}\n{check.detail}"


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.works_outside], ids=lambda attack: attack.name
)
def test_the_attack_works_where_nothing_confines_it(attack: Attack) -> None:
    """Otherwise its failing inside would prove nothing."""
    with targets() as aims:
        program = ["/bin/bash", "-c"] if attack.tool == "bash" else [sys.executable, "-c"]
        done = subprocess.run([*program, aims.fill(attack.code)], capture_output=True, text=True, timeout=60)
    assert "ESCAPED" in done.stdout, done
