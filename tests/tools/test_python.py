"""The python tool, in a real sandbox where the machine allows one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import pytest

from agentrl import Observation, ToolContext, ToolError
from agentrl.errors import InvalidArguments, SandboxUnavailable
from agentrl.registry import find_tool
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import Sandbox, open_sandbox
from agentrl.tools.python import Python, last_frame

Run = Callable[..., Awaitable[Observation]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    try:
        opened = open_sandbox()
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))
    async with opened:
        yield opened


@pytest.fixture
async def make(sandbox: Sandbox) -> AsyncIterator[Callable[..., Python]]:
    sessions = EpisodeSessions(sandbox)

    def made(**options: object) -> Python:
        return Python(**options).spawn(ToolContext(open_session=sessions.open))  # type: ignore

    yield made
    await sessions.close(5)


async def run(tool: Python, code: str) -> Observation:
    return Observation.of(await tool.invoke({"code": code}))


async def test_shows_what_is_printed(make):
    seen = await run(make(), "print(123 * 456)")
    assert (seen.text, seen.error, seen.metadata["status"]) == ("56088", False, "ok")


async def test_variables_stay_and_the_last_value_shows(make):
    tool = make()
    silent = await run(tool, "x = 20")
    assert silent.text == "(no output; use print)" and not silent.error
    assert (await run(tool, "x + 1")).text == "21"


async def test_stateless_calls_share_no_variables(make):
    tool = make(stateful=False)
    assert (await run(tool, "x = 20; print(x)")).text == "20"
    forgotten = await run(tool, "print(x)")
    assert forgotten.error and forgotten.text.endswith("NameError: name 'x' is not defined")


async def test_code_in_a_markdown_fence_runs(make):
    assert (await run(make(), "```python\nprint(1)\n```")).text == "1"


async def test_an_error_shows_the_models_own_line_and_the_message(make):
    seen = await run(make(), "print('before')\nimport json\njson.loads('{')")
    lines = seen.text.splitlines()
    assert seen.error and seen.metadata["status"] == "error"
    assert lines[0] == "before" and "line 3" in lines[1] and "json.loads('{')" in lines[2]
    assert lines[-1].startswith("json.decoder.JSONDecodeError")
    assert "raw_decode" not in seen.text


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("while True: pass", "timeout", "ran longer than 1 s"),
        ("b = bytearray(10**9)", "oom", "more than 128 MiB"),
        ("print('x' * 10**7)", "output_limit", "printed too much"),
        ("import os; os.kill(os.getpid(), 9)", "crashed", "crashed"),
    ],
)
async def test_limits_are_told_and_the_next_call_works(make, code, status, words):
    tool = make(seconds=1, memory_mb=128, output_bytes=1000)
    seen = await run(tool, code)
    assert seen.error and seen.metadata["status"] == status
    assert words in seen.text and "variables are gone" in seen.text and len(seen.text) < 1300
    assert (await run(tool, "print(2)")).text == "2"


async def test_exit_codes_are_told(make):
    assert (await run(make(), "import sys; sys.exit(3)")).text == "The code ended with exit code 3."


async def test_code_that_ends_its_own_session_cannot_void_its_episode():
    lost = SimpleNamespace(
        status="session_lost", stdout="", stderr="", exit_code=None, detail="killed", seconds=0.0
    )

    class Session:
        async def run_cell(self, code: str) -> SimpleNamespace:
            return lost

    async def open_session(limits: object) -> Session:
        return Session()

    tool = Python().spawn(ToolContext(open_session=open_session))  # type: ignore
    for _ in range(2):
        with pytest.raises(ToolError, match="killed"):
            await tool.invoke({"code": "1"})


async def test_without_isolation_nothing_runs():
    with pytest.raises(SandboxUnavailable):
        await Python().spawn(ToolContext()).invoke({"code": "print(1)"})


async def test_arguments_are_checked():
    with pytest.raises(InvalidArguments, match="code is required"):
        await Python().spawn(ToolContext()).invoke({"source": "print(1)"})


def test_what_the_model_is_told():
    function = Python().schema["function"]
    assert (
        function["name"] == "python" and function["description"] == "Run Python code and show what it prints."
    )
    assert function["parameters"]["required"] == ["code"]


def test_is_found_as_a_class_with_options():
    assert find_tool(Python, {"seconds": 3}).limits["wall_seconds"] == 3  # type: ignore


@pytest.mark.parametrize("noise", ["", "\n\n", '  File "<', "  \n", 'File "<x>"\n  File "<cell 1>"'])
def test_reading_a_traceback_takes_anything(noise):
    assert isinstance(last_frame(noise), str)
    assert len(last_frame(noise + "a\n" * 100).splitlines()) <= 8
