"""The swe environment: its tasks, its data, and episodes of its expert through the real loop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, DataError, Snapshot, Task, Trajectory, tool
from agentrl.cli.evaluate import EpisodeLog
from agentrl.config import load_config
from agentrl.envs.swe import Swe, mutants, read_changes, tiny
from agentrl.envs.swe.mutate import mutations
from agentrl.envs.swe.repairs import edit_of
from agentrl.evaluate.result import EpisodeResult
from agentrl.registry import find_env, source_folder
from agentrl.rollout import ScriptedPolicy
from agentrl.sandbox import NamespaceSandbox
from agentrl.tools.bash import Bash

SHARED = Path(os.environ.get("AGENTRL_SHARED") or Path(__file__).parents[2] / "../shared") / "data"
HUMANEVALFIX = SHARED / "humanevalfix"
LIMITS = {"tool_seconds": 250.0, "episode_seconds": 280.0, "max_observation_tokens": 3000, "max_turns": 16,
          "max_turn_tokens": 20_000, "max_trajectory_tokens": 100_000, "retries": 0}  # fmt: skip
in_the_sandbox = pytest.mark.asyncio(loop_scope="module")
pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


async def play(env: Swe, policy, sandbox, task: Task, **limits) -> Trajectory:
    runner, _ = make_runner(env, policy, sandbox=sandbox, **{**LIMITS, **limits})
    return await runner.run(task, episode_id="a")


def level(episode: Trajectory) -> str:
    return str(episode.metadata["verdict"]["level"])


# ---- built-in tasks -----------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", [1, 2])
def test_splits_are_disjoint_and_repeatable(difficulty):
    env = Swe(difficulty=difficulty, size=200)
    train, test = env.tasks("train"), env.tasks("test")
    assert len(train) > 100 and len(test) > 20
    assert len({task.id for task in train + test}) == len(train + test)
    again = Swe(difficulty=difficulty, size=200)
    assert again.tasks("train") == train and again.tasks("test") == test
    assert Swe(difficulty=difficulty, size=200, seed=1).tasks("train") != train
    for task in test:
        json.dumps(task.to_dict())


def test_no_function_has_mutants_in_both_splits():
    env = Swe()

    def functions(split: str) -> set[tuple[str, str]]:
        records = (
            mutants.record()[t.metadata["package"]]["mutants"][t.metadata["mutant"]] for t in env.tasks(split)
        )
        return {(record["file"], record["function"]) for record in records}

    assert not functions("train") & functions("test")


def test_every_recorded_mutant_is_one_and_has_tests_that_catch_it():
    for package, known in mutants.record().items():
        files = mutants.package_files(package)
        for mutant in known["mutants"]:
            source, mutation = files[mutant["file"]].decode(), mutants.mutation_of(mutant)
            assert mutant["fails"] and source[mutation.start : mutation.end] != mutation.new
            compile(mutation.applied(source), mutant["file"], "exec")


@given(st.integers())
def test_a_small_bug_shows_in_its_tests(seed):
    task = tiny.make(random.Random(seed))
    right, wrong = task.metadata["right"], task.metadata["wrong"]
    name = task.metadata["name"]
    checks = tiny.tests(name, right, wrong, task.metadata["seed"])

    def failing(formula: str) -> bool:
        scope: dict[str, object] = {}
        exec(tiny.written(name, right, formula), scope)  # noqa: S102 - made here, of letters and digits
        body = checks.partition("import " + name)[2]
        exec(body, scope)  # noqa: S102
        try:
            scope[f"test_{name}"]()  # type: ignore[operator]
        except AssertionError:
            return True
        return False

    assert failing(wrong) and not failing(right)
    assert tiny.written(name, right, wrong).count(wrong) == 1


SOURCE = """
def f(a, b):
    # 1 < 2
    if a < b and not b:
        return a + 1
    while True:
        break
    é = "é" == a
    return g(a, b) // (a is not b)
