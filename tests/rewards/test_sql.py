"""Judging SQL by what it gives: worked cases of the comparison, and statements run in a real sandbox."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given as drawn
from hypothesis import strategies as st

from agentrl import DataError, InfrastructureError, ToolContext
from agentrl.errors import SandboxUnavailable
from agentrl.rewards.sql import execution_match, extract_sql, is_ordered, same_rows, without_distinct
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import NamespaceSandbox
from agentrl.tools.untrusted.guest import for_match

in_the_sandbox = pytest.mark.asyncio(loop_scope="module")

# ---- the comparison ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "given", "anyhow", "in_order"),
    [
        ([], [], True, True),
        ([(1,)], [], False, False),
        ([(1,), (2,)], [(1,), (2,)], True, True),
        ([(1,), (2,)], [(2,), (1,)], True, False),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),  # as often as it occurs
        ([(1,), (1,)], [(1,)], False, False),
        ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], True, True),  # columns in another order
        ([(1, "a"), (2, "b")], [("b", 1), ("a", 2)], False, False),  # columns that do not go together
        ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], True, False),
        ([(1, 2)], [(1, 2, 3)], False, False),
        ([(1, 1), (1, 2)], [(1, 1), (2, 1)], True, True),
        ([(1,)], [(1.0,)], True, True),
        ([(1,)], [("1",)], False, False),
        ([(0.5,)], [(0.5000001,)], False, False),
        ([(None,)], [(None,)], True, True),
        ([(None,)], [(0,)], False, False),
        ([("a",)], [(b"a",)], False, False),
        ([("a",)], [("A",)], False, False),
        # Each column has a partner with the same values, but no order of the columns gives the same rows.
        (
            [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)],
            [(0, 0, 1), (1, 1, 1), (1, 0, 0), (0, 1, 0)],
            False,
            False,
        ),
    ],
)
def test_worked_cases(gold, given, anyhow, in_order):
    assert same_rows(gold, given, ordered=False) is anyhow
    assert same_rows(gold, given, ordered=True) is in_order


VALUES = st.sampled_from([0, 1, 2, "0", None, 0.5])
TABLES = st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[VALUES] * n), min_size=1, max_size=6))


def by_trying(gold: list, given: list, *, ordered: bool) -> bool:
    """The definition: all orders of the columns."""
    if len(gold) != len(given) or len(gold[0]) != len(given[0]):
        return False
    key = repr if not ordered else None
    for order in itertools.permutations(range(len(given[0]))):
        rows = [tuple(row[i] for i in order) for row in given]
        if (rows == gold) if ordered else (sorted(rows, key=key) == sorted(gold, key=key)):
            return True
    return False


@drawn(TABLES, TABLES, st.booleans())
def test_it_is_what_trying_all_orders_of_columns_says(gold, given, ordered):
    assert same_rows(gold, given, ordered=ordered) is by_trying(gold, given, ordered=ordered)


@drawn(TABLES, st.randoms(use_true_random=False), st.booleans())
def test_rows_and_columns_may_be_shuffled(gold, rng, ordered):
    order = list(range(len(gold[0])))
    rng.shuffle(order)
    given = [tuple(row[i] for i in order) for row in gold]
    assert same_rows(gold, given, ordered=ordered)
    rng.shuffle(given)
    assert same_rows(gold, given, ordered=False)


def test_trying_orders_of_columns_can_be_ended():
    rows = [tuple(int(i == (j + k) % 9) for i in range(9)) for j in range(9) for k in range(3)]
    with pytest.raises(TimeoutError):
        same_rows(rows, rows, ordered=False, expired=lambda: True)


# ---- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("```sql\nSELECT 1\n```", "SELECT 1"),
        ("So:\n```SQL\nSELECT 1;\n```\nor rather\n```sql\nSELECT\n 2\n```\nDone.", "SELECT\n 2"),
        ("```sql\nSELECT '```'\n```", "SELECT '```'"),
        ("SELECT 1", None),
        ("```\nSELECT 1\n```", None),
        ("```python\nSELECT 1\n```", None),
        ("```sql\n\n```", None),
        ("```sql\nSELECT 1", None),
        ("", None),
    ],
)
def test_the_statement_in_an_answer(text, sql):
    assert extract_sql(text) == sql


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM t order\n  by a", True),
        ("SELECT a FROM t ORDER /* b */ BY a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 1)", True),
        ("SELECT 'order by' FROM t", False),
        ('SELECT "order by" FROM t -- order by', False),
        ("SELECT reorder, by FROM t", False),
    ],
)
def test_whether_order_matters(sql, ordered):
    assert is_ordered(sql) is ordered


def test_distinct_is_a_word_outside_of_quotes():
    assert without_distinct("SELECT DISTINCT a, 'distinct', count(distinct b)") == (
        "SELECT  a, 'distinct', count( b)"
    )


# ---- in the sandbox ---------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def context(sandbox: NamespaceSandbox) -> AsyncIterator[ToolContext]:
    sessions = EpisodeSessions(sandbox)
    yield ToolContext(open_session=sessions.open, run_once=sessions.run)
    await sessions.close(5)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make(tmp_path / "shop.sqlite", [(1, "tea", 3.5), (2, "salt", 1.0), (3, "tea", 1.0)])


def make(path: Path, rows: list[tuple]) -> Path:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (id INTEGER, name TEXT, price REAL)")
    database.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()
    return path


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT "


@pytest.mark.parametrize(
    ("given", "gold", "outcome"),
    [
        ("SELECT name FROM t WHERE id < 3;", "SELECT name FROM t WHERE id <= 2", "same"),
        ("SELECT price, name FROM t", "SELECT name, price FROM t", "same"),
        ("SELECT DISTINCT name FROM t", "SELECT name FROM t", "different"),
        ("SELECT id FROM t ORDER BY id DESC", "SELECT id FROM t", "same"),
        ("SELECT id FROM t ORDER BY id DESC", "SELECT id FROM t ORDER BY id", "different"),
        ("SELECT '3'", "SELECT count(*) FROM t", "different"),
        ("SELEC 1", "SELECT 1", "failed"),
        ("SELECT 1; SELECT 1", "SELECT 1", "failed"),
        ("SELECT x FROM t", "SELECT 1", "failed"),
        ("SELECT '\ud800'", "SELECT 1", "failed"),
        ("SELECT 1 -- " + "x" * 10_000, "SELECT 1", "failed"),
        ("DELETE FROM t", "SELECT 1", "refused"),
        ("ATTACH '/etc/passwd' AS x", "SELECT 1", "refused"),
        (ENDLESS + "count(*) FROM r", "SELECT 1", "slow"),
        (ENDLESS + "n FROM r", "SELECT 1", "different"),  # stopped after one row too many
        ("SELECT replace(hex(zeroblob(8000000)), '0', 'xy') FROM t, t b", "SELECT 1 FROM t, t b", "failed"),
        ("SELECT printf('%9000000s', '') FROM t, t b", "SELECT 1 FROM t, t b", "huge"),
    ],
    ids=lambda value: str(value)[:40],
)
@in_the_sandbox
async def test_what_comes_of_a_statement(context, shop, given, gold, outcome):
    seconds = 1.0 if outcome == "slow" else 30.0
    assert (await execution_match(context, given, gold, [shop], seconds=seconds)).outcome == outcome


@in_the_sandbox
async def test_a_function_that_no_limit_reaches_is_ended_from_outside(context, shop):
    endless = "SELECT length(printf('%.*c', 2000000000, 'x')) + length(printf('%.*c', 2000000000, 'x'))"
    verdict = await execution_match(context, endless, "SELECT 1", [shop], seconds=0.5)
    assert verdict.outcome in ("slow", "huge", "failed")  # as fast as the machine is, but never right


@in_the_sandbox
async def test_distinct_can_be_ignored(context, shop):
    verdict = await execution_match(
        context, "SELECT DISTINCT name FROM t", "SELECT name FROM t", [shop], ignore_distinct=True
    )
    assert verdict.outcome == "same"


@in_the_sandbox
async def test_all_databases_have_to_agree(context, shop, tmp_path):
    other = make(tmp_path / "other.sqlite", [(1, "tea", 2.0)])
    gold = "SELECT count(*) FROM t"
    assert (await execution_match(context, "SELECT 3", gold, [shop])).outcome == "same"
    assert (await execution_match(context, "SELECT 3", gold, [shop, other])).outcome == "different"
    assert (await execution_match(context, "SELECT sum(1) FROM t", gold, [shop, other])).outcome == "same"


def test_the_time_is_for_all_databases_together(monkeypatch):
    """Else a statement could run on until the episode's own time is over, and void it."""
    given: list[float] = []
    monkeypatch.setattr(for_match, "_gold", lambda path, request: [(1,)])
    monkeypatch.setattr(
        for_match, "_compare", lambda path, request, gold, seconds: given.append(seconds) or ("same", "")
    )
    assert for_match.answer({"paths": ["a", "b", "c"], "seconds": 5.0})["outcome"] == "same"
    assert 5.0 == given[0] > given[1] > given[2]


