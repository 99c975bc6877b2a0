"""Judge every recorded mutant of swe: unmended, with an edited test, and with the canonical fix.

    python -m benchmarks.judge_mutants

The first two have to earn 0 and the last 1. Prints each that does not, and the counts.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import time
from typing import Any

from agentrl import Task, ToolContext
from agentrl.envs.swe.mutants import Mutants
from agentrl.rewards.tests import Changes, judge
from agentrl.sandbox import Limits, Sandbox, open_sandbox

SECONDS = 20.0
MOST = 1 << 20


def changes_of(source: Mutants, task: Task) -> dict[str, Changes]:
    """What is judged of a task: the bug with a comment, with its tests emptied too, and the fix."""
    repair = source.repair(task)
    [path] = repair.suite.gold
    touched = {path: repair.base[path] + b"\n# looked at\n"}
    tests = {name.partition("::")[0] for name in repair.suite.fail_to_pass}
    return {
        "mutant": touched,
        "edited test": {**touched, **dict.fromkeys(tests, b"def test_nothing():\n    pass\n")},
        "canonical fix": repair.suite.gold,
    }


async def judged(sandbox: Sandbox, source: Mutants, tasks: list[Task], at_once: int) -> list[str]:
    """What earned something else than it has to, with progress."""
    places, wrong = asyncio.Semaphore(at_once), list[str]()
    counts: collections.Counter[tuple[str, str]] = collections.Counter()

    async def run(code: str, options: Any, **how: Any) -> Any:
        limits = dict(options)
        preload = limits.pop("preload", ())
        return await sandbox.run(code, limits=Limits(**limits), preload=preload, **how)

    async def one(task: Task) -> None:
        async with places:
            repair = source.repair(task)
            for kind, changes in changes_of(source, task).items():
                verdict = await judge(
                    ToolContext(run_once=run),
                    repair.base,
                    changes,
                    repair.suite,
                    seconds=SECONDS,
                    hide=source.hidden,
                )
                counts[kind, verdict.level] += 1
                if (verdict.level == "passing") != (kind == "canonical fix"):
                    wrong.append(f"{task.metadata}: {kind} is {verdict.level}. {verdict.detail}")
        done = sum(counts.values()) // 3
        print(f"\r{done} of {len(tasks)} mutants", end="", flush=True)

    await asyncio.gather(*map(one, tasks))
    print("".join(f"\n{kind}: {count} {level}" for (kind, level), count in sorted(counts.items())))
    return wrong


async def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=MOST, help="mutants of each split")
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    source = Mutants(None, options.most, options.most, 0)
    tasks = [task for split in ("train", "test") for task in source.tasks(split)]
    began = time.monotonic()
    async with open_sandbox() as sandbox:
        wrong = await judged(sandbox, source, tasks, options.at_once)
    print(*wrong, sep="\n")
    print(f"{len(tasks)} mutants in {time.monotonic() - began:.0f} s, {len(wrong)} verdicts are wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    asyncio.run(main())
