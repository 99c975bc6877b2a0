"""The tools view, find, edit, create, bash and tests, on one folder of a real sandbox; and archives."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import Observation, SessionLost, Tool, ToolContext
from agentrl.registry import find_tool
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import NamespaceSandbox, Sandbox
from agentrl.tools.bash import Bash, shortened
from agentrl.tools.files import Create, Edit, Find, View
from agentrl.tools.repo.archive import repository, tar
from agentrl.tools.repo.testing import Report
from agentrl.tools.repo.workspace import Workspace
from agentrl.tools.tests import Tests

Do = Callable[..., Awaitable[Observation]]
in_the_sandbox = pytest.mark.asyncio(loop_scope="module")
pytestmark = pytest.mark.timeout(300)
WORKSPACE = Workspace(seconds=60, preload=("pytest",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def do(sandbox: Sandbox) -> AsyncIterator[Do]:
    """Calls a tool in an episode's session."""
    sessions = EpisodeSessions(sandbox)
    context = ToolContext(open_session=sessions.open)

    async def call(tool: Tool, **arguments: object) -> Observation:
        return Observation.of(await tool.spawn(context).invoke(arguments))

    yield call
    await sessions.close(60)


# ---- files --------------------------------------------------------------------------------------


@in_the_sandbox
async def test_a_file_is_made_shown_found_and_changed(do):
    made = await do(Create(WORKSPACE), path="a/b.py", text="one\ntwo = 2\nthree\n")
    assert (made.text, made.error) == ("Written.", False)
    assert (await do(View(WORKSPACE), path="a/b.py")).text == "1 one\n2 two = 2\n3 three"
    assert (await do(View(WORKSPACE), path="a/b.py", first=2, last=2)).text == "2 two = 2"
    assert (await do(View(WORKSPACE), path=".")).text == "a/b.py"
    assert (await do(Find(WORKSPACE), text="two")).text == "a/b.py:2 two = 2"
    edited = await do(Edit(WORKSPACE), path="a/b.py", old="two = 2\n", new="")
    assert (edited.text, edited.error) == ("Edited.", False)
    assert (await do(Bash(WORKSPACE), command="cat a/b.py")).text == "one\nthree"


@in_the_sandbox
@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        (View, {"path": "b.py"}, "There is no file b.py. There are a/b.py."),
        (View, {"path": "a/b.py", "first": 9}, "no range"),
        (View, {"path": "a/b.py", "first": 9, "last": 12}, "has only 3 lines"),
        (View, {"path": "a/b.py", "first": 0}, "no range"),
        (View, {"path": "binary"}, "not text"),
        (View, {"path": "a\0b"}, "null"),
        (View, {"path": "large"}, "use bash"),
        (Find, {"text": ""}, "nothing to look for"),
        (Find, {"text": "x", "path": "absent"}, "There is no absent"),
        (Edit, {"path": "a/b.py", "old": "four", "new": ""}, "does not stand in a/b.py"),
        (Edit, {"path": "a/b.py", "old": "x", "new": "y"}, "more than once"),
        (Edit, {"path": "a/b.py", "old": "", "new": "y"}, "use create"),
        (Edit, {"path": "a/b.py", "old": "x\nx", "new": "x\nx"}, "more than once"),
        (Edit, {"path": "a", "old": "x", "new": "y"}, "is a folder"),
        (Create, {"path": "a", "text": ""}, "is a folder"),
        (Create, {"path": "a/b.py/c", "text": ""}, "a/b.py: "),
        (Create, {"path": "/usr/x", "text": ""}, "/usr/x: "),
    ],
)
async def test_what_cannot_be_done_is_told(do, tool, arguments, words):
    await do(Create(WORKSPACE), path="a/b.py", text="x\nx\nx\n")
    await do(Bash(WORKSPACE), command="printf '\\xff\\xfe' > binary; head -c 2000000 /dev/zero > large")
    seen = await do(tool(WORKSPACE), **arguments)
    assert seen.error and words in seen.text, seen


@in_the_sandbox
async def test_what_is_shown_is_bounded(do):
    await do(Create(WORKSPACE), path="f", text="line\n" * 30)
    seen = await do(View(WORKSPACE, lines=10), path="f", first=5)
    assert seen.text.splitlines()[0] == "5 line" and "lines 15 to 30 are not shown" in seen.text
    assert (await do(Find(WORKSPACE, lines=3), text="line")).text.count("f:") == 3
    printed = await do(Bash(WORKSPACE, shown_bytes=100), command="seq 10000")
    assert len(printed.text) < 200 and "left out" in printed.text and printed.text.endswith("10000")
    assert shortened("abc", 3) == "abc"


@in_the_sandbox
async def test_what_lies_in_the_folder_is_not_taken_for_a_library(do):
    for name in ("json", "difflib", "base64"):
        await do(Create(WORKSPACE), path=f"{name}.py", text="raise SystemExit('shadow')")
    assert "json.py" in (await do(View(WORKSPACE), path="jsn.py")).text


# ---- bash ---------------------------------------------------------------------------------------


@in_the_sandbox
async def test_bash_tells_output_and_exit_code(do):
    seen = await do(Bash(WORKSPACE), command="echo out; echo err >&2; exit 3")
    assert seen.text == "out\nerr\n(exit code 3)" and seen.error
    assert seen.metadata == {"status": "error", "exit_code": 3}
    assert (await do(Bash(WORKSPACE), command="true")).text == "(no output)"


