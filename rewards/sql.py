"""Does a statement answer the question? It is run beside the wanted one, and their rows are compared.

Rows are compared as `Spider's test suite <https://github.com/taoyds/test-suite-sql-eval>`_ does: as a
multiset, in any order of the columns; the order of rows matters where the wanted statement has ORDER BY; 1 is
1.0 and is not '1'. Where a folder holds several databases of one schema, all of them have to agree, so that a
statement which writes down what it saw (``SELECT 42``) is found out.

Statements run in an empty sandbox of their own, on fresh copies, and can only read.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from agentrl import DataError, InfrastructureError, ToolContext
from agentrl.tools.untrusted import Interrupted, Unanswered
from agentrl.tools.untrusted.embedded import MOST_DATABASE_BYTES
from agentrl.tools.untrusted.guest._same import same_rows
from agentrl.tools.untrusted.inside import LOADING_SECONDS, MARGIN_SECONDS, program, read

__all__ = ["MOST_DATABASES", "Verdict", "execution_match", "extract_sql", "is_ordered", "same_rows"]

SEARCHED = 20_000
"""Characters at the end of a text in which a statement is searched."""
MOST_SQL = 10_000
"""Characters of a statement that is run; a longer one is wrong."""
MOST_DATABASES = 16
MEMORY_MB = 512

_FENCED = re.compile(r"^[ \t]*```sql[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_PIECE = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)|\w+|\s+|.",
    re.DOTALL,
)


class Verdict(BaseModel):
    """What came of a statement.

    ``outcome`` is ``same`` or ``different`` (it ran), ``failed`` (it is no statement, or raised), ``refused``
    (it does more than read), ``slow`` or ``huge`` (it was stopped). ``detail`` says more, for a person.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    outcome: Literal["same", "different", "failed", "refused", "slow", "huge"]
    detail: Annotated[str, Field(max_length=500)] = ""


class _Reply(BaseModel):
    """The guest's: a verdict's outcome, or ``gold`` and what became of the wanted statement."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    outcome: Literal[
        "same", "different", "failed", "refused", "slow", "huge",
        "gold failed", "gold refused", "gold slow", "gold huge", "gold dead",
    ]  # fmt: skip
    detail: Annotated[str, Field(max_length=500)]


@dataclass(frozen=True)
class _Suite:
    """Databases by the names they have in the sandbox."""

    files: dict[str, bytes]

    @property
    def room_mb(self) -> int:
        return 64 + math.ceil(sum(map(len, self.files.values())) / (1 << 20))


def extract_sql(text: str) -> str | None:
    """The statement in the last block of a text that is fenced by ```` ```sql ```` and ```` ``` ````, or
    ``None``.

    Only the last 20,000 characters are searched; an empty block is none.
    """
    found = _FENCED.findall(text[-SEARCHED:])
    return (found[-1].strip() or None) if found else None


def is_ordered(sql: str) -> bool:
    """Whether a statement has ORDER BY, outside of quotes and comments, at any depth."""
    words = [
        piece.lower()
        for piece in _PIECE.findall(sql)
        if not piece.isspace() and piece[:2] not in ("--", "/*")
    ]
    return ("order", "by") in itertools.pairwise(words)


def without_distinct(sql: str) -> str:
    """The statement without the word DISTINCT, outside of quotes and comments."""
    return "".join(piece for piece in _PIECE.findall(sql) if piece.lower() != "distinct")


async def execution_match(
    context: ToolContext,
    given: str,
    gold: str,
    databases: Sequence[Path],
    *,
    seconds: float = 10.0,
    ignore_distinct: bool = False,
) -> Verdict:
    """Run two statements on SQLite databases in an empty sandbox, and compare their rows.

    Args:
        context: the episode's; ``Env.context``.
        given: the model's statement; untrusted.
        gold: the wanted one.
        databases: files, 16 at most, each of at most 256 MiB. All have to give the same rows.
        seconds: for the gold statement on each database, and for the given one on all of them together.
            Longer is ``slow``, and more than 32 MiB is ``huge``; neither is right. After the first row too
            many the given statement is stopped.
        ignore_distinct: leave the word DISTINCT out of both, as the suite does unless told
            ``--keep_distinct``.

    Raises:
        InfrastructureError: a database is missing or broken, or the gold statement does not end in time.
        DataError: the gold statement fails, or its answer is too large to be compared.
        SandboxUnavailable: this machine or run offers no isolation.
    """
    if len(given) > MOST_SQL:
        return Verdict(outcome="failed", detail=f"longer than {MOST_SQL} characters")
    suite = await context.blocking.run(_read_suite, list(databases))
    nonce = secrets.token_hex(16)
    request = {
        "paths": list(suite.files),
        "gold": without_distinct(gold) if ignore_distinct else gold,
        "given": without_distinct(given) if ignore_distinct else given,
        "ordered": is_ordered(gold),
        "most_bytes": MOST_DATABASE_BYTES,
        "seconds": seconds,
        "nonce": nonce,
    }
    limit = (seconds + MARGIN_SECONDS) * (len(suite.files) + 1) + LOADING_SECONDS
    result = await context.run(
        program("match"),
        stdin=json.dumps(request).encode(),
        files=suite.files,
        wall_seconds=limit,
        cpu_seconds=limit,
        memory_mb=MEMORY_MB + suite.room_mb,
        disk_mb=suite.room_mb,
        preload=("sqlite3", "json", "urllib.parse"),
    )
    try:
        reply = read(result, nonce, _Reply, limit)
    except (Interrupted, Unanswered) as problem:
        if str(result.status) != "session_lost" and result.stdout.rstrip().endswith("given"):
            outcome: Literal["slow", "huge"] = "huge" if str(result.status) == "oom" else "slow"
            return Verdict(outcome=outcome, detail=str(problem)[:500])  # its last note says what was running
        raise InfrastructureError(
            f"Judging SQL failed before the model's statement was run. {problem}"
        ) from None
    if reply.outcome.startswith("gold"):
        _blame(reply, gold)
    return Verdict.model_validate(reply.model_dump())


def _blame(reply: _Reply, gold: str) -> NoReturn:
    """Raise what the failure of the wanted statement means."""
    what = f"The gold SQL {gold!r} cannot be compared with: {reply.detail}"
    if reply.outcome == "gold dead":
        raise InfrastructureError(f"A database is broken. {what}.")
    if reply.outcome == "gold slow":
        raise InfrastructureError(f"{what}. Give it more seconds, or leave the task out.")
    raise DataError(f"{what}. Mend the task, or leave it out.")


def _read_suite(databases: Sequence[Path]) -> _Suite:
    if not 1 <= len(databases) <= MOST_DATABASES:
        raise DataError(f"A statement is judged on 1 to {MOST_DATABASES} databases, not {len(databases)}.")
    files = {}
    for number, path in enumerate(databases):
        try:
            files[f"{number}.sqlite"] = path.read_bytes()
        except OSError as problem:
            raise InfrastructureError(f"The database {str(path)!r} cannot be read: {problem}.") from None
        if len(files[f"{number}.sqlite"]) > MOST_DATABASE_BYTES:
            raise DataError(f"The database {str(path)!r} has more than {MOST_DATABASE_BYTES >> 20} MiB.")
    return _Suite(files)
