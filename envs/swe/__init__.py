"""Software engineering: a git repository with a bug, tools to find and mend it, and tests to judge by.

The model is paid for a change that makes the failing tests pass and keeps the others passing, in a fresh
sandbox.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from agentrl import (
    ConfigError,
    DataError,
    Env,
    Expert,
    Reward,
    SessionLost,
    Splits,
    Task,
    Trajectory,
    call,
    read_split,
    say,
)
from agentrl.envs.swe.humanevalfix import HumanEvalFix
from agentrl.envs.swe.instances import Instances
from agentrl.envs.swe.levels import gated
from agentrl.envs.swe.mutants import Mutants
from agentrl.envs.swe.repairs import Source, described, fixing_calls
from agentrl.envs.swe.tiny import FILE, Tiny, mistaken
from agentrl.rewards.tests import Changes, Verdict, carried_over, judge
from agentrl.tools.bash import Bash
from agentrl.tools.files import Create, Edit, Find, View
from agentrl.tools.repo.archive import Tree, repository
from agentrl.tools.repo.workspace import Workspace
from agentrl.tools.tests import Tests

TEST_SIZE = 256
MOST_CHANGED_BYTES, MOST_CHANGED_FILES = 256 << 10, 100
"""Of a change that is judged."""
_DIFF_CHARACTERS = 20_000


class Swe(Env):
    """Bugs in git repositories.

    Args:
        difficulty: 1 (a function of one line, with ``view`` and ``edit`` alone) or 2 (mutations in real
            packages, with all tools).
        packages: for difficulty 2, which one or ones; by default all that are recorded.
        size: built-in tasks of the train split; the test split has a quarter of it, at most 256.
        seed: of the built-in tasks.
        data: instead of them, rows in the form of HumanEvalFix or of SWE-bench: a folder, a file or a hub id.
        config: the hub's name of a part of ``data``, such as HumanEvalFix's ``python``.
        repositories: for SWE-bench's form, the folder with clones of the repositories.
        on_bad_row: what to do about a malformed row of ``data``: ``stop`` or ``skip``.
        seconds: for one run of the tests, and for a command.
        memory_mb, disk_mb: of the episode's session, in MiB.
        guard: refuse changes that newly use what only tricks on the test runner need.
        reward: ``resolved`` (1 or 0), or ``gated``: levels and steps as in G-RA.
        levels: of ``gated``: not submitted, nothing but tests changed, tests failing, tests passing.
        step: of ``gated``: paid for each turn whose calls succeed, and taken for one with a call that fails.
        gate_at, gate_strict: of ``gated``: steps count at this level or above, or if strict above it alone.
        expert_rate: at difficulty 1, how many of the expert's episodes look at the file before they edit it.

    Raises:
        ConfigError: an option does not fit, or the packages are not installed.
    """

    name = "swe"
    success = "resolved"
    prompt = (
        "The current folder is a git repository with a bug. Find it and fix it in the source; tests are run "
        "elsewhere, so changes to them do not count. When it is fixed, say so without a call."
    )
    small_prompt = "Fix the bug, then say done."

    def __init__(
        self,
        difficulty: int = 2,
        packages: str | Sequence[str] | None = None,
        size: int = 2000,
        seed: int = 0,
        data: str | None = None,
        config: str | None = None,
        repositories: str | None = None,
        on_bad_row: Literal["stop", "skip"] = "stop",
        seconds: float = 20.0,
        memory_mb: int = 512,
        disk_mb: int = 64,
        guard: bool = True,
        reward: Literal["resolved", "gated"] = "resolved",
        levels: Sequence[float] = (-1.0, -0.5, 0.0, 1.0),
        step: float = 0.1,
        gate_at: float = 0.0,
        gate_strict: bool = False,
        expert_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if difficulty not in (1, 2):
            raise ConfigError(f"difficulty={difficulty!r} must be 1 or 2.")
        if size < 8 or not 0 <= expert_rate <= 1:
            raise ConfigError(f"size={size} must be at least 8, and expert_rate={expert_rate} from 0 to 1.")
        if reward not in ("resolved", "gated"):
            raise ConfigError(f"reward={reward!r} must be 'resolved' or 'gated'.")
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        self.small = difficulty == 1 and not data
        packages = [packages] if isinstance(packages, str) else packages
        self.source = _source(difficulty, packages, size, seed, data, config, repositories, on_bad_row)
        self.expert_rate, self.guard, self.test_seconds = expert_rate, guard, seconds
        self.workspace = Workspace(
            seconds=seconds + 10.0, memory_mb=memory_mb, disk_mb=disk_mb, inodes=16_384, preload=("pytest",),
            hide=self.source.hidden,
        )  # fmt: skip
        if self.small:
            self.prompt = self.small_prompt
        self.tools = self._tools()
        self.rewards = [
            Reward(Swe.judged, "resolved", float(reward == "resolved")),
            *(gated(levels, step, gate_at, gate_strict) if reward == "gated" else ()),
        ]
        self._splits = Splits(lambda split, _: self.source.tasks(split), key=lambda task: task.id)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made or read once; none stands in both.

        Raises:
            ConfigError: the split is unknown.
            DataError: ``data`` cannot be read.
        """
        return self._splits(split)

    async def reset(self, task: Task) -> None:
        """Put the repository into the episode's session, in one call."""
        archive = await asyncio.to_thread(lambda: repository(self.source.repair(task).base))
        if len(archive) > self.workspace.disk_mb << 20:
            raise DataError(
                f"The repository of task {task.id} has {len(archive) >> 20} MiB, more than disk_mb="
                f"{self.workspace.disk_mb}. Raise that, or leave the task out."
            )
        session = await self.workspace.session(self.context)
        result = await session.exec(["tar", "-xf", "-"], stdin=archive)
        if result.status == "error":
            raise DataError(
                f"The repository of task {task.id} could not be unpacked: {result.stderr.strip()[-300:]}. "
                "A larger disk_mb may help."
            )
        if result.status != "ok":
            raise SessionLost(f"The repository of task {task.id} could not be unpacked: {result.detail}.")

    async def changes(self, base: Tree) -> tuple[Changes, str]:
        """What became of the repository in the episode's session, and why that could not be told."""
        before = {path: hashlib.sha256(data).hexdigest() for path, data in base.items()}
        limits = {"most_bytes": MOST_CHANGED_BYTES, "most_files": MOST_CHANGED_FILES}
        asked = {"operation": "changes", "before": before, **limits}
        reply = await self.workspace.ask(self.context, "guest_files.py", asked)
        return read_changes(reply.answer.get("changes")), reply.problem or str(reply.answer.get("text", ""))

    async def judged(self, episode: Trajectory) -> float:
        """1.0 if the change makes the failing tests pass and keeps the others passing, else 0.0."""
        repair = await asyncio.to_thread(self.source.repair, episode.task)
        if episode.status != "finished":
            verdict = Verdict(level="unsubmitted", detail=f"The episode ended by {episode.reason}.")
        else:
            changes, problem = await self.changes(repair.base)
            verdict = await judge(
                self.context,
                repair.base,
                changes,
                repair.suite,
                seconds=self.test_seconds,
                memory_mb=self.workspace.memory_mb,
                hide=self.workspace.hide,
                guard=self.guard,
            )
            if problem:
                verdict = verdict.model_copy(update={"detail": problem})
            kept = carried_over(repair.base, changes, repair.suite)
            episode.metadata["patch"] = described(kept, repair.base, _DIFF_CHARACTERS)
        episode.metadata["verdict"] = verdict.model_dump()
        return float(verdict.level == "passing")

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Looks, makes the canonical fix, and at difficulty 2 runs the tests that judge.

        At difficulty 1 it looks in ``expert_rate`` of the episodes; in the others it edits at a guess.
        """
        if self.small:
            return _small_expert(task, rng, looks=rng.random() < self.expert_rate)
        return self._expert(task)

    def _expert(self, task: Task) -> Expert:
        repair = self.source.repair(task)
        for path in repair.suite.gold:
            yield call("view", path=path)
        yield from fixing_calls(repair.base, repair.suite.gold)
        visible = [name for name in repair.suite.fail_to_pass if name.partition("::")[0] in repair.base]
        if visible:
            yield call("tests", path=visible[0])
        yield say("The bug is fixed.")

    def _tools(self) -> list[Any]:
        tools: list[Any] = [View(self.workspace), Edit(self.workspace)]
        if not self.small:
            tools += [
                Find(self.workspace, lines=50),
                Create(self.workspace),
                Bash(self.workspace),
                Tests(self.workspace, seconds=self.test_seconds),
            ]
        return tools


def read_changes(told: object) -> dict[str, bytes | None]:
    """Changes as the session told them, less what is not well formed: the session is the model's."""
    found: dict[str, bytes | None] = {}
    for path, data in told.items() if isinstance(told, dict) else ():
        if data is None:
            found[str(path)] = None
        elif isinstance(data, str):
            try:
                found[str(path)] = base64.b64decode(data, validate=True)
            except binascii.Error:
                continue
    return found


