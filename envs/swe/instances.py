"""Tasks in SWE-bench's form: a repository at a commit, an issue, patches, and the names of tests."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentrl import DataError, Task, read_split
from agentrl.envs.swe.repairs import Repair
from agentrl.rewards.tests import Suite
from agentrl.tools.repo.archive import Tree

COLUMNS = ("instance_id", "repo", "base_commit", "patch", "test_patch", "problem_statement",
           "FAIL_TO_PASS", "PASS_TO_PASS")  # fmt: skip
GIT_SECONDS = 120.0
_CACHED = 8
_FILES = (b"100644", b"100755", b"100664")


class Instances:
    """Rows of the data set, and repositories on this machine.

    Args:
        data, config: as :func:`agentrl.read_split` takes them.
        repositories: the folder with clones, bare or not, as ``owner__name``, ``owner/name`` or ``name``,
            each perhaps with ``.git`` at its end. A row's ``repo`` may also be a path.
        on_bad_row: ``stop`` or ``skip``.
    """

    hidden: tuple[str, ...] = ()

    def __init__(self, data: str, config: str | None, repositories: str | None, on_bad_row: Any) -> None:
        self._data, self._how = data, {"config": config, "on_error": on_bad_row}
        self._repositories = Path(repositories).expanduser() if repositories else None

    def tasks(self, split: str) -> list[Task]:
        """One for each row."""
        rows = read_split(self._data, split, columns=COLUMNS, check=self._wrong, **self._how)
        return [self._task(row) for row in rows]

    def repair(self, task: Task) -> Repair:
        """The tree at the commit. The test patch is applied for judging alone."""
        row = task.metadata
        base = at_commit(row["repository"], row["base_commit"])
        tests = applied(base, row["test_patch"], task.id)
        suite = Suite(
            fail_to_pass=row["fail_to_pass"],
            pass_to_pass=row["pass_to_pass"],
            files={path: data for path, data in tests.items() if data is not None},
            gold=applied(base, row["patch"], task.id),
        )
        return Repair(base, suite)

    def _task(self, row: dict[str, Any]) -> Task:
        metadata = {
            "repository": str(self._find(row["repo"])),
            "fail_to_pass": names(row["FAIL_TO_PASS"]),
            "pass_to_pass": names(row["PASS_TO_PASS"]),
            **{column: row[column] for column in ("base_commit", "patch", "test_patch")},
        }
        return Task(row["problem_statement"], id=row["instance_id"], metadata=metadata)

    def _wrong(self, row: dict[str, Any]) -> str | None:
        for column in COLUMNS[:-2]:
            if not isinstance(row[column], str) or (column != "test_patch" and not row[column].strip()):
                return f"{column!r} must be text"
        for column in COLUMNS[-2:]:
            if names(row[column]) is None:
                return f"{column!r} must be a list of names of tests, or one as JSON"
        if not names(row["FAIL_TO_PASS"]):
            return "'FAIL_TO_PASS' is empty, so nothing would have to be done"
        if self._find(row["repo"]) is None:
            where = (
                f"in {self._repositories}"
                if self._repositories
                else "(repositories= names a folder of clones)"
            )
            return f"there is no repository {row['repo']!r} {where}"
        return None

    def _find(self, name: str) -> Path | None:
        base, flat = self._repositories or Path(), name.replace("/", "__")
        for candidate in (flat, f"{flat}.git", name, f"{name}.git", name.rpartition("/")[2]):
            if (path := base / candidate).is_dir() and (self._repositories or path.is_absolute()):
                return path.resolve()
        return None


def names(value: object) -> list[str] | None:
    """Names of tests: a list, or one as JSON, as the data set has it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return list(value)
    return None


@functools.lru_cache(maxsize=_CACHED)
def at_commit(repository: str, commit: str) -> Tree:
    """The plain files of a commit. Links and submodules are left out, and modes are.

    Raises:
        DataError: git fails.
    """
    if commit.startswith("-"):
        raise DataError(f"{commit!r} is no commit.")
    where, about = Path(repository), f"commit {commit}"
    listed = _git(["ls-tree", "-r", "-z", "--full-tree", commit], where, about)
    blobs: dict[str, bytes] = {}
    for line in filter(None, listed.split(b"\0")):
        entry, _, name = line.partition(b"\t")
        mode, _, blob = entry.split()
        if mode in _FILES:
            blobs[name.decode(errors="replace")] = blob
    # not `git archive`, which leaves out and rewrites what .gitattributes says
    data = _git(["cat-file", "--batch"], where, about, b"".join(blob + b"\n" for blob in blobs.values()))
    files: dict[str, bytes] = {}
    start = 0
    for path in blobs:
        end = data.index(b"\n", start)
        if data.endswith(b" missing", start, end):
            raise DataError(f"{where} lacks a file of {about}, {path}: it must be a complete clone.")
        size = int(data[start:end].split()[2])
        files[path] = data[end + 1 : end + 1 + size]
        start = end + size + 2
    return files


def applied(base: Tree, patch: str, task: str) -> dict[str, bytes | None]:
    """The files that a patch changes, as it leaves them.

    Raises:
        DataError: it does not apply.
    """
    if not patch.strip():
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "patch"
        file.write_text(patch if patch.endswith("\n") else f"{patch}\n")
        tree = folder / "tree"
        tree.mkdir()
        about = f"a patch of task {task}"
        numbers = _git(["apply", "--numstat", "-z", str(file)], tree, about).decode()
        paths = [part.split("\t")[-1] for part in numbers.split("\0") if part]
        for path in {*paths, *_named(patch)}:
            if path in base:
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(base[path])
        _git(["apply", "--whitespace=nowarn", str(file)], tree, about)
        after = {
            str(found.relative_to(tree)): found.read_bytes() for found in tree.rglob("*") if found.is_file()
        }
        touched = {*paths, *_named(patch), *after}
        return {path: after.get(path) for path in touched if base.get(path) != after.get(path)}


def _named(patch: str) -> list[str]:
    """Both names of each file, for one may be renamed."""
    lines = [line for line in patch.splitlines() if line.startswith(("--- a/", "+++ b/", "rename "))]
    return [
        line.split(maxsplit=2)[-1] if line.startswith("rename") else line[6:].split("\t")[0] for line in lines
    ]


def _git(arguments: list[str], folder: Path, about: str, sent: bytes = b"") -> bytes:
    """Run git without this user's settings.

    Raises:
        DataError: it fails.
    """
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/",
                   "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CEILING_DIRECTORIES": str(folder.parent),
                   "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
                   "GIT_CONFIG_VALUE_0": "*"}  # fmt: skip
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            input=sent,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except FileNotFoundError as problem:
        raise DataError("git is not installed, which reading repositories needs.") from problem
    except subprocess.TimeoutExpired as problem:
        raise DataError(f"git did not end in {GIT_SECONDS:.0f} s on {about} in {folder}.") from problem
    if done.returncode:
        raise DataError(
            f"git cannot read {about} in {folder}: {done.stderr.decode(errors='replace').strip()[-500:]}"
        )
    return done.stdout
