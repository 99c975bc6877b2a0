"""A progress estimator trained beside the policy: its contributions become rewards of turns (SPA-RL)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transfer_queue import KVBatchMeta

from agentrl.algorithms.progress import attribution_loss, fit
from agentrl.doctor import Row
from agentrl.train.progress import Progress
from agentrl.train.stored import Session, columns, put_column, sessions

FILE = "progress.pt"
"""In a checkpoint's folder."""

FIELDS = ("prompts", "responses", "response_mask", "turn_ids", "rm_scores")

OTHERS = 3
"""Features of a turn beside counts of tokens."""

Features = npt.NDArray[np.float64]


class Estimator(torch.nn.Module):
    """Features of turns to their contributions: ``[N, T, F]`` to ``[N, T]``. Begins with 0 for all.

    In the paper it is a language model with a value head.
    """

    def __init__(self, features: int, hidden: int, seed: int) -> None:
        super().__init__()
        self.inner, self.head = torch.nn.Linear(features, hidden), torch.nn.Linear(hidden, 1)
        drawn = torch.Generator().manual_seed(seed)
        torch.nn.init.xavier_uniform_(self.inner.weight, generator=drawn)
        for parameter in (self.inner.bias, self.head.weight, self.head.bias):
            torch.nn.init.zeros_(parameter)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The contributions."""
        contributions: torch.Tensor = self.head(torch.tanh(self.inner(features))).squeeze(-1)
        return contributions


class Attribution:
    """Trains the estimator on the episodes of each step, and rewards their turns by it.

    Args:
        how: its settings.
        seed: decides how it begins.
        carry: put what an episode's earlier rows would get on the last one's end, for an advantage that
            looks only there.
    """

    def __init__(self, how: Progress, *, seed: int, carry: bool) -> None:
        self._how, self._carry = how, carry
        self._model = Estimator(3 * how.buckets + OTHERS, how.hidden, seed)
        self._window: deque[tuple[Features, float]] = deque(maxlen=how.window)
        self._added: dict[str, float] = {}
        self._errors: list[float] = []

    def add(self, batch: KVBatchMeta) -> None:
        """Learn from a step's episodes, then add what each turn contributed to the rewards of their rows."""
        played = sessions(batch)
        if not played:
            return
        keys = [key for session in played for key in session.keys]
        rows = dict(zip(keys, columns(batch, keys, FIELDS), strict=True))
        features = [
            turn_features([rows[key] for key in session.keys], self._how.buckets) for session in played
        ]
        new = [(turns, _outcome(session)) for turns, session in zip(features, played, strict=True)]
        before = [self._contributions(turns) for turns in features]
        self._errors += [
            float(attribution_loss(found[None], np.ones((1, len(found))), np.array([outcome])))
            for found, (_, outcome) in zip(before, new, strict=True)
        ]
        self._window.extend(new)
        fit(self._model, list(self._window), epochs=self._how.epochs, rate=self._how.rate)
        scores: dict[str, torch.Tensor] = {}
        for session, turns in zip(played, features, strict=True):
            rewards = self._how.alpha * self._contributions(turns)
            own = placed(rewards, [rows[key] for key in session.keys], carry=self._carry)
            scores |= {key: torch.from_numpy(row) for key, row in zip(session.keys, own, strict=True)}
            self._added[session.name] = float(rewards.sum())
        put_column(batch, "rm_scores", scores)

    def _contributions(self, turns: Features) -> Features:
        found = self._model(torch.as_tensor(turns, dtype=torch.float32)).detach()
        return np.asarray(found.numpy(), dtype=np.float64)

    def told(self, rows: Sequence[Row]) -> list[Row]:
        """The step's rows, whose summaries now count what was added to their rewards."""
        return [
            replace(row, episode=_with(row.episode, self._added[row.session]))
            if row.session in self._added
            else row
            for row in rows
        ]

    def take_told(self) -> dict[str, float]:
        """This step's numbers by the metric's name; they begin anew."""
        if not self._added:
            return {}
        told = {
            "progress/error": float(np.mean(self._errors)),
            "progress/contributed": float(np.mean(list(self._added.values()))),
        }
        self._added, self._errors = {}, []
        return told

    def save(self, folder: Path) -> None:
        """Write the estimator and what it is fitted to into a checkpoint's folder.

        Raises:
            OSError: it could not be written.
        """
        state = {"model": self._model.state_dict(), "window": list(self._window)}
        torch.save(state, folder / FILE)

    def load(self, folder: Path) -> None:
        """What :meth:`save` wrote; a checkpoint that has none leaves everything as it is."""
        if (folder / FILE).is_file():
            # It holds arrays beside tensors, as verl's data.pt beside it does.
            state = torch.load(folder / FILE, weights_only=False)
            self._model.load_state_dict(state["model"])
            self._window.extend(state["window"])


