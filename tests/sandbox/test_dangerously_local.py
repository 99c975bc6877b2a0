"""The backend without isolation keeps the contract, does not claim the rest, and is not attacked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentrl.sandbox import open_sandbox
from agentrl.sandbox.conformance import Promise, Suite, promises

pytestmark = pytest.mark.slow

_BROKEN = ("sessions_share_nothing", "no_file_is_left", "a_stateless_call_finds_nothing_of_the_last")
_KEPT = [
    promise
    for promise in promises(["contract", "limits", "lifetime", "concurrency", "cleanliness"])
    if promise.name not in _BROKEN
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def suite() -> AsyncIterator[Suite]:
    async with Suite(lambda: open_sandbox("dangerously_local"), settle_seconds=2.0) as suite:
        yield suite


@pytest.mark.parametrize("promise", _KEPT, ids=lambda promise: promise.name)
@pytest.mark.asyncio(loop_scope="module")
async def test_it_keeps(promise: Promise, suite: Suite) -> None:
    check = await suite.check(promise)
    assert check.ok, f"{promise.text}\n{check.detail}"


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("sessions_share_nothing", "nothing of the other is seen"),
        ("no_file_is_left", "no file of the session is left"),
        ("a_stateless_call_finds_nothing_of_the_last", "the next finds nothing"),
        ("files-read-canary", "the attack works"),
        ("protocol-kill-everything", "not made: this backend isolates nothing"),
        ("resource-fork-bomb-sh", "not made: this backend isolates nothing"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_its_report_says_what_is_not_kept(name: str, detail: str, suite: Suite) -> None:
    [promise] = promises([name])
    check = await suite.check(promise)
    assert not check.ok and detail in check.detail
