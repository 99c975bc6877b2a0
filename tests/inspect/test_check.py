"""The check names what is wrong with an environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentrl.errors import NotFound
from agentrl.inspect import CheckReport, Verdict, check

HEAD = """
import os, random, time
from agentrl import Env, Task, ToolError, call, reward, say, tool

class Good(Env):
    success = "right"
    def tasks(self, split):
        for n in range(split == "test", 24, 2):
            yield Task(f"Double {n}?", answer=2 * n, metadata={"n": [n]})
    @tool
    def double(self, n: int) -> int:
        '''Double a number.

        Args:
            n: the number.
        '''
        return 2 * n
    @reward
    def right(self, episode):
        return float(episode.final_text == str(episode.task.answer))
    def expert(self, task, rng):
        [found] = yield call("double", n=int(task.prompt.split()[1].strip("?")))
        yield say(found)
"""

OTHER = "class Other(Good):\n"
TASKS = "def tasks(self, split):\n    "
RIGHT = "@reward\ndef right(self, episode):\n    "
EXPERT = "def expert(self, task, rng):\n    "


async def checked(folder: Path, body: str = "", tasks: int = 6) -> CheckReport:
    file = folder / "mine.py"
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    file.write_text(HEAD + (OTHER + indented if body else ""))
    return await check(f"{file}:{'Other' if body else 'Good'}", tasks=tasks)


def worst(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(f.name, f.verdict, f.detail) for f in report.findings if f.verdict is not Verdict.passed]


async def test_a_good_environment_passes_with_its_scores(tmp_path: Path) -> None:
    report = await checked(tmp_path, tasks=12)
    assert report.passed and not worst(report)
    assert {player: found.success for player, found in report.scores.items()} == {
        "expert": 1.0,
        "nothing": 0.0,
        "random": 0.0,
    }
    expert = report.scores["expert"]
    assert expert.episodes == 12 and expert.low > 0.7 and expert.calls == 1.0


@pytest.mark.parametrize(
    ("body", "name", "words"),
    [
        ("@tool\ndef bad(self, x) -> str:\n    return ''", "tools", "Parameter 'x' of tool"),
        ("tools = ('no_such_tool',)", "tools", "no tool 'no_such_tool'"),
        ("tools = (Good.double,)", "tools", "several tools are called double"),
        (RIGHT.replace("@reward", "@reward(weight=0)") + "return 1.0", "rewards", "no reward has a weight"),
        ("success = 'correct'", "rewards", "'correct' names none of right"),
        ("rewards = (reward(name='right')(len),)", "rewards", "Two rewards are called 'right'"),
        (TASKS + "return []", "tasks", "train has no tasks"),
        (TASKS + "return [Task('Go')]", "tasks", "1 tasks stand in both splits"),
        (TASKS + "return [Task(split, id='x')]", "tasks", "1 ids stand in both splits"),
        (TASKS + "return [{'prompt': split}]", "tasks", "train yields dict, not Task"),
        (TASKS + "return [Task('')]", "tasks", "train task 0 has no prompt"),
        (TASKS + "return [Task(split, answer={1})]", "tasks", "come back from JSON"),
        (TASKS + "return [Task(split, answer=(1, 2))]", "tasks", "come back from JSON"),
        (TASKS + "return [Task(split, answer=float('nan'))]", "tasks", "come back from JSON"),
        (TASKS + "return [Task(split, metadata={1: 2})]", "tasks", "come back from JSON"),
        (TASKS + "raise KeyError(split)", "tasks", "raised KeyError"),
        (
            TASKS + "yield Task(split + str(random.random()))",
            "repeatable tasks",
            "other tasks when called again",
        ),
        (
            "def __init__(self):\n    self.n = os.urandom(4).hex()\n" + TASKS + "yield Task(split + self.n)",
            "repeatable tasks",
            "two instances give different tasks",
        ),
        (
            TASKS + "yield from [Task(split + word) for word in set('abcdefgh')]",
            "repeatable tasks",
            "another process gives different tasks",
        ),
        (
            RIGHT + "return 1 / len(episode.final_text)",
            "nothing plays",
            "ZeroDivisionError",
        ),
        (RIGHT + "return float('nan')", "expert plays", "finite number"),
        (RIGHT + "return 1e6", "reward values", "from 1e\\+06 to 1e\\+06"),
        (RIGHT + "return 1", "scores", "doing nothing solves 100%.*no more than"),
        (EXPERT + "yield say('5')", "scores", "the expert solves 0%, no more than doing"),
        (EXPERT + "yield call('double', n=1)", "expert plays", "ended while task"),
        (EXPERT + "yield int('x')", "expert plays", "expert\\(\\) raised ValueError"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(tmp_path: Path, body: str, name: str, words: str) -> None:
    report = await checked(tmp_path, body)
    assert not report.passed
    assert report.failed[0].name == name  # what else fails may follow from it
    assert re.search(words, report.failed[0].detail), report.failed[0].detail


@pytest.mark.parametrize(
    ("body", "name", "words"),
    [
        ("@tool\ndef more(self, x: int) -> str:\n    return ''", "tools", "more has no docstring"),
        (
            "@tool\ndef more(self, x: int) -> str:\n    'More.'",
            "tools",
            "more: the docstring's Args say nothing of x",
        ),
        ("success = None\n@reward\ndef form(self, episode):\n    return 0.0", "rewards", "name the one"),
        (
            TASKS + "return [Task(f'Double 3? {split}', answer=6)] * 9",
            "tasks",
            "8 tasks twice",
        ),
        (
            "@reward(weight=0)\ndef when(self, episode):\n    return time.time()",
            "repeatable episodes",
            "replayed",
        ),
        ("expert = Env.expert", "scores", "no expert"),
    ],
)
async def test_what_may_be_meant_so_is_a_warning(tmp_path: Path, body: str, name: str, words: str) -> None:
    report = await checked(tmp_path, body)
    assert report.passed
    found = [(f.name, f.verdict) for f in report.findings if words in f.detail]
    assert found == [(name, Verdict.warned)], worst(report)


async def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await check(str(tmp_path / "nothing.py"))
