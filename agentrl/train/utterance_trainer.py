"""The part of our trainers that keeps a critic of utterances beside the policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transfer_queue import KVBatchMeta

from agentrl.chat import Chat
from agentrl.doctor import Row as TrainedRow
from agentrl.train.batch import fetch_rows
from agentrl.train.fresh import Fresh, FreshActions, put_fresh
from agentrl.train.policy import VerlPolicy
from agentrl.train.stored import columns, sessions
from agentrl.train.swarm_trainer import SwarmTrainer
from agentrl.train.utterance import Row, Span, Utterance, UtteranceCritic, utterances

FIELDS = ("prompts", "responses", "response_mask", "rm_scores", "turn_ids")

Grid = np.ndarray[Any, Any]


@dataclass
class Lesson:
    """What a step teaches where actions are drawn anew.

    Args:
        turns: the turns that the critic's updates are made of.
        actions: what the policy says in their states now. ``[A]`` each
        states: other turns, behind which the policy learns.
        fresh: what it says there.
        keys: of the rows that these have become.
    """

    turns: list[Utterance]
    actions: list[torch.Tensor]
    states: list[Utterance]
    fresh: list[Fresh]
    keys: list[str]


class UtteranceTrainer(SwarmTrainer):
    """Has a critic learn from each step's turns, and asks it for advantages.

    With ``resample`` the step's own rows teach the critic alone. The policy is trained on rows of its own:
    what it says in states that are drawn from all that were kept. They are drawn while the engines are awake.
    """

    get_llm_client: Callable[[], Any]
    _lesson: Lesson | None = None
    _episode_rows: list[TrainedRow] | None = None
    """Of a step whose rows gave way, what there is to tell of its episodes."""

    @cached_property
    def _turn_critic(self) -> UtteranceCritic | None:
        how = self._plan.utterance
        return None if how is None else UtteranceCritic(how, self._settings.seed)

    @cached_property
    def _actions(self) -> FreshActions:
        limits = self._settings.rollout
        seed = self._settings.seed if limits.seeded else None
        policy = VerlPolicy(self.get_llm_client(), limits.response_seconds)
        return FreshActions(policy, Chat(self.tokenizer, limits.renderer), limits, seed)

    def on_sample_end(self) -> None:
        """After the step's episodes, before the engines may sleep."""
        critic = self._turn_critic
        if critic is not None and critic.how.resample and self.replay_buffer.sampled.keys:
            critic.keep(self._turns(self.replay_buffer.sampled)[0])
            self._lesson = self._drawn(critic)
        super().on_sample_end()

    def _drawn(self, critic: UtteranceCritic) -> Lesson:
        """Draw turns for the critic's updates and, once it has warmed up, as many as a step's episodes."""
        algorithm = self._settings.algorithm
        learns = self.global_steps > critic.how.warmup
        turns = critic.lesson()
        states = critic.draw(algorithm.tasks_per_step * algorithm.group_size if learns else 0)
        fresh = self._actions.draw([turn.state for turn in [*turns, *states]], self.global_steps)
        of_critic = [each for each in fresh if each.place < len(turns)]
        of_policy = fresh[len(of_critic) :]
        return Lesson(
            [turns[each.place] for each in of_critic],
            [each.action for each in of_critic],
            [states[each.place - len(turns)] for each in of_policy],
            of_policy,
            [],
        )

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], **how: Any) -> KVBatchMeta:
        self._episode_rows = None
        if self._lesson is not None and self._lesson.fresh:
            self._episode_rows = fetch_rows(batch, tokens=[])
            batch = put_fresh(batch, self._lesson.fresh, self.global_steps)
            self._lesson.keys = list(batch.keys)
        balanced: KVBatchMeta = super()._balance_batch(batch, metrics, **how)
        return balanced

    def _turns(self, batch: KVBatchMeta) -> tuple[list[Utterance], list[tuple[str, Span]], dict[str, int]]:
        """The turns of a step's episodes; where each is, by its row's key; and how long these rows are."""
        assert self._turn_critic is not None
        how = self._turn_critic.how
        played = sessions(batch)
        keys = [key for session in played for key in session.keys]
        read = dict(zip(keys, columns(batch, keys, FIELDS), strict=True))
        turns: list[Utterance] = []
        owners: list[tuple[str, Span]] = []
        for session in played:
            rows = [Row(*(read[key][name] for name in FIELDS)) for key in session.keys]
            found, spans = utterances(rows, None if how.resample else how.context)
            turns += found
            owners += [(session.keys[span.row], span) for span in spans]
        return turns, owners, {key: len(row["response_mask"]) for key, row in read.items()}

    def _turn_advantages(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> dict[str, Grid] | None:
        """Of each row's tokens, by its key, the advantage of their turn; ``None`` without such a critic."""
        critic, lesson = self._turn_critic, self._lesson
        if critic is None:
            return None
        self._lesson = None
        if lesson is not None:
            metrics["critic/vf_loss"] = critic.learn(lesson.turns, lesson.actions)
        if lesson is not None and lesson.fresh:
            return _fresh_advantages(critic, lesson)
        turns, owners, lengths = self._turns(batch)
        if lesson is None:
            critic.keep(turns)
            metrics["critic/vf_loss"] = critic.learn(critic.lesson())
        grids = {key: np.zeros(length) for key, length in lengths.items()}
        for (key, span), value in zip(owners, critic.advantages(turns).tolist(), strict=True):
            grids[key][span.places] = value
        return grids


def _fresh_advantages(critic: UtteranceCritic, lesson: Lesson) -> dict[str, Grid]:
    """What the critic, having learned, says of actions that nobody played."""
    nothing = torch.empty(0, dtype=torch.int32)
    said = [
        Utterance(turn.state, fresh.action, 0.0, True, nothing)
        for turn, fresh in zip(lesson.states, lesson.fresh, strict=True)
    ]
    values = critic.advantages(said).tolist()
    return {
        key: np.full(len(turn.action), value)
        for key, turn, value in zip(lesson.keys, said, values, strict=True)
    }
