"""The rows of a training step as the doctor reads them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class Wrong(Exception):
    """A check failed; the message says where."""


@dataclass(frozen=True)
class Row:
    """One training row.

    Args:
        key: ``<group>_<session>_<index>``.
        episode: the episode's summary, with ``status`` and ``reward``.
        ledger: the engine's generations of the episode: ``prompt_ids``, ``token_ids``, ``logprobs``.
        columns: the token columns: ``prompts`` ``[P]``, and of length ``[R]`` ``responses``,
            ``response_mask``, ``rm_scores``, ``rollout_log_probs``, ``old_log_probs``, ``advantages``; of
            asynchronous training also ``versions`` and ``recomputed_log_probs``; of a model that is shown
            images also ``position_ids`` ``[4, P + R]``.
        grids: the patches of each of its images, in time, down and across.
        pixels: fingerprints of the trainer's pixel values, image by image.
        fingerprint: of the row as it was sampled; see :func:`fingerprint`.
    """

    key: str
    episode: dict[str, Any]
    ledger: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    grids: list[list[int]] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)
    fingerprint: str | None = None

    @property
    def replayed(self) -> Mapping[str, Any] | None:
        """Of a row that was trained on before: in which ``step``; whether it is a ``member`` of a group."""
        found: Mapping[str, Any] | None = self.episode.get("replayed")
        return found

    @property
    def group(self) -> str:
        """The group of episodes of one task."""
        return self.key.rsplit("_", 2)[0]

    @property
    def session(self) -> str:
        """The episode: group and number within it."""
        return self.key.rpartition("_")[0]

    @property
    def index(self) -> int:
        """Position of the row within its episode."""
        return int(self.key.rpartition("_")[2])


def fingerprint(
    prompts: ArrayLike,
    responses: ArrayLike,
    mask: ArrayLike,
    logprobs: ArrayLike,
    versions: ArrayLike,
    rewards: ArrayLike,
) -> str:
    """A digest of a row: made where the episode was played, and compared when the row is trained on again."""
    numbers = hashlib.sha256()
    for ids in (prompts, responses, mask, versions):
        numbers.update(np.asarray(ids, dtype=np.int64).tobytes() + b"|")
    for values in (logprobs, rewards):
        numbers.update(np.asarray(values, dtype=np.float32).tobytes() + b"|")
    return numbers.hexdigest()


def by_episode(rows: Sequence[Row], *, recorded: bool = True) -> dict[str, list[Row]]:
    """Rows by episode, each in order.

    Args:
        rows: of a step.
        recorded: whether each must have a ledger; those that are trained on again have none.

    Raises:
        Wrong: there are none, or an episode has no ledger to compare with.
    """
    episodes: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.session, row.index)):
        episodes[row.session].append(row)
    if not episodes:
        raise Wrong("the step has no rows to examine")
    for session, own in episodes.items():
        if recorded and not own[0].ledger:
            raise Wrong(f"episode {session} has no record of what the engine sampled")
    return episodes


def placed(own: Sequence[Row]) -> list[tuple[Row, list[tuple[int, dict[str, Any]]]]]:
    """The generations of an episode by its rows, each with where its tokens start in the response.

    A generation belongs to the row whose tokens begin with the prompt that the engine was given. If
    an agent had several turns sampled from one prompt, it belongs to the row that goes on with it.
    """
    tokens = [np.concatenate([row.columns["prompts"], row.columns["responses"]]) for row in own]
    found: list[dict[int, dict[str, Any]]] = [{} for _ in own]
    for entry in own[0].ledger:
        given, drawn = np.asarray(entry["prompt_ids"]), np.asarray(entry["token_ids"])
        places = [
            (index, len(given) - len(row.columns["prompts"]))
            for index, row in enumerate(own)
            if len(row.columns["prompts"]) <= len(given) < len(tokens[index])
            and len(given) - len(row.columns["prompts"]) not in found[index]
            and np.array_equal(tokens[index][: len(given)], given)
        ]
        places.sort(key=lambda place: not _goes_on(tokens[place[0]][len(given) :], drawn))
        for index, start in places[:1]:
            found[index][start] = entry
    return [(row, sorted(spans.items())) for row, spans in zip(own, found, strict=True)]


def _goes_on(tokens: np.ndarray[Any, Any], drawn: np.ndarray[Any, Any]) -> bool:
    return np.array_equal(tokens[: len(drawn)], drawn)


def sampled(row: Row) -> np.ndarray[Any, Any]:
    """Which response tokens are trained on. ``[R]``"""
    return np.asarray(row.columns["response_mask"] == 1)


def comparable(row: Row, recomputed: Collection[int] | None) -> np.ndarray[Any, Any]:
    """Sampled tokens whose log-probs the trainer recomputed with the weights that sampled them. ``[R]``

    Args:
        recomputed: versions whose weights it had; ``None``: there is but one, and it had that.
    """
    if recomputed is None:
        return sampled(row)
    return sampled(row) & np.isin(row.columns["versions"], list(recomputed))


def logprob_gaps(row: Row) -> np.ndarray[Any, Any]:
    """``|trainer - engine|`` of each response token's log-probability, in nats. ``[R]``"""
    trainer = row.columns.get("recomputed_log_probs", row.columns["old_log_probs"])
    return np.asarray(np.abs(trainer - row.columns["rollout_log_probs"]))
