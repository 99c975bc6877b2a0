"""A step's rows as arrays, and their turns and tokens as flat tables.

Legend: ``N`` rows, ``T`` response tokens of a row (padded), ``S`` sampled tokens of all rows, ``K`` turns,
``E`` episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.groups import Bools, Ints, dense
from agentrl.algorithms.scan import Floats


@dataclass(frozen=True)
class Batch:
    """Rows of one training step.

    Args:
        mask: whether a token was sampled and counts. ``[N, T]``
        rewards: reward per position; what lies on tokens that do not count is ignored. ``[N, T]``
        turns: index of the turn that sampled a token. ``[N, T]``
        episodes: which episode a row belongs to: any integers. ``[N]``
        groups: which task's group a row belongs to: any integers. ``[N]``
        order: a row's place among those of its episode. ``[N]``
        values: a critic's value before each token. ``[N, T]``
        match: whether a token's turn did what the expert did; without it, every turn did. ``[N, T]``
        turn_advantages: what a critic of utterances says of a token's turn. ``[N, T]``
    """

    mask: Bools
    rewards: npt.NDArray[np.floating]
    turns: npt.NDArray[np.integer]
    episodes: npt.NDArray[np.integer]
    groups: npt.NDArray[np.integer]
    order: npt.NDArray[np.integer]
    values: npt.NDArray[np.floating] | None = None
    match: Bools | None = None
    turn_advantages: npt.NDArray[np.floating] | None = None

    @classmethod
    def of(
        cls,
        mask: npt.ArrayLike,
        rewards: npt.ArrayLike,
        groups: npt.ArrayLike,
        *,
        turns: npt.ArrayLike | None = None,
        episodes: Sequence[int] | None = None,
        order: Sequence[int] | None = None,
        values: npt.ArrayLike | None = None,
        match: npt.ArrayLike | None = None,
    ) -> Batch:
        """A batch with what is usual for what is left out: one episode per row, one turn per episode."""
        taken = np.asarray(mask, dtype=bool)
        rows = len(taken)
        return cls(
            mask=taken,
            rewards=np.asarray(rewards, dtype=np.float64),
            turns=np.zeros(taken.shape, np.int64) if turns is None else np.asarray(turns),
            episodes=np.arange(rows) if episodes is None else np.asarray(episodes),
            groups=np.asarray(groups),
            order=np.zeros(rows, np.int64) if order is None else np.asarray(order),
            values=None if values is None else np.asarray(values, dtype=np.float64),
            match=None if match is None else np.asarray(match, dtype=bool),
        )

    @cached_property
    def tokens(self) -> Tokens:
        """The sampled tokens, in the order in which they were sampled."""
        return Tokens(self)


class Tokens:
    """The sampled tokens of a batch: flat, episode by episode, in order.

    Attributes:
        row, column: where each stands in the batch. ``[S]``
        episode: number of its episode, from 0 on. ``[S]``
        turn: number of its turn among all turns, from 0 on. ``[S]``
        reward: ``[S]``
        starts: the first token of each turn. ``[K]``
        turn_episode, turn_group: ``[K]``
        turn_step: a turn's place in its episode, from 0 on. ``[K]``
        turn_reward, turn_match: ``[K]``
        turn_advantage: what a critic of utterances says, if there is one. ``[K]``
        episode_group: ``[E]``
        episode_reward: ``[E]``
    """

    def __init__(self, batch: Batch) -> None:
        sorting = np.lexsort((batch.order, batch.episodes))
        along, self.column = np.nonzero(batch.mask[sorting])
        self.row: Ints = sorting[along]
        self.shape = batch.mask.shape
        owner = np.asarray(batch.episodes)[self.row]  # in ascending order, so a change is a new episode
        turn_id = np.asarray(batch.turns)[self.row, self.column]
        new_episode = np.ones(len(self.row), dtype=bool)
        new_episode[1:] = owner[1:] != owner[:-1]
        self.episode: Ints = np.cumsum(new_episode) - 1
        new_turn = new_episode.copy()
        new_turn[1:] |= turn_id[1:] != turn_id[:-1]
        self.turn: Ints = np.cumsum(new_turn) - 1
        self.starts: Ints = np.flatnonzero(new_turn)
        self.reward = np.asarray(batch.rewards, dtype=np.float64)[self.row, self.column]
        self.value = None if batch.values is None else np.asarray(batch.values, float)[self.row, self.column]
        group = dense(np.asarray(batch.groups))
        self.group: Ints = group[self.row]
        self.turn_episode: Ints = self.episode[self.starts]
        self.turn_group: Ints = self.group[self.starts]
        firsts = np.flatnonzero(new_episode)
        self.turn_step: Ints = np.arange(len(self.starts)) - self.turn[firsts][self.turn_episode]
        self.turn_reward = self.per_turn(self.reward)
        self.turn_match: Bools = (
            np.ones(len(self.starts), dtype=bool)
            if batch.match is None
            else batch.match[self.row, self.column][self.starts]
        )
        judged = batch.turn_advantages
        self.turn_advantage = (
            None if judged is None else np.asarray(judged, float)[self.row, self.column][self.starts]
        )
        self.episode_group: Ints = self.group[firsts]
        self.episode_firsts: Ints = firsts
        self.episode_reward = np.bincount(self.episode, weights=self.reward, minlength=len(firsts))

    def per_turn(self, values: npt.ArrayLike) -> Floats:
        """The sum over each turn's tokens. ``[S]`` to ``[K]``"""
        numbers = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(self.turn, weights=numbers, minlength=len(self.starts)), float)

    def turn_lengths(self) -> Ints:
        """How many tokens each turn has. ``[K]``"""
        return np.bincount(self.turn, minlength=len(self.starts)).astype(np.int64)

    def continues(self) -> Floats:
        """1 where the same episode goes on with the next token, else 0. ``[S]``"""
        return _same_as_next(self.episode)

    def turn_continues(self) -> Floats:
        """1 where the same episode goes on with the next turn, else 0. ``[K]``"""
        return _same_as_next(self.turn_episode)

    def placed(self, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Numbers of tokens where the tokens stand, 0 elsewhere. ``[S]`` to ``[N, T]``"""
        grid = np.zeros(self.shape, dtype=np.float32)
        grid[self.row, self.column] = values
        return grid


def _same_as_next(owner: Ints) -> Floats:
    same = np.zeros(len(owner), dtype=np.float64)
    same[:-1] = owner[1:] == owner[:-1]
    return same
