"""The checks of one training step: pure functions of the rows that the trainer used.

Each compares columns that took different ways. The ledger is what the engine was given and what
it returned, written down at the policy's boundary; the columns are what the trainer read after
the episode loop, the reward and TransferQueue had handled them.

Legend: ``R`` response tokens of a row, ``P`` prompt tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentrl.algorithms import Algorithm, chosen
from agentrl.algorithms.filters import kept_all
from agentrl.algorithms.spec import Advantage
from agentrl.chat.vision import Vision
from agentrl.config import Algorithm as Settings
from agentrl.doctor.images import (
    logprobs_agree_after_images,
    pixels_match,
    placeholders_match,
    positions_match,
)
from agentrl.doctor.rows import (
    Row,
    Wrong,
    by_episode,
    comparable,
    fingerprint,
    logprob_gaps,
    placed,
    sampled,
)

LOGPROB_MEAN_TOLERANCE = 0.02
"""Largest mean of ``|trainer - engine|`` over a step's sampled tokens, in nats."""

LOGPROB_TOKEN_TOLERANCE = 0.5
"""Largest difference that all but one token in a thousand must keep, in nats."""

ADVANTAGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One check's outcome; ``detail`` holds what was measured, or what is wrong and where."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """What the doctor found at one step."""

    step: int
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def examine_step(
    rows: Sequence[Row],
    *,
    step: int,
    algorithm: Settings,
    vision: Vision | None = None,
    bound: int | None = None,
    recomputed: Collection[int] | None = None,
) -> Report:
    """Run all checks on a step's rows.

    Args:
        rows: every row the trainer used, without padding. Those that were trained on before are examined
            as such: against their fingerprint, and not against this step's policy.
        step: for the report.
        algorithm: how advantages were made.
        vision: the image rules of a model that is shown images.
        bound: updates by which a token may be behind; ``None`` where there is but one version at a time.
        recomputed: versions whose log-probs the trainer recomputed with their own weights; ``None``: all.
    """
    every = rows
    again = [row for row in every if row.replayed is not None]
    members = [row for row in every if row.replayed is None or row.replayed["member"]]
    rows = [row for row in every if row.replayed is None]
    checks = [
        _run("trained tokens are the sampled tokens", lambda: tokens_match(rows)),
        _run("the mask covers exactly the sampled spans", lambda: mask_matches(rows, algorithm)),
        _run("the engine's log-probs arrived unchanged", lambda: logprobs_arrived(rows)),
        _run("the trainer recomputes the engine's log-probs", lambda: logprobs_agree(rows, recomputed)),
        _run("rewards arrived whole, at sampled tokens", lambda: rewards_match(every)),
        _run("no void episode in a baseline", lambda: baselines_match(members, algorithm)),
    ]
    if again:
        corrected = recomputed is not None and bound is None
        name = "what is trained on again is what was sampled"
        checks.append(_run(name, lambda: replayed_match(again, algorithm, step=step, corrected=corrected)))
    if recomputed is not None:
        name = "every token's version is known, and within the bound"
        checks.append(_run(name, lambda: versions_match(rows, step=step, bound=bound)))
    if vision is not None:
        checks += [
            _run("placeholders equal the features of the images", lambda: placeholders_match(rows, vision)),
            _run("positions are those of M-RoPE", lambda: positions_match(rows, vision)),
            _run("the trainer's pixel values are the engine's", lambda: pixels_match(rows)),
            _run(
                "log-probs agree after images", lambda: logprobs_agree_after_images(rows, vision, recomputed)
            ),
        ]
    return Report(step, checks)


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Wrong as problem:
        return Check(name, False, str(problem))


def tokens_match(rows: Sequence[Row]) -> str:
    """Every generation stands in a row, behind exactly the context that the engine was given."""
    total = 0
    for session, own in by_episode(rows).items():
        found = 0
        for row, spans in placed(own):
            for start, entry in spans:
                given = np.asarray(entry["token_ids"])
                trained = row.columns["responses"][start : start + len(given)]
                if not np.array_equal(trained, given):
                    raise Wrong(
                        f"row {row.key}: tokens {start} to {start + len(given)} differ from what was sampled"
                    )
                found += 1
                total += len(given)
        if found != len(own[0].ledger):
            raise Wrong(
                f"episode {session}: {len(own[0].ledger) - found} of {len(own[0].ledger)} generations stand "
                "in no row behind the context that the engine was given"
            )
    return f"{total} sampled tokens of {len(rows)} rows are identical"


def mask_matches(rows: Sequence[Row], algorithm: Settings) -> str:
    """A row's mask is 1 on the tokens of its generations and 0 on all others.

    No other token has an advantage either, save with a critic: verl's GAE whitens every position and relies
    on the mask alone.
    """
    compared = chosen(algorithm).critic is None
    masked = total = 0
    for own in by_episode(rows).values():
        for row, spans in placed(own):
            expected = np.zeros(len(row.columns["responses"]), dtype=bool)
            for start, entry in spans:
                expected[start : start + len(entry["token_ids"])] = True
            wrong = np.flatnonzero(row.columns["response_mask"].astype(bool) != expected)
            if wrong.size:
                raise Wrong(
                    f"row {row.key}: the mask is wrong at {wrong.size} tokens, the first at {wrong[0]}"
                )
            advantages = row.columns["advantages"]
            if compared and np.any(advantages[~expected] != 0):
                raise Wrong(f"row {row.key}: tokens that were not sampled have an advantage")
            masked, total = masked + int(expected.sum()), total + expected.size
    return f"{masked} of {total} response tokens are trained on, all of them sampled"


