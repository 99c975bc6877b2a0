"""Episodes judged as an algorithm shapes their rewards, and steps of the trainer on them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from replay_support import Lab
from transfer_queue import KVBatchMeta

from agentrl import Env, Segment, Task, Trajectory, Turn, reward
from agentrl.config import load_config
from agentrl.rollout import succeeded
from agentrl.scoring import score_episode, score_group
from agentrl.train.agent_loop import to_outputs
from agentrl.train.algorithm import plan
from agentrl.train.shaping import shape_of
from agentrl.train.summary import summary_of
from agentrl.trajectory import Call


class Shop(Env):
    """Outcome and bonuses as the task says them."""

    success = "outcome"

    @reward
    def outcome(self, episode: Trajectory) -> float:
        return float(episode.task.metadata["outcome"])

    @reward(per="turn")
    def step(self, episode: Trajectory, turn: Turn) -> float:
        return float(episode.task.metadata.get("steps", [0.0] * 99)[turn.index])


def episode(outcome: float, steps: Sequence[float] = (0.0,), *, calls: int = 0, **more: Any) -> Trajectory:
    """One turn of a token for each of the steps; the first ``calls`` of them call."""
    segment = Segment([1, 2])
    paid = {"outcome": outcome, "steps": [*steps, *[0.0] * calls]}
    made = Trajectory(Task("?", metadata=paid), "e", segments=[segment], status="finished")
    for index in range(max(len(steps), calls)):
        start, end = segment.add_sampled([9], [-1.0], [0])
        turn = Turn(index, 0, start, end, text="x")
        turn.calls = [Call("look", {}, f"{index}")] if index < calls else []
        made.turns.append(turn)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def judged(
    episodes: Sequence[Trajectory], *words: str, env: Env | None = None, steps: int = 40
) -> list[float]:
    """The rewards that lie on the episodes' rows."""
    env = env or Shop()
    shape = shape_of(plan(load_config("env", list(words)).algorithm).shaping, env, steps)
    assert shape is not None

    async def judge() -> None:
        terms = env.own_rewards()
        shaped = shape(terms)
        for one in episodes:
            await score_episode(one, terms, shaped)
        if any(component.per == "group" for term in shaped for component in term.components()):
            await score_group(episodes, terms, shaped)

    asyncio.run(judge())
    rows = [to_outputs(one, {"success": succeeded(env, one)}, [], carry=True) for one in episodes]
    return [sum(sum(row.token_rewards) for row in own) for own in rows]


def step(
    lab: Lab,
    groups: Mapping[str, Sequence[Trajectory]],
    *,
    values: float | Mapping[str, Sequence[float]] = 0.0,
) -> dict[str, dict[str, list[float]]]:
    """A step of judged episodes by task up to its loss; the columns of every row, by its key.

    Args:
        lab: the trainer.
        groups: by task.
        values: a critic's, of all tokens alike or by the row's key.
    """
    made, keys = lab.trainer, list[str]()
    for place, (task, members) in enumerate(groups.items()):
        for number, one in enumerate(members):
            usage = {
                "versions": {"0": one.sampled_tokens},
                "interrupted": 0,
                "prompt_tokens": 0,
                "cached_tokens": 0,
                "row_tokens": 0,
            }
            summary = {**summary_of(one), **usage, "success": False, "asked": len(members)}
            outputs = to_outputs(one, summary, [], carry=made._plan.carries_rewards)
            for index, output in enumerate(outputs):
                key = f"g{made.global_steps}x{place}_{number}_{index}"
                keys.append(key)
                lab._put(key, output, task, number)
                row = lab.queue.rows[key]
                found = values if isinstance(values, float) else values[key]
                row["values"] = torch.ones(len(row["responses"])) * torch.tensor(found)
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=[lab.queue.tags[key] for key in keys])
    batch = made._compute_old_log_prob(batch, {})
    batch = made._compute_advantage(batch, {})
    made._update_actor(batch, {})
    made.global_steps += 1
    wanted = ("rm_scores", "advantages", "returns", "loss_weights", "kl_weights", "loss_shares")
    return {
        key: {name: lab.queue.rows[key][name].tolist() for name in wanted if name in lab.queue.rows[key]}
        for key in keys
    }
