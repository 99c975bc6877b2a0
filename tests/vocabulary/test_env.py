"""Environments: their own tools and rewards, one instance per episode, and environments made of parts."""

from __future__ import annotations

import pytest

from agentrl import DefinitionError, Env, Reward, Task, ToolContext, Trajectory, reward, tool
from agentrl.scoring import components_of


class Shelf(Env):
    """A shelf."""

    prompt = "You keep a shelf."

    async def reset(self, task: Task) -> None:
        self.items = [task.prompt]

    @tool
    async def put(self, item: str) -> list[str]:
        """Put an item on the shelf.

        Args:
            item: what to put.
        """
        self.items.append(item)
        return self.items

    @tool(parallel=True, seconds=3)
    def look(self) -> list[str]:
        """Look at the shelf."""
        return self.items

    @reward
    def size(self, episode: Trajectory) -> float:
        return len(self.items)

    @reward(weight=0.5, name="neat")
    async def tidy(self, episode: Trajectory) -> float:
        return 1.0


class TallShelf(Shelf):
    @tool
    async def climb(self) -> str:
        """Climb."""
        return "up"

    @tool
    async def put(self, item: str, height: int = 1) -> list[str]:
        """Put an item somewhere."""
        self.items.append(f"{item}@{height}")
        return self.items

    @reward(weight=2.0)
    def size(self, episode: Trajectory) -> float:
        return 100.0


class BareShelf(TallShelf):
    climb = None
    tidy = None


EPISODE = Trajectory(Task("cup"), "e")


def names(env: Env) -> list[str]:
    return [made.name for made in env.own_tools()]


def components(env: Env) -> list[Reward]:
    return components_of(env.own_rewards())


def test_names_are_the_class_in_snake_case_unless_given() -> None:
    class Named(Env):
        name = "other"

    assert (Shelf.name, TallShelf.name, Named.name) == ("shelf", "tall_shelf", "other")


def test_tools_and_rewards_come_in_the_order_they_are_written_with_bases_first() -> None:
    assert names(Shelf()) == ["put", "look"]
    assert [made.name for made in components(Shelf())] == ["size", "neat"]
    assert names(TallShelf()) == ["put", "look", "climb"]


def test_a_subclass_overrides_and_removes() -> None:
    schema = TallShelf().own_tools()[0].schema["function"]
    assert schema["description"] == "Put an item somewhere."
    assert list(schema["parameters"]["properties"]) == ["item", "height"]
    assert [made.weight for made in components(TallShelf())] == [2.0, 0.5]
    assert names(BareShelf()) == ["put", "look"]
    assert [made.name for made in components(BareShelf())] == ["size"]


def test_the_schema_of_a_method_leaves_self_out_and_the_decorators_settings_stay() -> None:
    put, look = Shelf().own_tools()
    assert put.schema["function"]["parameters"]["properties"] == {
        "item": {"type": "string", "description": "what to put."}
    }
    assert (look.parallel, look.seconds) == (True, 3)


async def test_tools_and_rewards_are_bound_to_the_instance_of_their_episode() -> None:
    prototype = Shelf()
    one, two = prototype.spawn(), prototype.spawn()
    for env, prompt in ((one, "cup"), (two, "jug")):
        await env.reset(Task(prompt))
    put, look = (made.spawn(ToolContext()) for made in one.own_tools())
    await put.invoke({"item": "pan"})
    assert await look.invoke({}) == ["cup", "pan"]
    assert await two.own_tools()[1].spawn(ToolContext()).invoke({}) == ["jug"]
    assert [await made.score(EPISODE) for made in components(one)] == [2.0, 1.0]
    assert [await made.score(EPISODE) for made in components(two)] == [1.0, 1.0]
    assert not hasattr(prototype, "items")


async def test_decorated_methods_can_be_called_as_methods() -> None:
    env = Shelf()
    await env.reset(Task("cup"))
    assert await env.put("pan") == ["cup", "pan"]
    assert (env.look(), env.size(EPISODE)) == (["cup", "pan"], 2)


async def test_rewards_listed_beside_the_methods_come_last_and_may_be_plain_functions() -> None:
    def exact(episode: Trajectory) -> float:
        return 7.0

    @reward(weight=3.0)
    def weighed(episode: Trajectory) -> float:
        return 1.0

    env = Env(tasks=[Task("?")], rewards=[exact, weighed])
    made = components(env)
    assert [(part.name, part.weight) for part in made] == [("exact", 1.0), ("weighed", 3.0)]
    assert all(isinstance(part, Reward) for part in made)
    assert await made[0].score(EPISODE) == 7.0

    class Both(Shelf):
        rewards = (exact,)

    assert [part.name for part in components(Both())] == ["size", "neat", "exact"]


def test_an_environment_of_parts_keeps_every_eighth_task_for_test() -> None:
    tasks = [Task(str(number)) for number in range(17)]
    env = Env(tasks=iter(tasks))
    test, train = list(env.tasks("test")), list(env.tasks("train"))
    assert test == [tasks[7], tasks[15]]
    assert train == [task for task in tasks if task not in test]
    assert list(env.tasks("train")) == train
    assert list(Env(tasks=tasks[:3]).tasks("test")) == tasks[:3]


def test_an_environment_without_tasks_says_what_to_define() -> None:
    with pytest.raises(DefinitionError, match=r"Environment Shelf has no tasks: define tasks\(split\)"):
        Shelf().tasks("train")

    class Unfinished(Env):
        def __init__(self) -> None:
            pass

    with pytest.raises(DefinitionError, match="Unfinished has no tasks"):
        Unfinished().tasks("train")


def test_the_opening_messages_are_the_prompts() -> None:
    user = {"role": "user", "content": "Hi"}
    assert Env().messages(Task("Hi")) == [user]
    assert Shelf().messages(Task("Hi")) == [{"role": "system", "content": "You keep a shelf."}, user]
    assert Env(prompt="Be brief.").messages(Task("Hi"))[0]["content"] == "Be brief."


async def test_by_default_a_turn_without_calls_ends_the_episode() -> None:
    assert await Env().reply("done") is None