def turn_features(rows: Sequence[Mapping[str, npt.NDArray[Any]]], buckets: int) -> Features:
    """What the estimator sees of an episode's turns: ``[T, 3 buckets + 3]``.

    Shares of the tokens, counted by their id modulo ``buckets``, of the turn, of what was observed between it
    and the next one, and of the prompt; then the turn's place, its length, and whether it is the last.

    Args:
        rows: of the episode, in order, with ``prompts`` ``[P]`` and ``responses``, ``response_mask`` and
            ``turn_ids``, ``[R]`` each.
        buckets: how many counts.
    """
    turns = 1 + max(int(row["turn_ids"].max()) for row in rows)
    said, seen = np.zeros((turns, buckets)), np.zeros((turns, buckets))
    for row in rows:
        sampled = row["response_mask"].astype(bool)
        owner = np.maximum.accumulate(np.where(sampled, row["turn_ids"], -1))
        bucket = row["responses"] % buckets
        np.add.at(said, (owner[sampled], bucket[sampled]), 1.0)
        observed = ~sampled & (owner >= 0)
        np.add.at(seen, (owner[observed], bucket[observed]), 1.0)
    asked = np.bincount(rows[0]["prompts"] % buckets, minlength=buckets).astype(float)
    lengths, place = said.sum(1), np.arange(turns)
    return np.concatenate(
        [
            said / np.maximum(lengths, 1)[:, None],
            seen / np.maximum(seen.sum(1), 1)[:, None],
            np.tile(asked / max(1.0, asked.sum()), (turns, 1)),
            np.stack([place / 8, np.log1p(lengths) / 8, place == turns - 1], axis=1),
        ],
        axis=1,
    )


def placed(
    rewards: Features, rows: Sequence[Mapping[str, npt.NDArray[Any]]], *, carry: bool
) -> list[npt.NDArray[np.float32]]:
    """The rows' rewards with those of turns added, each on its turn's last sampled token. ``[R]`` each"""
    scores = [np.array(row["rm_scores"], dtype=np.float32) for row in rows]
    for turn, reward in enumerate(rewards):
        where = [(i, np.flatnonzero(row["response_mask"].astype(bool) & (row["turn_ids"] == turn)))
                 for i, row in enumerate(rows)]  # fmt: skip
        there = [(i, found[-1]) for i, found in where if len(found)]
        if not there:  # nothing of it was sampled
            continue
        i, column = there[-1]
        if carry and i < len(rows) - 1:
            i, column = len(rows) - 1, np.flatnonzero(rows[-1]["response_mask"])[-1]
        scores[i][column] += reward
    return scores


def _outcome(session: Session) -> float:
    """The episode's reward by the environment."""
    summary = session.summary
    return float(summary["unshaped"] if "unshaped" in summary else summary["reward"])


def _with(episode: Mapping[str, Any], more: float) -> dict[str, Any]:
    return {**episode, "reward": episode["reward"] + more}