def logprobs_arrived(rows: Sequence[Row]) -> str:
    """The column of behaviour log-probs holds what the engine returned, to float32."""
    for own in by_episode(rows).values():
        for row, spans in placed(own):
            for start, entry in spans:
                kept = row.columns["rollout_log_probs"][start : start + len(entry["logprobs"])]
                if not np.array_equal(kept, np.asarray(entry["logprobs"], dtype=np.float32)):
                    raise Wrong(f"row {row.key}: log-probs from token {start} on differ from the engine's")
    return "identical"


def logprobs_agree(rows: Sequence[Row], recomputed: Collection[int] | None = None) -> str:
    """The trainer's own forward pass gives the sampled tokens nearly the engine's log-probs.

    A policy that is not the one that sampled, positions that are off by one, or images that did
    not arrive all show here. A token of an older policy is compared only where the trainer still has
    that policy's weights.

    Args:
        recomputed: versions whose tokens can be compared; ``None``: all.
    """
    if not rows:
        raise Wrong("the step has no rows to examine")
    compared = [comparable(row, recomputed) for row in rows]
    gaps = np.concatenate([logprob_gaps(row)[mask] for row, mask in zip(rows, compared, strict=True)])
    left_out = int(sum(sampled(row).sum() for row in rows)) - gaps.size
    if gaps.size == 0 and left_out:
        return f"all {left_out} tokens are of older versions, whose weights the trainer no longer has"
    if gaps.size == 0 or not np.all(np.isfinite(gaps)):
        raise Wrong("there are no sampled tokens, or their log-probs are not finite")
    mean, rare, worst = float(gaps.mean()), float(np.quantile(gaps, 0.999)), float(gaps.max())
    measured = (
        f"|trainer - engine|: mean {mean:.2g} (tolerance {LOGPROB_MEAN_TOLERANCE:g}), "
        f"99.9% below {rare:.2g} (tolerance {LOGPROB_TOKEN_TOLERANCE:g}), largest {worst:.2g}, "
        f"{gaps.size} tokens"
    )
    if left_out:
        measured += f"; {left_out} tokens of older versions, whose weights are gone, were not compared"
    if mean > LOGPROB_MEAN_TOLERANCE or rare > LOGPROB_TOKEN_TOLERANCE:
        raise Wrong(measured)
    return measured


def versions_match(rows: Sequence[Row], *, step: int, bound: int | None) -> str:
    """Each sampled token has the version that the engine named, and no version goes back within a row.

    Step ``s`` trains version ``s - 1``; a token may be ``bound`` versions older, where there is a bound.
    """
    lags: list[np.ndarray[Any, Any]] = []
    for own in by_episode(rows).values():
        for row, spans in placed(own):
            versions = row.columns["versions"]
            for start, entry in spans:
                named = np.asarray(entry["versions"])
                if not np.array_equal(versions[start : start + len(named)], named):
                    raise Wrong(
                        f"row {row.key}: versions from token {start} on are not those the engine named"
                    )
            mine = versions[sampled(row)]
            if np.any(mine < 0) or np.any(np.diff(mine) < 0):
                raise Wrong(f"row {row.key}: versions are missing, or go back")
            lags.append(step - 1 - mine)
    lag = np.concatenate(lags)
    if lag.min() < 0 or (bound is not None and lag.max() > bound):
        raise Wrong(f"tokens are {lag.min()} to {lag.max()} updates behind, and 0 to {bound} are allowed")
    return f"{lag.size} tokens, {lag.min()} to {lag.max()} updates behind, {lag.mean():.2f} on average"


def rewards_match(rows: Sequence[Row]) -> str:
    """An episode's reward is the sum over its rows, and all of it lies on sampled tokens."""
    episodes = by_episode(rows, recorded=False)
    for session, own in episodes.items():
        total = sum(float(row.columns["rm_scores"].sum()) for row in own)
        if not np.isclose(total, own[0].episode["reward"], atol=1e-4):
            raise Wrong(
                f"episode {session}: rewards of its rows sum to {total:g}, not {own[0].episode['reward']:g}"
            )
        for row in own:
            if np.any(row.columns["rm_scores"][~sampled(row)] != 0):
                raise Wrong(f"row {row.key}: a reward lies on a token that was not sampled")
    return f"mean reward {np.mean([own[0].episode['reward'] for own in episodes.values()]):.3f}"


