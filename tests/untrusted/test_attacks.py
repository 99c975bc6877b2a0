"""Every attack on what handles untrusted data is refused or stopped; those of a shared collection too."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agentrl.sandbox import NamespaceSandbox
from agentrl.sandbox.conformance import (
    Attack,
    Promise,
    Suite,
    Verdict,
    attempting,
    promises,
    read_attacks,
)
from agentrl.tools.untrusted.attempts import ATTEMPTS

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED, DONE = frozenset(("error",)), frozenset(("ok", "error"))
RESIZE = "from PIL import Image\nImage.new('L', (9, 9)).resize((60000, 60000))\nprint('ESC' + 'APED')"
OWN = [
    *(
        Attack(f"own-sqlite-{name}", "sql", "sqlite", code, REFUSED)
        for name, code in {
            "attach": "ATTACH '/workspace/x.db' AS x",
            "long-value": "SELECT printf('%.*c', 1500000000, 'x')",
            "recursion": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r",
            "pragma-function": "SELECT * FROM pragma_journal_mode",
        }.items()
    ),
    *(
        Attack(f"own-duckdb-{name}", "sql", "duckdb", code, REFUSED)
        for name, code in {
            "read-file": "SELECT * FROM read_text('/etc/passwd')",
            "glob": "SELECT * FROM glob('/*')",
            "copy": "COPY t TO '/workspace/out.csv'",
            "install": "INSTALL httpfs",
            "memory": "SELECT * FROM range(1000000000) ORDER BY hash(range)",
        }.items()
    ),
    Attack("own-image-resize", "image", "image", RESIZE, DONE),
    Attack("own-fetch", "server", "http", "http://169.254.169.254/ http://[::1]/ http://0177.0.0.1/", DONE),
]


def _attacks() -> list[Attack]:
    folder = os.environ.get("AGENTRL_SHARED") or Path(__file__).resolve().parents[2] / "../shared"
    file = Path(folder) / "attacks" / "attacks.jsonl"
    return [*OWN, *(read_attacks(file) if file.exists() else ())]


RUNNERS = {tool: attempting(attempt) for tool, attempt in ATTEMPTS.items()}
ATTACKS = [attack for attack in _attacks() if attack.tool in RUNNERS]


def _promises() -> list[Promise]:
    names = {f"{attack.category}-{attack.name}" for attack in ATTACKS}
    return [each for each in promises(names, ATTACKS, RUNNERS) if each.name in names]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def suite() -> AsyncIterator[Suite]:
    async with Suite(NamespaceSandbox) as suite:
        yield suite


@pytest.mark.parametrize("promise", _promises(), ids=lambda promise: promise.name)
async def test_namespace(promise: Promise, suite: Suite):
    check = await suite.check(promise)
    assert check.ok, f"{promise.text}\n{check.detail}"
    elsewhere = check.name == "server-srv-cancel"  # made on the tool server
    assert check.verdict is (Verdict.not_offered if elsewhere else Verdict.passed), check.detail
