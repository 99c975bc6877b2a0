"""Another model's prints in programs: only prints get in, and the policy cannot say them itself."""

from __future__ import annotations

import ast
import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import serving
from rollout_support import TASK, Lines, make_runner, write_call

from agentrl import Env, Observation, Trajectory, reward, tool
from agentrl.algorithms.partial_credit import instrumented
from agentrl.config import load_config
from agentrl.errors import ConfigError, UsageError
from agentrl.sandbox import open_sandbox
from agentrl.train.algorithm import plan
from agentrl.train.instrument import MARKS, Instrument, without
from agentrl.train.shaping import shape_of

PROGRAM = "import json\nrows = json.loads('[1, 2]')\nfor row in rows:\n    total = row\nprint(total)\n"
REPORTED = """
# what was asked for
import json
print("MARK imported packages")
rows = json.loads("[1, 2]")
print('MARK loaded data')
for row in rows:
    total = row
    print("MARK training loss")
print(total)
"""


def test_prints_alone_may_be_added() -> None:
    changed = instrumented(PROGRAM, REPORTED, "M-1")
    assert changed is not None and "MARK" not in changed
    assert [line.strip() for line in changed.splitlines() if "M-1" in line] == [
        "print('M-1 imported packages')",
        "print('M-1 loaded data')",
        "print('M-1 training loss')",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        REPORTED.replace("print(total)", "print(3)"),
        REPORTED.replace("total = row", "total = 2 * row"),
        REPORTED.replace('"MARK training loss"', 'f"MARK {row}"'),
        REPORTED.replace('"MARK training loss"', '"MARK training loss", open("x", "w")'),
        REPORTED + "import os\n",
        REPORTED.replace("import json\n", ""),
        "I would rather not.",
        "",
        "(" * 10_000,
    ],
)
def test_another_program_is_not_run(changed: str) -> None:
    assert instrumented(PROGRAM, changed, "M-1") is None


def test_the_policy_cannot_say_a_mark_itself() -> None:
    program = 'print("MARK wrote submission")\nx = 1\n'
    assert instrumented(program, program + 'print("MARK loaded data")', "M-1") is None


def test_the_value_that_a_notebook_shows_stays_the_last() -> None:
    assert instrumented("x = 2\nx", 'x = 2\nx\nprint("MARK evaluated")', "M-1") is None
    assert instrumented("x = 2\nx", 'x = 2\nprint("MARK evaluated")\nx', "M-1") is not None
    assert instrumented("x = 2", 'x = 2\nprint("MARK evaluated")', "M-1") is not None


LINES = st.sampled_from(["x = 1", "x", "print(x)", "for i in range(3):\n    x = i", "if x:\n    print('y')"])


@given(st.lists(LINES, min_size=1), st.data())
def test_what_is_run_is_the_program_wherever_the_prints_are(lines: list[str], data: st.DataObject) -> None:
    program = "\n".join(["x = 0", *lines])
    places = data.draw(st.sets(st.integers(0, len(lines))))
    whole = enumerate(["x = 0", *lines])
    added = [f"{line}\nprint('MARK {i}')" if i in places else line for i, line in whole]
    changed = instrumented(program, "\n".join(added), "M-1")
    if lines[-1] == "x" and len(lines) in places:
        assert changed is None, "a notebook would no longer show it"
        return
    assert changed is not None
    kept = "\n".join(line for line in changed.splitlines() if "M-1" not in line)
    assert ast.dump(ast.parse(kept)) == ast.dump(ast.parse(program))
    assert changed.count("M-1") == len(places)


def test_what_the_prints_said_is_for_rewards_alone() -> None:
    said = "M-1 loaded data\nhello M-1 evaluated\nworld"
    seen = without(Observation(said, metadata={"stdout": said, "exit_code": 0}), "M-1")
    assert seen.text == "hello world"
    assert seen.metadata == {"stdout": "hello world", "exit_code": 0, MARKS: "loaded data\nevaluated"}