def replayed_match(rows: Sequence[Row], algorithm: Settings, *, step: int, corrected: bool) -> str:
    """Rows of earlier steps are token for token what was sampled then, with that policy's log-probs.

    Their fingerprint was made where the episode was played. Where nothing corrects for the difference of the
    policies, the old log-probs, around which PPO clips, are those of the policy that sampled.

    Args:
        rows: those alone that were trained on before.
        algorithm: how advantages were made.
        step: the step that is examined.
        corrected: whether importance weights make up for who sampled, whatever the algorithm says.
    """
    how = chosen(algorithm)
    gaps, oldest = [], step
    for row in rows:
        assert row.replayed is not None
        columns, played = row.columns, int(row.replayed["step"])
        foreign = "source" in row.replayed  # another run's words: no engine gave them log-probs
        engine = columns["rollout_log_probs"]
        found = fingerprint(
            columns["prompts"], columns["responses"], columns["response_mask"],
            np.zeros_like(engine) if foreign else engine, columns["versions"], columns["rm_scores"],
        )  # fmt: skip
        if row.fingerprint is None or found != row.fingerprint:
            raise Wrong(f"row {row.key}: it differs from what was sampled in step {played} or before")
        versions = columns["versions"][sampled(row)]
        if not foreign and (played >= step or versions.min() < 0 or versions.max() >= played):
            raise Wrong(
                f"row {row.key}: it has versions {versions.min()} to {versions.max()}, as trained on in step "
                f"{played}, and this is step {step}"
            )
        if how.critic is None and np.any(columns["advantages"][~sampled(row)] != 0):
            raise Wrong(f"row {row.key}: tokens that were not sampled have an advantage")
        gaps.append(np.abs(columns["old_log_probs"] - columns["rollout_log_probs"])[sampled(row)])
        oldest = min(oldest, played)
    gap = float(np.concatenate(gaps).mean())
    if not np.isfinite(gap):
        raise Wrong("there are log-probs that are not finite")
    told = f"{len(rows)} rows of step {oldest} and later are identical"
    if corrected or how.correction.kind != "none":
        return told
    if gap > LOGPROB_MEAN_TOLERANCE:
        raise Wrong(f"|old - engine| is {gap:.2g} on average; the tolerance is {LOGPROB_MEAN_TOLERANCE:g}")
    return f"{told}; |old - engine|: mean {gap:.2g} (tolerance {LOGPROB_MEAN_TOLERANCE:g})"


def baselines_match(rows: Sequence[Row], algorithm: Settings) -> str:
    """No void episode is among the rows; where episodes are compared, baselines are of those that are there.

    The advantages of whole episodes are computed anew, by formulas of the doctor's own.
    """
    for row in rows:
        if row.episode["status"] == "void" or row.episode["reward"] is None:
            raise Wrong(f"row {row.key} belongs to a void episode")
    episodes = by_episode(rows, recorded=False)
    how = chosen(algorithm)
    if not _recomputable(how):
        return f"{len(episodes)} episodes, none void"
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for session, own in episodes.items():
        groups[own[0].group][session] = float(own[0].episode["reward"])
    for members in groups.values():
        expected = group_advantages(np.array(list(members.values())), how.advantage)
        for session, advantage in zip(members, expected, strict=True):
            for row in episodes[session]:
                trained = row.columns["advantages"][sampled(row)]
                if np.any(np.abs(trained - advantage) > ADVANTAGE_TOLERANCE):
                    raise Wrong(
                        f"row {row.key}: its advantage is {trained[0]:g}, and {advantage:g} by the rewards "
                        f"of the {len(members)} episodes that count in its group"
                    )
    smallest = min(len(members) for members in groups.values())
    return f"{len(groups)} groups of {smallest} to {max(map(len, groups.values()))} episodes, none void"


def group_advantages(rewards_G: np.ndarray[Any, Any], how: Advantage) -> np.ndarray[Any, Any]:
    """Advantages of one group's episodes. ``rewards_G`` and the result are ``[G]``.

    GRPO's is ``(R - mean) / (std + 1e-6)`` with the sample standard deviation over the group (DeepSeekMath,
    section 4.1); a group of one teaches nothing. That of leave-one-out is ``(R - mean) G / (G - 1)``.
    """
    size, centred = len(rewards_G), np.asarray(rewards_G - rewards_G.mean(), dtype=float)
    if size == 1:
        return np.zeros(1)
    if how.baseline == "leave_one_out":
        centred = centred * size / (size - 1)
    if how.scale == "none":
        return centred
    spread = rewards_G.std(ddof=how.ddof)
    return np.asarray(centred / (spread + how.epsilon))


def _leaves_out(algorithm: Algorithm) -> bool:
    """Whether a replay may leave episodes that were played out of baselines."""
    options = {} if algorithm.replay is None else algorithm.replay.options
    return options.get("newest_versions") is not None or options.get("least") is not None


def _recomputable(algorithm: Algorithm) -> bool:
    """Whether advantages follow from a group's rewards alone."""
    how = algorithm.advantage
    return (
        algorithm.second_advantage is None
        and how.level == "episode"
        and how.baseline in ("mean", "leave_one_out")
        and how.scale in ("none", "group_std")
        and kept_all(algorithm.filters)
        and not _leaves_out(algorithm)
    )
