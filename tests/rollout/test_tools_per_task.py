"""Which tools an episode has: several, of which the model chooses, or a task's own few of them."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_support import Lines, make_runner, write_call

from agentrl import DefinitionError, Env, Task, Tool, ToolSet, tool

opened: list[str] = []


class Ask(Tool):
    """Asks."""

    async def open(self) -> None:
        opened.append(self.name)

    async def call(self) -> str:
        """Ask."""
        return "asked"


class Look(Ask):
    """Looks."""

    async def call(self) -> str:
        """Look."""
        return "looked"


class Both(ToolSet):
    def tools(self) -> list[Tool]:
        return [Ask(), Look()]


class Room(Env):
    tools = (Both(),)

    def tasks(self, split: str) -> list[Task]:
        return [Task("Go.")]

    @tool
    def knock(self) -> str:
        """Knock."""
        return "knocked"


class Wary(Room):
    """Decides by the task."""

    def tools_for(self, task: Task) -> list[str]:
        return ["knock"] if task.prompt == "Quietly." else ["ask", "knock"]


async def play(env: Env, task: Task, *lines: str) -> tuple[list[tuple[str, str]], list[Any]]:
    """How the calls went, and the tools that the model was told of."""
    told: list[Any] = []

    class Watching(Lines):
        def begin(self, episode: str, scene: Any) -> None:
            told.extend(scene.tools)

        def end(self, episode: str) -> None:
            pass

    opened.clear()
    runner, _ = make_runner(env, Watching(*lines))
    episode = await runner.run(task, episode_id="e")
    calls = [(call.status, call.observation.text) for call in episode.calls]
    return calls, [schema["function"]["name"] for schema in told]


async def test_the_model_chooses_among_all() -> None:
    lines = [write_call("look"), write_call("knock"), write_call("ask"), "Done."]
    calls, told = await play(Room(), Task("Go."), *lines)
    assert calls == [("ok", "looked"), ("ok", "knocked"), ("ok", "asked")]
    assert told == ["ask", "look", "knock"] and opened == ["ask", "look"]


@pytest.mark.parametrize(
    ("env", "task", "expected"),
    [
        (Room(), Task("Go.", metadata={"tools": ["knock", "look"]}), ["look", "knock"]),
        (Room(), Task("Go.", metadata={"tools": []}), []),
        (Wary(), Task("Go."), ["ask", "knock"]),
        (Wary(), Task("Quietly."), ["knock"]),
    ],
)
async def test_a_task_limits_what_is_told_called_and_opened(
    env: Env, task: Task, expected: list[str]
) -> None:
    names = ["ask", "look", "knock"]
    calls, told = await play(env, task, *map(write_call, names), "Done.")
    assert told == expected and opened == [name for name in expected if name != "knock"]
    assert [status for status, _ in calls] == ["ok" if name in expected else "unknown" for name in names]
    refused = [text for status, text in calls if status == "unknown"]
    assert all("There is no tool" in text for text in refused)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["lok"], r"limits task t to tools of which it does not have 'lok'\. Did you mean 'look'"),
        ("look", "give a list of names"),
        ([3], "give a list of names"),
        (7, "give a list of names"),
    ],
)
async def test_a_limit_that_makes_no_sense_stops_the_run(wanted: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        await play(Room(), Task("Go.", id="t", metadata={"tools": wanted}), "Done.")
