"""Make the record of mutants: try each one in the sandbox and keep those that the package's tests catch.

    python -m benchmarks.make_mutants toolz=120 simplejson=60

Packages are the installed ones. The same packages, numbers and seed give the same record, on a machine fast
enough that no test takes too long.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import random
from pathlib import PurePosixPath
from typing import Any

from agentrl import ConfigError
from agentrl.envs.swe.mutants import RECORD, digest, installed_files
from agentrl.envs.swe.mutate import Mutation, mutations
from agentrl.rewards.tests import Suite, is_source
from agentrl.sandbox import Limits, Sandbox, open_sandbox
from agentrl.tools.repo.archive import Tree, tar
from agentrl.tools.repo.testing import PASSING, PLAIN, Report, read, request

SECONDS = 60.0
LIMITS = Limits(wall_seconds=90, cpu_seconds=20, output_bytes=8 << 20, disk_mb=128)
AT_ONCE = 2
MOST_FAILS = 40
"""A mutant that fails more tests is too easy to see."""


async def run(sandbox: Sandbox, files: Tree) -> Report:
    """All of a package's tests."""
    tests = sorted(path for path in files if PurePosixPath(path).name.startswith("test_"))
    program, sent = request(tests, SECONDS, archive=tar(files), options=PLAIN)
    return read(await sandbox.run(program, stdin=sent, limits=LIMITS, preload=("pytest",)))


def passing(report: Report) -> set[str]:
    """The tests that passed."""
    return {name for name, outcome in report.outcomes.items() if outcome in PASSING}


async def record_of(sandbox: Sandbox, package: str, count: int, rng: random.Random) -> dict[str, Any]:
    """A package's part of the record."""
    files = installed_files(package)
    if not files:
        raise ConfigError(f"{package} is not installed.")
    tests = sorted(passing(await run(sandbox, files)) & passing(await run(sandbox, files)))
    candidates = [
        (path, mutation)
        for path, data in sorted(files.items())
        if path.endswith(".py") and is_source(path, Suite(()))
        for mutation in mutations(data.decode())
    ]
    rng.shuffle(candidates)
    kept: list[dict[str, Any]] = []
    for first in range(0, len(candidates), AT_ONCE):
        batch = candidates[first : first + AT_ONCE]
        tried = await asyncio.gather(*(attempt(sandbox, files, tests, *each) for each in batch))
        kept += [mutant for mutant in tried if mutant]
        if len(kept) >= count:
            break
    kept = sorted(kept[:count], key=lambda mutant: (mutant["file"], mutant["start"], mutant["new"]))
    version = importlib.metadata.version(package)
    return {"version": version, "digest": digest(files), "tests": tests, "mutants": kept}


async def attempt(
    sandbox: Sandbox, files: Tree, tests: list[str], path: str, mutation: Mutation
) -> dict[str, Any] | None:
    """What a mutant fails, if it is a task."""
    broken = mutation.applied(files[path].decode()).encode()
    report = await run(sandbox, {**files, path: broken})
    failed = [index for index, name in enumerate(tests) if report.outcomes.get(name) == "failed"]
    missing = [index for index, name in enumerate(tests) if name not in report.outcomes]
    if report.ended != "finished" or not failed or len(failed) + len(missing) > MOST_FAILS:
        return None
    place = {name: getattr(mutation, name) for name in ("kind", "function", "start", "end", "new")}
    return {"file": path, **place, "fails": sorted(failed + missing)}


async def make(wanted: dict[str, int], seed: int) -> dict[str, Any]:
    """The record."""
    async with open_sandbox() as sandbox:
        return {
            name: await record_of(sandbox, name, count, random.Random(seed)) for name, count in wanted.items()
        }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", metavar="PACKAGE=NUMBER")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wanted = {name: int(count) for name, _, count in (each.partition("=") for each in options.packages)}
    RECORD.write_text(json.dumps(asyncio.run(make(wanted, options.seed)), indent=0) + "\n")


if __name__ == "__main__":
    main()
