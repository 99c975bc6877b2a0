"""What an evaluation found: per episode, and over all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentrl.errors import InfrastructureError
from agentrl.evaluate.statistics import pass_at_k, success_interval
from agentrl.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One episode of an evaluation.

    Args:
        task: the task's id.
        position: the task's place in the list of tasks.
        sample: which episode of its task it is, from 0.
        episode: unique name.
        status: ``finished``, ``truncated`` or ``void``.
        reason: what ended it.
        success: whether it solved the task; false when void.
        reward: weighted sum; ``None`` when void.
        rewards: components by name; of one per turn the sum over turns.
        turns, calls, call_errors, tokens: how many.
        seconds: of the last attempt.
        attempts: how often it was started.
        missing: components without a verdict, by name: why.
    """

    task: str
    position: int
    sample: int
    episode: str
    status: str
    reason: str
    success: bool
    reward: float | None
    rewards: dict[str, float]
    turns: int
    calls: int
    call_errors: int
    tokens: int
    seconds: float
    attempts: int
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, trajectory: Trajectory, position: int, sample: int, success: bool) -> EpisodeResult:
        """The result of a finished or void episode."""
        calls = trajectory.calls
        return cls(
            task=trajectory.task.id,
            position=position,
            sample=sample,
            episode=trajectory.id,
            status=trajectory.status,
            reason=trajectory.reason,
            success=success,
            reward=trajectory.reward,
            rewards=trajectory.components,
            turns=len(trajectory.turns),
            calls=len(calls),
            call_errors=sum(call.status != "ok" for call in calls),
            tokens=trajectory.sampled_tokens,
            seconds=trajectory.seconds,
            attempts=trajectory.attempts,
            missing=dict(trajectory.missing),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What an evaluation found. Void episodes count for nothing but ``void``.

    Args:
        tasks: tasks with at least one episode that was not void.
        samples: episodes per task that were asked for.
        episodes: episodes that were judged.
        void: episodes that infrastructure kept from ending.
        truncated: judged episodes that a limit ended.
        success: the share of judged episodes that solved their task.
        low, high: its 95% interval, see :func:`agentrl.evaluate.success_interval`.
        reward: mean over judged episodes.
        pass_at: ``k`` to the mean over tasks of pass@k; tasks with fewer than ``k`` judged
            episodes are left out of it.
        turns, calls, tokens: mean per judged episode.
        call_error_share: the share of tool calls that were not answered ``ok``.
        seconds: how long the evaluation took.
        results: every episode, by task and sample.
    """

    tasks: int
    samples: int
    episodes: int
    void: int
    truncated: int
    success: float
    low: float
    high: float
    reward: float
    pass_at: dict[int, float]
    turns: float
    calls: float
    tokens: float
    call_error_share: float
    seconds: float
    results: list[EpisodeResult] = field(repr=False)

    @classmethod
    def of(cls, results: Sequence[EpisodeResult], samples: int, seconds: float) -> EvalResult:
        """Sum up episodes.

        Raises:
            InfrastructureError: every episode is void, so nothing was measured.
        """
        ordered = sorted(results, key=lambda result: (result.position, result.sample))
        judged = [result for result in ordered if result.status != "void"]
        if not judged:
            last = ordered[-1].reason if ordered else "no episode was played"
            raise InfrastructureError(
                f"Nothing was measured: every one of {len(ordered)} episodes was void ({last})."
            )
        by_task: dict[int, list[bool]] = defaultdict(list)
        for result in judged:
            by_task[result.position].append(result.success)
        low, high = success_interval(list(by_task.values()))
        count, calls = len(judged), sum(result.calls for result in judged)
        return cls(
            tasks=len(by_task),
            samples=samples,
            episodes=count,
            void=len(ordered) - count,
            truncated=sum(result.status == "truncated" for result in judged),
            success=sum(result.success for result in judged) / count,
            low=low,
            high=high,
            reward=sum(result.reward or 0.0 for result in judged) / count,
            pass_at=_pass_at(list(by_task.values()), samples),
            turns=sum(result.turns for result in judged) / count,
            calls=calls / count,
            tokens=sum(result.tokens for result in judged) / count,
            call_error_share=sum(result.call_errors for result in judged) / calls if calls else 0.0,
            seconds=seconds,
            results=ordered,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON data, without the episodes."""
        names = (
            "tasks",
            "samples",
            "episodes",
            "void",
            "truncated",
            "success",
            "low",
            "high",
            "reward",
            "turns",
            "calls",
            "tokens",
            "call_error_share",
            "seconds",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "pass_at": {str(k): v for k, v in self.pass_at.items()},
        }


def _pass_at(groups: Sequence[Sequence[bool]], samples: int) -> dict[int, float]:
    """pass@k for the powers of two up to ``samples``, and for ``samples``."""
    ks = sorted({*(2**power for power in range(samples.bit_length())), samples})
    found: dict[int, float] = {}
    for k in ks:
        values = [pass_at_k(len(group), sum(group), k) for group in groups if len(group) >= k]
        if values:
            found[k] = sum(values) / len(values)
    return found