def _source(
    difficulty: int,
    packages: Sequence[str] | None,
    size: int,
    seed: int,
    data: str | None,
    config: str | None,
    repositories: str | None,
    on_bad_row: Literal["stop", "skip"],
) -> Source:
    if packages is not None and (data or difficulty == 1):
        raise ConfigError("packages= is for difficulty=2, without data=.")
    if (repositories or config) and not data:
        raise ConfigError(
            f"{'repositories' if repositories else 'config'}= is for data=, which is not given."
        )
    if not data:
        sizes = size, min(TEST_SIZE, size // 4)
        return Tiny(*sizes, seed) if difficulty == 1 else Mutants(packages, *sizes, seed)
    splits = ("test", "train") if Path(data).expanduser().is_file() else ("test",)
    rows = (row for split in splits for row in read_split(data, split, on_error=on_bad_row, config=config))
    first = next(rows, {})  # a file of few rows has none for the test split
    if "buggy_solution" in first:
        return HumanEvalFix(data, config, on_bad_row)
    if "base_commit" in first:
        return Instances(data, config, repositories, on_bad_row)
    raise DataError(
        f"The rows of {data!r} are neither HumanEvalFix's, which have 'buggy_solution', nor SWE-bench's, "
        f"which have 'base_commit'; the first has {', '.join(map(repr, first)) or 'nothing'}."
    )


def _small_expert(task: Task, rng: random.Random, *, looks: bool) -> Expert:
    right, wrong = task.metadata["right"], task.metadata["wrong"]
    if looks:
        yield call("view", path=FILE)
    else:
        right, wrong = mistaken(wrong, rng), mistaken(right, rng)
    yield call("edit", path=FILE, old=wrong, new=right)
    yield say("Done.")
