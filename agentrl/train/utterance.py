"""ArCHer's critic of utterances: two Q and two V over turns, learned off-policy beside the policy.

It reads token ids, not the policy's hidden states: a small transformer of its own, trained from scratch, in
the trainer's process and on its CPU. The paper trains a RoBERTa.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from agentrl.algorithms.utterance_critic import advantage, critic_loss, polyak, q_target
from agentrl.train.utterance_settings import UtteranceSettings

Pair = tuple[torch.Tensor, torch.Tensor]

FILE = "utterance_critic.pt"
"""In a checkpoint's folder."""

PADDING, START = 0, 1
"""Ids of the critic's own: behind a sequence, and before every one."""


@dataclass(frozen=True)
class Utterance:
    """One turn.

    Args:
        state: token ids before it, the newest of them. ``[S]``
        action: those that were sampled. ``[A]``
        reward: of the turn; at the last turn the episode's with it.
        done: whether it was the last.
        following: token ids before the next turn; empty where it was the last. ``[F]``
    """

    state: torch.Tensor
    action: torch.Tensor
    reward: float
    done: bool
    following: torch.Tensor


class _Values(nn.Module):
    """One encoder, and a head for each of Q1, Q2, V1 and V2."""

    def __init__(self, how: UtteranceSettings) -> None:
        super().__init__()
        self.tokens = nn.Embedding(how.buckets, how.width, padding_idx=PADDING)
        self.places = nn.Embedding(how.context + 1, how.width)
        self.layer = nn.TransformerEncoderLayer(
            how.width, 4, 2 * how.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.q = nn.ModuleList(_head(2 * how.width) for _ in range(2))
        self.v = nn.ModuleList(_head(how.width) for _ in range(2))

    def encoded(self, ids: torch.Tensor) -> torch.Tensor:
        """``[B, L]`` to ``[B, width]``: the mean over what is no padding."""
        there = ids != PADDING
        embedded = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        read = self.layer(embedded, src_key_padding_mask=~there)
        return (read * there[..., None]).sum(1) / there.sum(1, keepdim=True)

    def value(self, state: torch.Tensor) -> Pair:
        """V1 and V2 of encoded states. ``[B, width]`` to ``[B]`` each"""
        return self.v[0](state).squeeze(-1), self.v[1](state).squeeze(-1)

    def quality(self, state: torch.Tensor, action: torch.Tensor) -> Pair:
        """Q1 and Q2 of encoded states and actions. ``[B]`` each"""
        both = torch.cat([state, action], dim=-1)
        return self.q[0](both).squeeze(-1), self.q[1](both).squeeze(-1)


def _head(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1))


