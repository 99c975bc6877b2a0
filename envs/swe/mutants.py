"""Bugs by mutation in real packages, which are installed and bring their own tests.

Which mutants there are, and which tests each fails, stands in ``mutants.json``: ``benchmarks.make_mutants``
tried them. A mutant that no test catches is not there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentrl import ConfigError, Task
from agentrl.envs.swe.mutate import Mutation
from agentrl.envs.swe.repairs import Repair
from agentrl.rewards.tests import Suite
from agentrl.tools.repo.archive import Tree

RECORD = Path(__file__).with_name("mutants.json")
TEST_SHARE = 5
"""One function in so many is for ``test``; of a function all mutants are in one split."""
_SHOWN = 3


class Mutants:
    """Tasks of the recorded mutants.

    Args:
        packages: which ones; by default all that are recorded.
        size: at most so many tasks of ``train``, drawn by ``seed``; ``test`` has ``test_size`` at most.

    Raises:
        ConfigError: a package is not recorded, or not installed in the recorded version.
    """

    def __init__(self, packages: Sequence[str] | None, size: int, test_size: int, seed: int) -> None:
        known = record()
        self.packages = list(packages) if packages is not None else sorted(known)
        for package in self.packages:
            if package not in known:
                raise ConfigError(
                    f"There are no mutants of {package!r}; there are of {', '.join(sorted(known))}."
                )
            package_files(package)
        if not self.packages:
            raise ConfigError("packages= is empty; leave it out for all of them.")
        self.hidden = (*self.packages, "agentrl")  # the latter for the record of what was mutated
        self._sizes, self._seed = {"train": size, "test": test_size}, seed

    def tasks(self, split: str) -> list[Task]:
        """The same on every call; no function has mutants in both splits."""
        found = []
        for package in self.packages:
            known = record()[package]
            for number, mutant in enumerate(known["mutants"]):
                if in_test(mutant) == (split == "test"):
                    found.append(_task(package, known, number, mutant))
        order = sorted(found, key=lambda task: hashlib.sha256(f"{self._seed} {task.id}".encode()).digest())
        return order[: self._sizes[split]]

    def repair(self, task: Task) -> Repair:
        """The package with the bug, and its tests."""
        package, number = task.metadata["package"], task.metadata["mutant"]
        known = record()[package]
        mutant = known["mutants"][number]
        files = package_files(package)
        source = files[mutant["file"]]
        broken = mutation_of(mutant).applied(source.decode()).encode()
        fails = {known["tests"][index] for index in mutant["fails"]}
        suite = Suite(
            fail_to_pass=sorted(fails),
            pass_to_pass=[name for name in known["tests"] if name not in fails],
            gold={mutant["file"]: source},
        )
        return Repair({**files, mutant["file"]: broken}, suite)


def _task(package: str, known: dict[str, Any], number: int, mutant: dict[str, Any]) -> Task:
    fails = [known["tests"][index] for index in mutant["fails"]]
    more = f"\nand {len(fails) - _SHOWN} more" if len(fails) > _SHOWN else ""
    prompt = f"A change broke {package}. These tests fail now:\n" + "\n".join(fails[:_SHOWN]) + more
    return Task(f"{prompt}\nFind the bug and fix it.", metadata={"package": package, "mutant": number})


def mutation_of(mutant: dict[str, Any]) -> Mutation:
    """A record's mutation."""
    return Mutation(mutant["kind"], mutant["function"], mutant["start"], mutant["end"], mutant["new"])


def in_test(mutant: dict[str, Any]) -> bool:
    """Whether a mutant's function is kept for ``test``."""
    digest = hashlib.sha256(f"{mutant['file']} {mutant['function']}".encode()).digest()
    return digest[0] % TEST_SHARE == 0


@functools.cache
def record() -> dict[str, Any]:
    """Of each package: version, digest, names of its tests that pass, and mutants."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


@functools.cache
def package_files(package: str) -> Tree:
    """The files of the installed package, as recorded.

    Raises:
        ConfigError: it is not installed, or in another version.
    """
    known = record()[package]
    files = installed_files(package)
    if digest(files) != known["digest"]:
        what = "is not installed" if not files else "is installed in another version"
        raise ConfigError(
            f"The mutants are of {package} {known['version']}, which {what}: pip install 'agentrl[swe]'. "
            "Or difficulty=1, which needs no package."
        )
    return files


def installed_files(package: str) -> Tree:
    """Python files of a package, and small ones that its tests may read; none if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return {}
    top = Path(spec.submodule_search_locations[0])
    paths = (
        path for path in sorted(top.rglob("*")) if path.is_file() and path.suffix in (".py", ".json", ".txt")
    )
    return {f"{package}/{path.relative_to(top).as_posix()}": path.read_bytes() for path in paths}


def digest(files: Tree) -> str:
    """Of a tree."""
    content = hashlib.sha256()
    for path, data in sorted(files.items()):
        content.update(f"{path}\0{len(data)}\0".encode() + data)
    return content.hexdigest()
