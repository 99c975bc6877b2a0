"""Fresh actions: what the policy says now in states that were visited before, and training rows made of it.

ArCHer judges V by them, and trains the policy on them alone: a state's action is drawn anew each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from agentrl.chat import Chat
from agentrl.config import Rollout
from agentrl.errors import EngineError, InfrastructureError
from agentrl.rollout.policy import Sampling
from agentrl.rollout.seeds import derive_seed
from agentrl.task import Task
from agentrl.train.agent_loop import to_outputs
from agentrl.train.policy import LedgerEntry, VerlPolicy
from agentrl.train.stored import changed, read_row
from agentrl.train.summary import summary_of, usage_of
from agentrl.trajectory import Segment, Trajectory, Turn


@dataclass(frozen=True)
class Fresh:
    """An action that nobody played.

    Args:
        place: which of the states that were asked about it belongs to.
        entry: what the engine was given and what it drew.
    """

    place: int
    entry: LedgerEntry

    @property
    def action(self) -> torch.Tensor:
        """Its token ids. ``[A]``"""
        return torch.tensor(self.entry.token_ids, dtype=torch.int32)


class FreshActions:
    """Draws actions of the present policy; any number at once.

    Args:
        policy: what is sampled from.
        chat: the model's chat format, which says where a turn ends.
        limits: limits and sampling of episodes.
        seed: makes the draws repeatable; ``None`` draws freely.
    """

    def __init__(self, policy: VerlPolicy, chat: Chat, limits: Rollout, seed: int | None) -> None:
        self._policy, self._limits, self._seed = policy, limits, seed
        self._sampling = Sampling(
            temperature=limits.temperature,
            top_p=limits.top_p,
            stop_token_ids=tuple(chat.stop_token_ids),
            stop_strings=tuple(chat.stop_strings),
        )

    def draw(self, states: Sequence[torch.Tensor], step: int) -> list[Fresh]:
        """One action for each state; states that the engine failed on have none.

        Args:
            states: token ids. ``[S]`` each
            step: for names and seeds.

        Raises:
            InfrastructureError: the engine failed on every one of them.
        """
        found, problems = asyncio.run(self._all(states, step))
        if problems and not found:
            raise InfrastructureError(
                f"The inference engine drew none of {len(states)} fresh actions of step {step}: {problems[0]}"
            )
        return found

    async def _all(self, states: Sequence[torch.Tensor], step: int) -> tuple[list[Fresh], list[EngineError]]:
        places = asyncio.Semaphore(self._limits.concurrency)
        drawn = await asyncio.gather(
            *(self._one(place, state.tolist(), step, places) for place, state in enumerate(states))
        )
        problems = [each for each in drawn if isinstance(each, EngineError)]
        return [each for each in drawn if isinstance(each, Fresh)], problems

    async def _one(
        self, place: int, state: list[int], step: int, places: asyncio.Semaphore
    ) -> Fresh | EngineError:
        name, limits = f"fresh{step}x{place}", self._limits
        # What an episode has at the most; a late state had less room when it was played.
        room = limits.max_prompt_tokens + limits.max_trajectory_tokens - len(state)
        seed = None if self._seed is None else derive_seed(self._seed, "fresh", step, place)
        sampling = Sampling(
            self._sampling.temperature,
            self._sampling.top_p,
            min(limits.max_turn_tokens, room),
            self._sampling.stop_token_ids,
            self._sampling.stop_strings,
            seed,
        )
        async with places:
            try:
                (await self._policy.generate(state, sampling, episode=name)).checked(sampling)
            except EngineError as problem:
                return problem
            finally:
                entries = self._policy.take_ledger(name)
        return Fresh(place, entries[-1])


def put_fresh(batch: KVBatchMeta, drawn: Sequence[Fresh], step: int) -> KVBatchMeta:
    """Put fresh actions into TransferQueue, a row each, in the place of a step's rows, which are cleared.

    Args:
        batch: the step's rows.
        drawn: what is trained on instead.
        step: for the rows' names.
    """
    # What a row is made of depends on verl and the environment: these are like the step's own.
    template, tag = read_row(batch, batch.keys[0]), batch.tags[0]
    rows, tags, keys = [], [], []
    for number, each in enumerate(drawn):
        group = f"fresh{step}x{number}"
        row = template | _columns(each, group) | {"uid": group, "session_id": 0}
        rows.append(row)
        keys.append(f"{group}_0_0")
        lengths = {"prompt_len": len(row["prompts"]), "response_len": len(row["responses"])}
        tags.append({**tag, **lengths, "seq_len": len(row["input_ids"]), "is_padding": False})
    tq.kv_batch_put(
        keys=keys, partition_id=batch.partition_id, fields=list_of_dict_to_tensordict(rows), tags=tags
    )
    tq.kv_clear(keys=list(batch.keys), partition_id=batch.partition_id)
    return changed(batch, keys, tags)


def _columns(drawn: Fresh, name: str) -> dict[str, Any]:
    """The columns of a row whose prompt is the state and whose response is the action, worth nothing yet."""
    entry = drawn.entry
    segment = Segment(list(entry.prompt_ids))
    span = segment.add_sampled(list(entry.token_ids), list(entry.logprobs), list(entry.versions))
    trajectory = Trajectory(
        Task(""), name, group=name, segments=[segment], turns=[Turn(0, 0, *span)], status="finished"
    )
    trajectory.reward = 0.0
    summary = {**summary_of(trajectory), **usage_of(trajectory, [entry]), "success": False, "asked": 1}
    (output,) = to_outputs(trajectory, summary, [entry], carry=False)
    columns = output.as_dict()
    ids = torch.cat([columns["prompts"], columns["responses"]])
    return columns | {
        "input_ids": ids,
        "position_ids": torch.arange(len(ids)),
        "loss_mask": columns["response_mask"],
    }
