"""Episodes that begin inside a stored one: the same world, unsampled tokens, and turns of their own alone."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_support import Lines, make_runner, write_call

from agentrl import Env, Task, Trajectory, reward, tool
from agentrl.agent import AgentEnv
from agentrl.errors import ConfigError
from agentrl.rollout.control import StoredStarts, check_control
from agentrl.rollout.started import STARTED, said_in

TASK = Task("Count to three.", id="count")
UP = write_call("up", by=1)


class Counter(Env):
    """Counts up; done at three."""

    def __init__(self, patience: int = 99) -> None:
        super().__init__(tasks=())
        self.patience = patience

    def messages(self, task: Task) -> list[dict[str, Any]]:
        example = [{"role": "user", "content": "Count to one."}, {"role": "assistant", "content": "one"}]
        return [*example, {"role": "user", "content": task.prompt}]

    async def reset(self, task: Task) -> None:
        self.count = 0

    @tool
    def up(self, by: int) -> str:
        """Go up."""
        self.count += by
        return f"at {self.count}"

    async def reply(self, text: str) -> str | None:
        self.patience -= 1
        return "go on" if self.count < 3 and self.patience > 0 else None

    @reward
    def reached(self, episode: Trajectory) -> float:
        return float(self.count == 3)

    @reward(per="turn", weight=0)
    def turn_number(self, episode: Trajectory, turn: Any) -> float:
        return float(turn.index)


async def play(*lines: str, start: list[Any] | None = None, env: Env | None = None) -> Trajectory:
    runner, _ = make_runner(
        env or Counter(), Lines(*lines), control=StoredStarts(), max_turns=6, retries=1, retry_seconds=0.0
    )
    return await runner.run(TASK, episode_id="e", start=start or [])


async def test_what_was_done_before_is_done_again_and_is_not_sampled() -> None:
    whole = await play(UP, "Hm.", UP, UP, "Done.")
    assert whole.reward == 1 and STARTED not in whole.metadata
    said = said_in(whole)
    assert len(said) == 5 and said[0]["tool_calls"], "the opening's example is no turn"
    for place in range(1, 5):
        rest = await play(*[UP, "Hm.", UP, UP, "Done."][place:], start=said[:place])
        assert (rest.status, rest.reward, rest.metadata[STARTED]) == ("finished", 1, place)
        assert rest.messages == whole.messages
        assert [turn.index for turn in rest.turns] == list(range(5 - place))
        assert said_in(rest) == said
        [one], [same] = whole.segments, rest.segments
        assert same.token_ids == one.token_ids and same.prompt_length == one.prompt_length
        began = whole.turns[place].start
        assert not any(same.mask[:began]) and same.mask[began:] == one.mask[began:]
        [row] = rest.samples()
        assert sum(row.mask) == rest.sampled_tokens and len(row.rewards) == len(row.mask)
        assert {turn for turn in row.turns if turn >= 0} == set(range(5 - place))
        assert row.rewards[-1] == 1 or row.rewards[max(i for i, own in enumerate(row.mask) if own)] == 1


async def test_an_environment_that_answers_otherwise_voids_the_episode_and_says_so() -> None:
    said = said_in(await play("Hm.", UP, UP, UP, "Done."))
    one = await play(UP, start=said[:1], env=Counter(patience=1))
    assert one.status == "void" and one.attempts == 2
    assert "first 1 turns of a stored episode ended this one" in one.reason


async def test_a_start_that_leaves_no_room_is_no_start() -> None:
    said = said_in(await play(UP, UP, UP, "Done."))
    runner, _ = make_runner(
        Counter(), Lines(UP), control=StoredStarts(), retries=0, max_trajectory_tokens=40, max_turn_tokens=40
    )
    one = await runner.run(TASK, episode_id="e", start=said[:3])
    assert one.status == "void" and "the token limit" in one.reason


async def test_without_a_start_nothing_changes() -> None:
    runner, _ = make_runner(Counter(), Lines(UP, UP, UP, "Done."), max_turns=6)
    plain, started = await runner.run(TASK, episode_id="e"), await play(UP, UP, UP, "Done.")
    assert (plain.messages, plain.segments, plain.rewards) == (
        started.messages,
        started.segments,
        started.rewards,
    )


def test_an_agent_of_ones_own_is_refused() -> None:
    class Own(AgentEnv):
        def agent(self, task: Task, base_url: str, api_key: str) -> str:
            return "x"

    with pytest.raises(ConfigError, match="has an agent of its own"):
        check_control(StoredStarts(), Own(tasks=()))
