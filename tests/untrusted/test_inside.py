"""What comes out of a sandbox is believed in its form alone."""

from __future__ import annotations

import json

import pytest

from agentrl.sandbox import Result, Status
from agentrl.tools.untrusted import Interrupted, Refused, Unanswered
from agentrl.tools.untrusted.inside import MOST_MESSAGE, ask
from agentrl.tools.untrusted.table import Table


class Lying:
    """A session whose program says whatever it likes, knowing the nonce or not."""

    def __init__(self, says: str, status: Status = Status.ok, *, truncated: bool = False) -> None:
        self._says, self._status, self._truncated = says, status, truncated

    async def run_script(self, code: str, *, stdin: bytes, wall_seconds: float) -> Result:
        said = self._says.replace("NONCE", json.loads(stdin)["nonce"])
        return Result(self._status, said, "Traceback\nBoom: x", 0, 0.1, self._truncated, "")


async def answered(session: Lying) -> Table:
    return await ask(session, "sqlite", {}, Table, seconds=1)  # type: ignore[arg-type]


async def test_the_last_line_counts_if_it_has_the_nonce():
    said = 'noise\nNONCE {"answer": {"columns": ["a"], "rows": [[1]]}}\n'
    assert (await answered(Lying(said))).rows == [[1]]


@pytest.mark.parametrize(
    "says",
    [
        "",
        '0000 {"answer": {"columns": [], "rows": []}}',
        'NONCE {"answer": {"columns": [], "rows": []}}\nlater',
        "NONCE",
        "NONCE {",
        "NONCE []",
        "NONCE 7",
        "NONCE {}",
        'NONCE {"answer": {"columns": []}}',
        'NONCE {"answer": {"columns": [], "rows": [[{}]]}}',
        'NONCE {"answer": {"columns": [], "rows": [], "extra": 1}}',
        'NONCE {"answer": {"columns": [1], "rows": []}}',
        'NONCE {"answer": {"columns": [], "rows": []}, "kind": "refused"}',
        'NONCE {"kind": "root", "message": "x"}',
        'NONCE {"kind": "refused"}',
        "NONCE " + "[" * 100_000,
    ],
    ids=range(16),
)
async def test_no_other_form_is_taken(says: str):
    with pytest.raises(Unanswered):
        await answered(Lying(says))


async def test_messages_are_cut():
    with pytest.raises(Refused) as caught:
        await answered(Lying('NONCE {"kind": "refused", "message": "' + "x" * 10_000 + '"}'))
    assert str(caught.value) == "x" * MOST_MESSAGE


@pytest.mark.parametrize(
    "status", [Status.timeout, Status.oom, Status.output_limit, Status.crashed, Status.session_lost]
)
async def test_a_program_that_was_stopped_has_not_answered(status: Status):
    said = 'NONCE {"answer": {"columns": [], "rows": []}}'
    with pytest.raises(Interrupted, match="^Stopped: "):
        await answered(Lying(said, status))
