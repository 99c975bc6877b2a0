"""Many repository episodes at once, beside git and pytest called directly.

    python -m benchmarks.repositories [--episodes 64] [--json]

Ours: episodes of the environment `swe` on mutants of toolz, all at once: a repository for each, the
expert's calls (view, edit, one test), and all tests of the package in a fresh sandbox. Directly: `git clone
--local`, the mutation and its mending, pytest for that test, a second clone and pytest for all tests, as many
at once as there are processors; nothing is confined. Memory is what the processes of all episodes hold
(proportional set size), at its highest, for each episode that is held at once: of ours that is all of them,
and their files are added, which the sandbox keeps in memory; the clones are on the disk. Making a
repository is timed alone: an archive unpacked in a session, a fork of a prepared session, and a local clone.
Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentrl import Task
from agentrl.config import Rollout
from agentrl.envs.swe import Swe
from agentrl.envs.swe.repairs import Repair
from agentrl.inspect.plain import plain_chat
from agentrl.rewards.tests import merged
from agentrl.rollout import EpisodeRunner, Job, ScriptedPolicy, run_episodes
from agentrl.sandbox import Limits, Sandbox, open_sandbox
from agentrl.tools.repo.archive import repository
from benchmarks.tables import held_mb

WIDE = Rollout(
    max_turns=8, max_turn_tokens=65_536, max_trajectory_tokens=524_288, max_prompt_tokens=65_536,
    max_observation_tokens=65_536, tool_seconds=600, episode_seconds=3600,
)  # fmt: skip
SAMPLE_SECONDS = 1.0


@contextlib.contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Yields what tells the most MiB that the processes below this one held meanwhile, above those before."""
    before, highest, over = held_mb(with_this=False), 0.0, threading.Event()

    def sample() -> None:
        nonlocal highest
        while not over.wait(SAMPLE_SECONDS):
            highest = max(highest, held_mb(with_this=False) - before)

    sampling = threading.Thread(target=sample, daemon=True)
    sampling.start()
    try:
        yield lambda: highest
    finally:
        over.set()
        sampling.join()


async def ours(env: Swe, tasks: list[Task], sandbox: Sandbox) -> dict[str, float]:
    """All episodes at once."""
    chat = plain_chat()
    runner = EpisodeRunner(env, chat, ScriptedPolicy(chat), WIDE, sandbox=sandbox)
    jobs = [Job(task, f"e{number}", seed=number) for number, task in enumerate(tasks)]
    rewards: list[float] = []
    await sandbox.run("1", preload=("pytest",))
    with peak() as highest:
        began = time.perf_counter()
        await run_episodes(
            runner,
            jobs,
            concurrency=len(jobs),
            on_result=lambda job, episode: rewards.append(episode.reward or 0.0),
        )
        seconds = time.perf_counter() - began
    files = len(repository(env.source.repair(tasks[0]).base)) / 1024**2
    return {
        "episodes": len(jobs), "ours_per_second": len(jobs) / seconds, "solved": statistics.mean(rewards),
        "mib_per_episode": highest() / len(jobs) + files,
    }  # fmt: skip


def directly(origin: Path, folder: Path, repair: Repair) -> bool:
    """One episode without a sandbox."""
    [(path, fixed)] = repair.suite.gold.items()
    assert fixed is not None
    names = repair.suite.fail_to_pass[:1], [*repair.suite.fail_to_pass, *repair.suite.pass_to_pass]
    codes = []
    for number, tests in enumerate(names):
        clone = folder / str(number)
        subprocess.run(["git", "clone", "-q", "--local", str(origin), str(clone)], check=True)
        (clone / path).write_bytes(repair.base[path])
        (clone / path).write_bytes(fixed)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--assert=plain", *tests]
        codes.append(subprocess.run(command, cwd=clone, capture_output=True, check=False).returncode)
    shutil.rmtree(folder)
    return codes == [0, 0]


def all_directly(origin: Path, repairs: list[Repair]) -> dict[str, float]:
    """All episodes, some at once."""
    at_once = min(os.cpu_count() or 1, len(repairs))
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool, peak() as highest:
        folders = [origin.with_name(f"e{number}") for number in range(len(repairs))]
        done = list(pool.map(directly, [origin] * len(repairs), folders, repairs))
    if not all(done):
        raise SystemExit(f"{done.count(False)} episodes failed when git and pytest were called directly.")
    return {
        "direct_per_second": len(repairs) / (time.perf_counter() - began),
        "direct_mib_per_episode": highest() / at_once,
    }


def make_origin(folder: Path, repair: Repair) -> Path:
    """A repository to clone, without a bug."""
    origin = folder / "origin"
    for path, data in merged(repair.base, repair.suite.gold).items():
        (origin / path).parent.mkdir(parents=True, exist_ok=True)
        (origin / path).write_bytes(data)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=origin, check=True
        )
    return origin


async def making(sandbox: Sandbox, origin: Path, repair: Repair, rounds: int) -> dict[str, float]:
    """Median milliseconds of three ways to a repository, in turn."""
    clone = origin.with_name("clone")
    command = ["git", "clone", "-q", "--local", str(origin), str(clone)]
    times: dict[str, list[float]] = {"pack_ms": [], "unpack_ms": [], "fork_ms": [], "clone_ms": []}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        times[name].append(1000 * (time.perf_counter() - began))

    async with await sandbox.create(Limits()) as session:
        for _ in range(rounds):
            with timed("pack_ms"):
                archive = repository(repair.base)
            with timed("unpack_ms"):
                await session.exec(["tar", "-xf", "-"], stdin=archive)
            with timed("fork_ms"):
                fork = await session.fork()
            await fork.close()
            with timed("clone_ms"):
                await asyncio.to_thread(subprocess.run, command, check=True)
            shutil.rmtree(clone)
    return {name: statistics.median(each) for name, each in times.items()}


async def measure(episodes: int, rounds: int) -> dict[str, float]:
    """Everything."""
    env = Swe(packages=["toolz"])
    known = env.tasks("train")
    tasks = [known[number % len(known)] for number in range(episodes)]
    repairs = [env.source.repair(task) for task in tasks]
    with tempfile.TemporaryDirectory() as name:
        origin = make_origin(Path(name), repairs[0])
        async with open_sandbox() as sandbox:
            found = await making(sandbox, origin, repairs[0], rounds)
            found |= await ours(env, tasks, sandbox)
        found |= await asyncio.to_thread(all_directly, origin, repairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30, help="of making a repository")
    parser.add_argument("--json", action="store_true", help="end with the figures as a JSON object")
    options = parser.parse_args()
    found = asyncio.run(measure(options.episodes, options.rounds))
    print(
        f"a repository: packed in {found['pack_ms']:.1f} ms and unpacked in {found['unpack_ms']:.1f} ms, "
        f"forked in {found['fork_ms']:.1f} ms, cloned by git in {found['clone_ms']:.1f} ms"
    )
    print(
        f"{found['episodes']:.0f} episodes at once: {found['ours_per_second']:.2f} per second, "
        f"{found['mib_per_episode']:.1f} MiB each, {found['solved']:.0%} solved"
    )
    print(
        f"git and pytest directly: {found['direct_per_second']:.2f} per second, "
        f"{found['direct_mib_per_episode']:.1f} MiB each"
    )
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