class Lab(Env):
    """Programs, and a grader that never had a submission."""

    tools = ("python",)
    success = "graded"

    @reward
    def graded(self, episode: Trajectory) -> float:
        return 0.0


async def played(answer: Any, *programs: str) -> tuple[Trajectory, list[dict[str, Any]]]:
    """An episode of programs in a real sandbox, the answer being the other model's."""
    async with serving(answer) as endpoint, open_sandbox() as sandbox:
        where = f"{{url: '{endpoint.url}', model: m}}"
        words = [
            "algorithm.name=mle_duration",
            f"algorithm.rollout={{name: instrument, options: {{endpoint: {where}, seconds: 1}}}}",
            "algorithm.shaping.options.valid=graded",
        ]
        carried_out = plan(load_config("env", words).algorithm)
        lines = Lines(*[write_call("python", code=program) for program in programs], "Done.")
        shape = shape_of(carried_out.shaping, Lab(tasks=()), 4)
        runner, _ = make_runner(
            Lab(tasks=()), lines, sandbox=sandbox, control=carried_out.control, shape=shape,
            max_turns=8, tool_seconds=30,
        )  # fmt: skip
        return await asyncio.wait_for(runner.run(TASK, episode_id="e"), 60), endpoint.requests


async def test_programs_earn_by_what_they_reach_and_the_policy_is_shown_its_own_output() -> None:
    broken = PROGRAM + "raise OSError('no disk')\n"
    fenced = f"Here it is.\n```python\n{REPORTED}raise OSError('no disk')\n```"
    one, requests = await played(fenced, broken)
    [call] = one.calls
    assert call.arguments == {"code": broken}
    assert "json.loads('[1, 2]')" in requests[0]["messages"][0]["content"]
    assert call.observation.text.startswith("2\n") and "no disk" in call.observation.text
    assert "MARK" not in f"{one.messages} {call.observation.metadata['stdout']}"
    assert one.rewards["marks"] == 3 and one.reward == pytest.approx(-9.7)


async def test_what_a_policy_prints_is_no_mark_where_another_model_prints() -> None:
    cheat = "print('loaded data'); print('wrote submission')\n"
    one, _ = await played(f"```python\n{cheat}print('MARK evaluated')\n```", cheat)
    assert one.rewards["marks"] == 1


async def test_a_program_that_nobody_may_change_earns_no_mark() -> None:
    cheat = "x = 'MARK'\nprint('loaded data'); print('wrote submission')\n"
    one, _ = await played(f"```python\n{cheat}print('MARK evaluated')\n```", cheat)
    assert "wrote submission" in one.calls[0].observation.text and one.rewards["marks"] == 0


@pytest.mark.parametrize("answer", ["No.", "hang", (500, {}, b"")])
async def test_without_an_answer_the_policys_own_program_runs(answer: Any) -> None:
    one, _ = await played(answer, "print(41 + 1)")
    assert one.calls[0].observation.text == "42" and MARKS not in one.calls[0].observation.metadata


async def test_a_model_that_cannot_be_asked_at_all_stops_the_run() -> None:
    with pytest.raises(UsageError, match="401"):
        await played((401, {}, b"no"), "print(1)")


async def test_other_tools_are_called_as_they_are() -> None:
    class Echo(Env):
        @tool
        def say(self, code: str) -> str:
            """Say it."""
            return code

    control = Instrument(endpoint={"url": "http://127.0.0.1:9/v1", "model": "m"})
    lines = Lines(write_call("say", code="x = 1"), "Done.")
    runner, _ = make_runner(Echo(tasks=()), lines, control=control, max_turns=4)
    one = await runner.run(TASK, episode_id="e")
    assert one.calls[0].observation.text == "x = 1"


def test_what_does_not_fit_is_told_before_anything_starts() -> None:
    for options in ("{}", "{endpoint: {url: x, model: m}}", "{endpoint: {url: 'http://x/v1'}}"):
        words = [f"algorithm.rollout={{name: instrument, options: {options}}}"]
        with pytest.raises(ConfigError):
            plan(load_config("env", words).algorithm)