class UtteranceCritic:
    """The networks, their slow copies, and the turns that they learn from.

    Args:
        how: see :class:`UtteranceSettings`.
        seed: of the first weights and of what is drawn from the turns kept.
    """

    def __init__(self, how: UtteranceSettings, seed: int = 0) -> None:
        self.how = how
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._online, self._target = _Values(how), _Values(how)
        self._target.load_state_dict(self._online.state_dict())
        self._optimizer = torch.optim.Adam(self._online.parameters(), lr=how.learning_rate)
        self._kept: deque[Utterance] = deque(maxlen=how.capacity)
        self._rng = Random(seed)

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, turns: Sequence[Utterance]) -> None:
        """Keep a step's turns; the oldest of all give way."""
        self._kept.extend(turns)

    def draw(self, number: int) -> list[Utterance]:
        """So many of the turns that are kept, each of them at random."""
        return [self._kept[self._rng.randrange(len(self._kept))] for _ in range(number)]

    def lesson(self) -> list[Utterance]:
        """The turns that a step's updates are made of."""
        return self.draw(self.how.epochs * self.how.batch_size)

    def learn(self, turns: Sequence[Utterance], actions: Sequence[torch.Tensor] | None = None) -> float:
        """Take an update on each ``batch_size`` of the turns.

        Args:
            turns: as drawn.
            actions: what the policy says in their states now, by which V is judged; by default what was said.

        Returns:
            The mean of the updates' losses.
        """
        actions = [turn.action for turn in turns] if actions is None else actions
        losses, size = [], self.how.batch_size
        for start in range(0, len(turns), size):
            loss = self.loss(turns[start : start + size], actions[start : start + size])
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._online.parameters(), self.how.grad_clip)
            self._optimizer.step()
            polyak(self._target.parameters(), self._online.parameters(), rate=self.how.tau)
            losses.append(loss.item())
        return float(np.mean(losses))

    def loss(self, turns: Sequence[Utterance], actions: Sequence[torch.Tensor]) -> torch.Tensor:
        """The four squared errors, to targets of the slow copies; V's are of ``actions``."""
        state, action = self._padded([t.state for t in turns]), self._padded([t.action for t in turns])
        with torch.no_grad():
            slow = self._target
            next_v = slow.value(slow.encoded(self._padded([turn.following for turn in turns])))
            judged = slow.quality(slow.encoded(state), slow.encoded(self._padded(actions)))
        rewards = torch.tensor([turn.reward for turn in turns])
        done = torch.tensor([turn.done for turn in turns])
        first, second = (q_target(rewards, done, v, discount=self.how.gamma) for v in next_v)
        before = self._online.encoded(state)
        q = self._online.quality(before, self._online.encoded(action))
        return critic_loss(q, self._online.value(before), (first, second), judged)

    def values(self, turns: Sequence[Utterance]) -> tuple[Pair, Pair]:
        """Q1 and Q2, V1 and V2 of turns. ``[K]`` each"""
        with torch.no_grad():
            before = self._online.encoded(self._padded([turn.state for turn in turns]))
            after = self._online.encoded(self._padded([turn.action for turn in turns]))
            return self._online.quality(before, after), self._online.value(before)

    def advantages(self, turns: Sequence[Utterance]) -> torch.Tensor:
        """``min(Q1, Q2) - min(V1, V2)``. ``[K]``"""
        parts = [turns[i : i + 256] for i in range(0, len(turns), 256)]
        return torch.cat([advantage(*self.values(part)) for part in parts])

    def _padded(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        """Ids as rows of the embedding, each sequence behind a start. ``[B, L]``"""
        start = torch.tensor([START])
        buckets = self.how.buckets - 2
        newest = [sequence[-self.how.context :].long() for sequence in sequences]
        rows = [torch.cat([start, 2 + sequence % buckets]) for sequence in newest]
        return pad_sequence(rows, batch_first=True, padding_value=PADDING)

    def save(self, folder: Path) -> None:
        """Write weights, optimizer, the turns that are kept and what draws them into a checkpoint's folder.

        Raises:
            OSError: it could not be written.
        """
        kept = list(self._kept)
        state = {
            "online": self._online.state_dict(),
            "target": self._target.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "tokens": [[turn.state, turn.action, turn.following] for turn in kept],
            "told": [[turn.reward, turn.done] for turn in kept],
            "rng": self._rng.getstate(),
        }
        torch.save(state, folder / FILE)

    def load(self, folder: Path) -> None:
        """What :meth:`save` wrote; a checkpoint that has none leaves everything as it is."""
        if not (folder / FILE).is_file():
            return
        # Python's random state is plain data beside tensors.
        state = torch.load(folder / FILE, weights_only=False)
        self._online.load_state_dict(state["online"])
        self._target.load_state_dict(state["target"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._kept.extend(
            Utterance(before, action, reward, done, following)
            for (before, action, following), (reward, done) in zip(
                state["tokens"], state["told"], strict=True
            )
        )
        self._rng.setstate(state["rng"])


@dataclass(frozen=True)
class Row:
    """A training row. ``[P]`` prompt, ``[R]`` response tokens."""

    prompt: np.ndarray[Any, Any]
    response: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    rewards: np.ndarray[Any, Any]
    turns: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Span:
    """A turn of an episode's rows: which row, and which of its response tokens."""

    row: int
    places: np.ndarray[Any, Any]


def utterances(rows: Sequence[Row], context: int | None) -> tuple[list[Utterance], list[Span]]:
    """An episode's turns, in order.

    Args:
        rows: of the episode, in order.
        context: the newest tokens that are kept of a state or an action; ``None``: all.
    """
    spans = [
        Span(number, np.flatnonzero((row.mask > 0) & (row.turns == turn)))
        for number, row in enumerate(rows)
        for turn in dict.fromkeys(row.turns[row.mask > 0].tolist())
    ]
    states = [_before(rows[span.row], int(span.places[0]), context) for span in spans]
    found = []
    for place, span in enumerate(spans):
        row, last = rows[span.row], place == len(spans) - 1
        found.append(
            Utterance(
                states[place],
                _ids(row.response[span.places], context),
                float(row.rewards[span.places].sum()),
                last,
                _ids(np.empty(0, dtype=np.int32), context) if last else states[place + 1],
            )
        )
    return found, spans


def _before(row: Row, start: int, context: int | None) -> torch.Tensor:
    return _ids(np.concatenate([row.prompt, row.response[:start]]), context)


def _ids(ids: np.ndarray[Any, Any], context: int | None) -> torch.Tensor:
    return torch.from_numpy(ids[-(context or len(ids)) :].astype(np.int32))