@in_the_sandbox
async def test_a_command_that_hangs_is_stopped_and_said_so(do):
    seen = await do(Bash(Workspace(seconds=0.5)), command="sleep 1000")
    assert "Stopped: it ran longer than 0.5 s." in seen.text and seen.metadata["status"] == "timeout"


@in_the_sandbox
async def test_a_session_that_the_model_ended_is_told_and_voids_nothing(do, monkeypatch):
    async def lost(self, *args, **more):
        from agentrl.sandbox import Result, Status

        return Result(Status.session_lost, "", "", None, 0.0, False, "its first process ended")

    from agentrl.sandbox.supervised import SupervisedSession

    monkeypatch.setattr(SupervisedSession, "_run", lost)
    for tool, arguments in ((Bash, {"command": "x"}), (View, {"path": "x"}), (Tests, {})):
        seen = await do(tool(WORKSPACE), **arguments)
        assert "stays so for this episode" in seen.text and seen.metadata["status"] == "session_lost"


@in_the_sandbox
async def test_a_session_that_the_machine_lost_voids_the_episode():
    async with NamespaceSandbox() as short_lived:
        sessions = EpisodeSessions(short_lived)
        context = ToolContext(open_session=sessions.open)
        workspace = Workspace(seconds=60)
        await Create(workspace).spawn(context).invoke({"path": "a", "text": "x"})
    for tool, arguments in ((View, {"path": "a"}), (Bash, {"command": "ls"}), (Tests, {})):
        with pytest.raises(SessionLost):
            await tool(workspace).spawn(context).invoke(arguments)


# ---- tests --------------------------------------------------------------------------------------


@in_the_sandbox
async def test_tests_are_run_and_failures_shown(do):
    await do(Create(WORKSPACE), path="src/calc.py", text="def add(a, b):\n    return a - b\n")
    checks = "from calc import add\ndef test_a():\n    assert add(1, 2) == 3\ndef test_b():\n    add(1, 0)\n"
    await do(Create(WORKSPACE), path="tests/test_calc.py", text=checks)
    seen = await do(Tests(WORKSPACE, seconds=50))
    assert (
        seen.text.startswith("1 failed, 1 passed\nFAILED tests/test_calc.py::test_a")
        and "-1 == 3" in seen.text
    )
    name = "tests/test_calc.py::test_"
    assert seen.metadata == {"status": "finished", "passed": [f"{name}b"], "failed": [f"{name}a"]}
    await do(Edit(WORKSPACE), path="src/calc.py", old="a - b", new="a + b")
    assert (
        await do(Tests(WORKSPACE, seconds=50), path="tests/test_calc.py::test_a")
    ).text == "0 failed, 1 passed"
    await do(Create(WORKSPACE), path="tests/test_calc.py", text="import absent\n")
    broken = await do(Tests(WORKSPACE, seconds=50))
    assert "1 failed" in broken.text and "absent" in broken.text


@in_the_sandbox
async def test_a_test_that_hangs_is_stopped_and_what_ran_before_is_told(do):
    text = "def test_a(): pass\ndef test_b():\n    import time; time.sleep(1000)\n"
    await do(Create(WORKSPACE), path="test_h.py", text=text)
    seen = await do(Tests(WORKSPACE, seconds=8))
    assert "Stopped: the tests ran longer than 8 s." in seen.text
    assert seen.metadata["status"] == "timeout" and seen.metadata["failed"] == []


def test_a_report_passes_only_with_every_name():
    report = Report(outcomes={"a": "passed", "b": "xfailed", "c": "skipped", "d": "failed"})
    assert report.passed(["a", "b"]) and report.passed([])
    assert not any(report.passed(["a", other]) for other in ("c", "d", "absent"))


@pytest.mark.parametrize("name", ["view", "find", "edit", "create", "bash", "tests"])
def test_tools_say_what_they_do(name):
    tool = {"view": View, "find": Find, "edit": Edit, "create": Create, "bash": Bash, "tests": Tests}[name]
    made = find_tool(f"{tool.__module__}:{tool.__name__}")
    assert made.name == name and made.description
    assert all(
        part.get("description") for part in made.schema["function"]["parameters"]["properties"].values()
    )


# ---- repositories -------------------------------------------------------------------------------

NAMES = st.lists(
    st.text("abz.-_é 0", min_size=1, max_size=6).filter(lambda name: name.strip(".")),
    min_size=1, max_size=3,
).map("/".join)  # fmt: skip
TREES = st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=12).map(
    lambda tree: {
        path: tree[path] for path in tree if not any(other.startswith(f"{path}/") for other in tree)
    }
)


def git(folder, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@settings(deadline=None, max_examples=25)
@given(tree=TREES)
def test_any_tree_becomes_a_repository_that_git_finds_sound(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    with tarfile.open(fileobj=io.BytesIO(repository(tree))) as archive:
        archive.extractall(folder, filter="data")
    assert git(folder, "fsck", "--full", "--strict") == ""
    assert git(folder, "status", "--porcelain") == ""
    listed = git(folder, "ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")[:-1]
    assert sorted(listed) == sorted(tree)
    assert git(folder, "log", "--format=%s", "--all") == "The task's repository\n"
    assert repository(tree) == repository(dict(reversed(tree.items())))
    path = sorted(tree)[0]
    (folder / path).write_bytes(tree[path] + b"changed\n")
    assert git(folder, "diff", "--name-only", "-z").rstrip("\0") == path


def test_an_archive_is_the_same_for_the_same_files():
    assert tar({"b": b"1", "a": b"2"}) == tar({"a": b"2", "b": b"1"})