x = 1 < 2
"""


def test_mutations_keep_the_layout_and_lie_in_functions():
    found = {(each.kind, each.applied(SOURCE)) for each in mutations(SOURCE)}
    wanted = {
        "comparison": [("a < b", "a <= b"), ('"é" == a', '"é" != a'), ("a is not b", "a is b")],
        "logic": [("and not", "or not")],
        "negation": [("and not b", "and b")],
        "arithmetic": [("a + 1", "a - 1"), ("//", "/")],
        "constant": [("a + 1", "a + 2"), ("while True", "while False")],
        "jump": [("break", "continue")],
        "arguments": [("g(a, b)", "g(b, a)")],
    }
    assert found == {(kind, SOURCE.replace(*pair)) for kind, pairs in wanted.items() for pair in pairs}


LINES = st.lists(st.sampled_from(["a\n", "b\n", "\n", "  c\n", "d\n"]), max_size=12).map("".join)


@given(LINES.filter(bool), LINES)
def test_the_edit_of_a_fix_is_an_exact_replacement(before, after):
    old, new = edit_of(before, after)
    assert before.find(old) == before.rfind(old) >= 0 and before.replace(old, new) == after


# ---- episodes -----------------------------------------------------------------------------------


@in_the_sandbox
@pytest.mark.parametrize("difficulty", [1, 2])
async def test_the_expert_solves_what_is_built_in(difficulty, sandbox):
    env = Swe(difficulty=difficulty, size=24)
    for task in env.tasks("test")[: 3 if difficulty == 1 else 2]:
        episode = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
        assert (episode.status, episode.reward) == ("finished", 1.0), (task, episode.reason, episode.metadata)
        assert level(episode) == "passing" and episode.metadata["patch"].startswith("--- a/")
        if difficulty == 2:
            assert episode.calls[-1].observation.text.startswith("0 failed")


@in_the_sandbox
async def test_a_mutant_and_what_is_no_fix_of_it_earn_nothing(sandbox):
    env = Swe(size=24)
    for task in env.tasks("test")[:1]:
        repair = env.source.repair(task)
        [path] = repair.suite.gold
        test = repair.suite.fail_to_pass[0].partition("::")[0]
        for steps, wanted in (
            (["I fixed it."], "empty"),
            ([write_call("create", path=test, text="def test_a(): pass\n"), "Fixed."], "empty"),
            ([write_call("bash", command=f"echo '# looked at' >> {path}"), "Fixed."], "failing"),
        ):
            episode = await play(env, Lines(*steps), sandbox, task)
            assert (episode.reward, level(episode)) == (0.0, wanted), episode.metadata


TAKE_THE_FIX = """
for copy in $(find / -path '*-packages/{path}' 2>/dev/null); do cp $copy {path}; done
python3 -c "import {package}, shutil; shutil.copy({package}.__path__[-1] + '/{name}', '{path}')"
find / -name mutants.json 2>/dev/null; git status --porcelain
python3 -m pytest -q --co {test} | tail -1
"""


@in_the_sandbox
async def test_the_fix_is_not_to_be_found_in_the_sandbox(sandbox):
    """The mutated package is installed, and in a wheel so is the record of what was mutated."""
    for package in ("toolz", "simplejson"):
        env = Swe(packages=[package])
        task = env.tasks("test")[0]
        repair = env.source.repair(task)
        [path] = repair.suite.gold
        name, test = path.partition("/")[2], repair.suite.fail_to_pass[0].partition("::")[0]
        take = TAKE_THE_FIX.format(path=path, package=package, name=name, test=test)
        still = f"echo '#' >> {path}"
        episode = await play(
            env,
            Lines(write_call("bash", command=take), write_call("bash", command=still), "Fixed."),
            sandbox,
            task,
        )
        said = episode.calls[0].observation.text
        assert f" M {path}" not in said and "mutants.json" not in said and "tests collected" in said, said
        assert (episode.reward, level(episode)) == (0.0, "failing"), episode.metadata


@in_the_sandbox
async def test_who_does_not_look_at_a_small_bug_does_not_fix_it(sandbox):
    env = Swe(difficulty=1, size=40, expert_rate=0.0)
    tasks = env.tasks("test")[:4]
    played = [await play(env, ScriptedPolicy(make_chat()), sandbox, task) for task in tasks]
    solved = [episode.rewards["resolved"] for episode in played]
    assert sum(solved) <= 1  # one guess in a hundred is right


@in_the_sandbox
async def test_an_episode_has_a_repository_of_its_own(sandbox):
    env = Swe()
    task = env.tasks("test")[0]
    look = write_call(
        "bash", command="git status --porcelain; git log --oneline | wc -l; git rev-parse HEAD; ls"
    )
    change = write_call(
        "bash", command="touch new; git add new; git commit -qm more; git log --oneline | wc -l"
    )
    first, second = await asyncio.gather(
        play(env, Lines(look, change, look, "Done."), sandbox, task),
        play(env, Lines(look, "Done."), sandbox, task),
    )
    texts = [call.observation.text for call in first.calls]
    assert texts[0].startswith("1\n") and texts[1] == "2" and texts[2].startswith("2\n")
    assert second.calls[0].observation.text == texts[0]
    assert level(first) == "failing" and level(second) == "empty"  # a commit is a change, too


@in_the_sandbox
async def test_a_cut_off_episode_is_not_submitted(sandbox):
    env = Swe(difficulty=1, size=40)
    task = env.tasks("test")[0]
    data = task.metadata
    edit = write_call("edit", path="f.py", old=f"return {data['wrong']}", new=f"return {data['right']}")
    view = write_call("view", path="f.py")
    episode = await play(env, Lines(edit, view), sandbox, task, max_turns=3)
    assert (episode.status, episode.reward, level(episode)) == ("truncated", 0.0, "unsubmitted")
    assert (await play(env, Lines(edit, "done"), sandbox, task)).reward == 1.0


@in_the_sandbox
async def test_a_hanging_test_is_told_and_earns_nothing(sandbox):
    env = Swe(packages=["toolz"], seconds=6.0)
    task = env.tasks("test")[0]
    [path] = env.source.repair(task).suite.gold
    hang = write_call("bash", command=f"echo 'while True: pass' >> {path}")
    episode = await play(env, Lines(hang, write_call("tests"), "Fixed."), sandbox, task)
    assert "Stopped: the tests ran longer than 6 s." in episode.calls[1].observation.text
    assert (episode.status, episode.reward, level(episode)) == ("finished", 0.0, "failing")
    assert "timeout" in episode.metadata["verdict"]["detail"]


@in_the_sandbox
async def test_a_change_that_is_too_large_is_not_judged(sandbox):
    env = Swe(difficulty=2)
    task = env.tasks("test")[0]
    write = write_call("bash", command="head -c 2000000 /dev/zero > large.bin")
    episode = await play(env, Lines(write, "Fixed."), sandbox, task)
    assert (episode.reward, level(episode)) == (0.0, "empty")
    assert "large.bin" in episode.metadata["verdict"]["detail"]


@in_the_sandbox
async def test_an_episode_that_ends_its_own_session_is_not_void(sandbox, monkeypatch):
    """What code did to its session is the model's doing: it has no change to show."""
    from agentrl.sandbox.namespace_session import NamespaceSession

    env = Swe(difficulty=1, size=40)
    view = write_call("view", path="f.py")
    run = NamespaceSession._run

    async def lost(self, request, body, wall_seconds):
        if b"guest_files" in body or b'"operation": "view"' in body:
            self._lose("its first process ended (the code did so)")
        return await run(self, request, body, wall_seconds)

    monkeypatch.setattr(NamespaceSession, "_run", lost)
    episode = await play(env, Lines(view, "done"), sandbox, env.tasks("test")[0])
    assert episode.calls[0].observation.metadata["status"] == "session_lost"
    assert (episode.status, episode.reward, level(episode)) == ("finished", 0.0, "empty")