@in_the_sandbox
async def test_a_dead_database_is_no_wrong_answer(context, shop, tmp_path):
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no database " * 1000)
    for path in (tmp_path / "none.sqlite", broken):
        with pytest.raises(InfrastructureError, match="database"):
            await execution_match(context, "SELECT 1", "SELECT count(*) FROM t", [path])
    torn = tmp_path / "torn.sqlite"
    torn.write_bytes(shop.read_bytes()[:4096] + b"\xff" * 4096)
    with pytest.raises(InfrastructureError, match="broken"):
        await execution_match(context, "SELECT 1", "SELECT count(*) FROM t", [torn])


@in_the_sandbox
async def test_gold_that_fails_is_the_users_to_mend(context, shop):
    for gold, words in (
        ("SELECT x FROM t", "no such column"),
        (f"{ENDLESS}n FROM r", "more than 100000 rows"),
    ):
        with pytest.raises(DataError, match=words):
            await execution_match(context, "SELECT 1", gold, [shop])
    with pytest.raises(InfrastructureError, match="more seconds"):
        await execution_match(context, "SELECT 1", f"{ENDLESS}count(*) FROM r", [shop], seconds=0.3)
    with pytest.raises(DataError, match="1 to 16"):
        await execution_match(context, "SELECT 1", "SELECT 1", [])


@in_the_sandbox
async def test_nothing_is_run_without_a_sandbox(shop):
    with pytest.raises(SandboxUnavailable):
        await execution_match(ToolContext(), "SELECT 1", "SELECT 1", [shop])