@in_the_sandbox
async def test_a_sandbox_that_dies_voids_its_episode_and_no_other(sandbox):
    env = Swe(difficulty=1, size=40)
    task = env.tasks("test")[0]
    doomed = NamespaceSandbox()

    class Killer(Lines):
        async def generate(self, *args, **more):
            await doomed.close()
            return await super().generate(*args, **more)

    view = write_call("view", path="f.py")
    died, lived = await asyncio.gather(
        play(env, Killer(view, "done"), doomed, task), play(env, Lines(view, "done"), sandbox, task)
    )
    assert (died.status, died.reward) == ("void", None)
    assert (lived.status, lived.reward) == ("finished", 0.0)


class Returns(Swe):
    """Keeps the state of the repository, and goes back to it."""

    kept: Snapshot | None = None

    @tool
    async def keep(self) -> str:
        """Keep."""
        type(self).kept = await self.snapshot()
        return "kept"

    @tool
    async def back(self) -> str:
        """Go back."""
        assert self.kept is not None
        await self.restore(self.kept)
        return "back"


@in_the_sandbox
async def test_an_episode_goes_back_to_a_snapshot_of_its_repository(sandbox):
    env = Returns(difficulty=1, size=40)
    task = env.tasks("test")[0]
    data = task.metadata
    right = write_call("edit", path="f.py", old=f"return {data['wrong']}", new=f"return {data['right']}")
    spoil = write_call("edit", path="f.py", old="return", new="retrun")
    keep, back = write_call("keep"), write_call("back")
    try:
        spoiled = await play(env, Lines(right, keep, spoil, "done"), sandbox, task)
        assert spoiled.reward == 0.0
        resumed = await play(env, Lines(back, write_call("view", path="f.py"), "done"), sandbox, task)
        assert resumed.reward == 1.0 and f"return {data['right']}" in resumed.calls[1].observation.text
        returned = await play(env, Lines(right, keep, spoil, back, "done"), sandbox, task)
        assert returned.reward == 1.0
    finally:
        if Returns.kept is not None:
            await Returns.kept.close()
            Returns.kept = None


# ---- G-RA ---------------------------------------------------------------------------------------

GATED = {"difficulty": 1, "size": 40, "reward": "gated"}


@in_the_sandbox
async def test_steps_count_once_a_change_was_submitted(sandbox):
    """Levels -1, -0.5, 0 and 1, a step 0.1, and the gate at 0."""
    view, bad = write_call("view", path="f.py"), write_call("view", path="g.py")
    wrong = write_call("edit", path="f.py", old="return", new="retrun")

    async def reward(steps: Sequence[str], max_turns: int = 16, **options) -> tuple[float | None, float]:
        env = Swe(**{**GATED, **options})
        task = env.tasks("test")[0]
        data = task.metadata
        right = write_call("edit", path="f.py", old=f"return {data['wrong']}", new=f"return {data['right']}")
        said = [right if step == "RIGHT" else step for step in steps]
        episode = await play(env, Lines(*said), sandbox, task, max_turns=max_turns)
        assert episode.reward is not None
        return round(episode.reward, 6), episode.rewards["resolved"]

    assert await reward([view, "RIGHT", "done"]) == (1.2, 1.0)
    assert await reward([view, bad, "RIGHT", "done"]) == (1.1, 1.0)
    assert await reward([view, wrong, "done"]) == (0.2, 0.0)
    assert await reward([view, wrong, "done"], gate_strict=True) == (0.0, 0.0)
    assert await reward([view, "done"]) == (-0.5, 0.0)
    assert await reward([view, "RIGHT", view], max_turns=3) == (-1.0, 0.0)
    assert await reward([view, "done"], levels=[0, 0, 0, 1], gate_at=1) == (0.0, 0.0)


# ---- options and data ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"difficulty": 3}, "1 or 2"),
        ({"size": 1}, "at least 8"),
        ({"expert_rate": 2}, "from 0 to 1"),
        ({"packages": ["numpy"]}, "no mutants of 'numpy'; there are of simplejson, toolz"),
        ({"packages": []}, "empty"),
        ({"packages": ["toolz"], "difficulty": 1}, "difficulty=2"),
        ({"repositories": "x"}, "is for data="),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"reward": "best"}, "'resolved' or 'gated'"),
        ({"reward": "gated", "levels": [1, 0, 0, 1]}, "rising"),
        ({"reward": "gated", "step": -1}, "0 or more"),
        ({"dificulty": 1}, "Did you mean 'difficulty'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.swe:Swe", options)


def test_a_package_of_another_version_is_told(monkeypatch):
    changed = {"toolz/__init__.py": b""}
    monkeypatch.setattr(mutants, "installed_files", lambda package: changed)
    mutants.package_files.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"another version: pip install 'agentrl\[swe\]'"):
            Swe()
    finally:
        mutants.package_files.cache_clear()
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Swe(difficulty=1).tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Swe(difficulty=1))
    config = load_config("swe", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.swe:Swe", config.environment_options)
    assert (folder / "README.md").is_file()


def test_a_single_package_may_be_named():
    assert {task.metadata["package"] for task in Swe(packages="toolz").tasks("test")} == {"toolz"}


def test_more_small_bugs_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(tiny, "NAMES", ["area"])
    monkeypatch.setattr(tiny, "VARIABLES", ["x0", "x1"])
    with pytest.raises(ConfigError, match="not so many functions: 1[0-9][0-9] were found"):
        Swe(difficulty=1, size=200).tasks("train")


@in_the_sandbox
async def test_names_that_are_no_text_are_not_judged(sandbox, tmp_path):
    env = Swe(difficulty=1, size=40)
    task = env.tasks("test")[0]
    data = task.metadata
    fix = f"sed -i 's/return .*/return {data['right']}/' f.py; echo hi > $'\\xff.py'"
    env.tools = [*env.tools, Bash(env.workspace)]
    episode = await play(env, Lines(write_call("bash", command=fix), "Fixed."), sandbox, task)
    assert (episode.reward, level(episode)) == (1.0, "passing"), episode.metadata
    with EpisodeLog(tmp_path / "episodes.jsonl") as log:
        episode.metadata["told"] = "\udcff"
        log.add(EpisodeResult.of(episode, 0, 0, True), episode)
    assert json.loads((tmp_path / "episodes.jsonl").read_text())["metadata"]["told"] == "\udcff"


def test_changes_are_read_without_belief():
    told = {"a": "eA==", "b": None, "c": "no base64!", "d": 3, "e": ["x"]}
    assert read_changes(told) == {"a": b"x", "b": None}
    assert read_changes([1]) == read_changes(None) == {}


FIX = {
    "task_id": "Python/0", "entry_point": "half", "prompt": "def half(n):\n    \"\"\"Half of n.\"\"\"\n",
    "buggy_solution": "    return n * 2\n", "canonical_solution": "    return n / 2\n",
    "test": "\ndef check(half):\n    assert half(4) == 2\n\ncheck(half)\n",
    "example_test": "def check(half):\n    assert half(0) == 0\ncheck(half)\n",
}  # fmt: skip


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({**FIX, "test": ""}, "'test' must be text"),
        ({**FIX, "entry_point": "a b"}, "no name of a function"),
        ({**FIX, "canonical_solution": "    return n * 2\n"}, "is the canonical one"),
        ({**FIX, "canonical_solution": "    return ("}, "'canonical_solution' is not Python"),
        ({"task_id": "x"}, "lacks 'prompt'"),
        ("{not json", "not valid JSON"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, bad, words, caplog):
    write(tmp_path / "test.jsonl", FIX, "", bad, {**FIX, "task_id": "Python/1"})
    with pytest.raises(DataError, match=rf"test\.jsonl line 3: .*{words}.*on_bad_row=skip"):
        Swe(data=str(tmp_path)).tasks("test")
    with caplog.at_level(logging.WARNING):
        assert len(Swe(data=str(tmp_path), on_bad_row="skip").tasks("test")) == 2
    assert "line 3" in caplog.text


def test_data_of_another_form_or_missing_is_told(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        Swe(data=str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"needs test\.jsonl or dev\.jsonl"):
        Swe(data=str(tmp_path))
    write(tmp_path / "test.jsonl", {"question": "?"})
    with pytest.raises(DataError, match="neither HumanEvalFix's.*'question'"):
        Swe(data=str(tmp_path))


@in_the_sandbox
async def test_humanevalfix_in_small(tmp_path, sandbox):
    write(tmp_path / "test.jsonl", FIX)
    env = Swe(data=str(tmp_path))
    [task] = env.tasks("test")
    solved = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
    assert solved.reward == 1.0
    shown = await play(env, Lines(write_call("tests"), write_call("view", path="."), "done"), sandbox, task)
    assert shown.calls[0].observation.text == "0 failed, 1 passed"
    assert (
        shown.calls[1].observation.text == "solution.py\ntests/test_examples.py"
    )  # those that judge are not there
    still = write_call("bash", command="echo >> solution.py")
    assert (await play(env, Lines(still, "done"), sandbox, task)).reward == 0.0


@in_the_sandbox
@pytest.mark.skipif(not HUMANEVALFIX.is_dir(), reason="the data set is not here")
async def test_the_expert_solves_humanevalfix_and_no_bug_is_paid(sandbox):
    env = Swe(data=str(HUMANEVALFIX))
    tasks = env.tasks("test")
    assert len(tasks) > 50
    still = write_call("bash", command="echo >> solution.py")
    for task in tasks[::24]:
        assert (await play(env, ScriptedPolicy(make_chat()), sandbox, task)).reward == 1.0, task.id
        assert (await play(env, Lines(still, "done"), sandbox, task)).reward == 0.0, task.id


# ---- SWE-bench's form ---------------------------------------------------------------------------

CODE = "def half(n):\n    return n * 2\n\n\ndef twice(n):\n    return n * 2\n"
PATCH = """\
diff --git a/pkg/calc.py b/pkg/calc.py
--- a/pkg/calc.py
+++ b/pkg/calc.py
@@ -1,5 +1,5 @@
 def half(n):
-    return n * 2
+    return n / 2
{space}
{space}
 def twice(n):
diff --git a/pkg/old.py b/pkg/old.py
deleted file mode 100644
--- a/pkg/old.py
+++ /dev/null
@@ -1 +0,0 @@
-x = 1
""".replace("{space}", " ")
TEST_PATCH = """\
diff --git a/tests/test_calc.py b/tests/test_calc.py
--- a/tests/test_calc.py
+++ b/tests/test_calc.py
@@ -1,4 +1,7 @@
-from pkg.calc import twice
+from pkg.calc import half, twice
{space}
 def test_twice():
     assert twice(2) == 4
+
+def test_half():
+    assert half(4) == 2
""".replace("{space}", " ")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def instances(tmp_path) -> tuple[Path, dict[str, object]]:
    """A bare clone whose later history holds the fix, and a row."""
    work = tmp_path / "work"
    test = "from pkg.calc import twice\n\ndef test_twice():\n    assert twice(2) == 4\n"
    files = {"pkg/calc.py": CODE, "pkg/__init__.py": "", "pkg/old.py": "x = 1\n", "tests/test_calc.py": test}
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    git(work, "init", "-q")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "one")
    base = git(work, "rev-parse", "HEAD")
    (work / "pkg/calc.py").write_text(CODE.replace("n * 2", "n / 2", 1))
    git(work, "commit", "-qam", "THE FIX")
    repositories = tmp_path / "repositories"
    repositories.mkdir()
    git(tmp_path, "clone", "-q", "--bare", str(work), str(repositories / "someone__calc.git"))
    row: dict[str, object] = {
        "instance_id": "someone__calc-1", "repo": "someone/calc", "base_commit": base, "patch": PATCH,
        "test_patch": TEST_PATCH, "problem_statement": "half() doubles.",
        "FAIL_TO_PASS": json.dumps(["tests/test_calc.py::test_half"]),
        "PASS_TO_PASS": ["tests/test_calc.py::test_twice"], "version": "1.0",
    }  # fmt: skip
    return tmp_path, row


@in_the_sandbox
async def test_an_instance_is_solved_by_its_patch_and_by_no_look_at_its_history(instances, sandbox):
    folder, row = instances
    write(folder / "test.jsonl", row)
    env = Swe(data=str(folder), repositories=str(folder / "repositories"))
    [task] = env.tasks("test")
    assert task.prompt == "half() doubles." and task.id == "someone__calc-1"
    solved = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
    assert solved.reward == 1.0 and "return n / 2" in solved.metadata["patch"]
    repair = env.source.repair(task)
    assert repair.suite.gold == {
        "pkg/calc.py": CODE.replace("n * 2", "n / 2", 1).encode(),
        "pkg/old.py": None,
    }
    history = write_call(
        "bash", command="git log --all --format=%s; git reflog; cat .git/packed-refs tests/*"
    )
    still = write_call("bash", command="echo >> pkg/calc.py")
    other = await play(env, Lines(history, still, "done"), sandbox, task)
    assert "FIX" not in other.calls[0].observation.text and "half" not in other.calls[0].observation.text
    assert (other.reward, level(other)) == (0.0, "failing")


def test_an_instance_has_all_that_is_committed_and_its_tests_empty_files(instances):
    folder, row = instances
    work = folder / "work"
    (work / ".gitattributes").write_text("hidden.py export-ignore\nversion.py export-subst\n")
    (work / "hidden.py").write_bytes(b"")
    (work / "version.py").write_bytes(b"at = '$Format:%H$'\r\n")
    (work / "link").symlink_to("version.py")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "more")
    new = "diff --git a/{0} b/{0}\nnew file mode 100644\n"
    empty = new.format("tests/new/__init__.py") + "index 0000000..e69de29\n"
    fix = new.format("one.py") + "--- /dev/null\n+++ b/one.py\n@@ -0,0 +1 @@\n+x = 1\n"
    repositories = folder / "repositories/someone__calc.git"
    git(repositories, "fetch", "-q", str(work), "main:more")
    row |= {"base_commit": git(work, "rev-parse", "HEAD"), "patch": fix, "test_patch": TEST_PATCH + empty}
    write(folder / "train.jsonl", row)
    env = Swe(data=str(folder / "train.jsonl"), repositories=str(folder / "repositories"))
    [task] = env.tasks("train")
    repair = env.source.repair(task)
    assert repair.base["hidden.py"] == b"" and repair.base["version.py"] == b"at = '$Format:%H$'\r\n"
    assert "link" not in repair.base
    assert repair.suite.files["tests/new/__init__.py"] == b""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repo": "someone/else"}, "no repository 'someone/else' in"),
        ({"FAIL_TO_PASS": "[]"}, "'FAIL_TO_PASS' is empty"),
        ({"PASS_TO_PASS": "no json"}, "must be a list of names of tests"),
        ({"patch": ""}, "'patch' must be text"),
    ],
)
def test_a_malformed_instance_is_told(instances, change, words):
    folder, row = instances
    write(folder / "test.jsonl", {**row, **change})
    with pytest.raises(DataError, match=words):
        Swe(data=str(folder), repositories=str(folder / "repositories")).tasks("test")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_commit": "0" * 40}, "git cannot read commit 0000"),
        ({"base_commit": "--output=x"}, "is no commit"),
        ({"patch": PATCH.replace("n * 2", "n * 3")}, "git cannot read a patch of task someone__calc-1"),
    ],
)
def test_a_commit_or_patch_that_git_refuses_is_told(instances, change, words):
    folder, row = instances
    write(folder / "test.jsonl", {**row, **change})
    env = Swe(data=str(folder), repositories=str(folder / "repositories"))
    with pytest.raises(DataError, match=words):
        env.source.repair(env.tasks("test")[0])
