"""What the trainer is told of an episode beside its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agentrl.train.policy import LedgerEntry
from agentrl.trajectory import Trajectory


def began_plainly(summary: Mapping[str, Any]) -> bool:
    """Whether an episode began where its task does, and as held-out ones do."""
    return not (summary.get("started") or summary.get("improves"))


def summary_of(trajectory: Trajectory) -> dict[str, Any]:
    """What the trainer is told of an episode beside its tokens."""
    unshaped = {} if trajectory.unshaped is None else {"unshaped": trajectory.unshaped}
    return (
        unshaped
        | _along_trace(trajectory)
        | {
            "task": trajectory.task.id,
            "status": trajectory.status,
            "reward": trajectory.reward,
            "rewards": trajectory.components,
            "missing": sorted(trajectory.missing),
            "calls": len(trajectory.calls),
            "call_errors": sum(call.observation.error for call in trajectory.calls),
            "turns": len(trajectory.turns),
            "forced": sum(turn.forced is not None for turn in trajectory.turns),
            "tokens": trajectory.sampled_tokens,
            "generate_seconds": sum(turn.generate_seconds for turn in trajectory.turns),
            "tool_seconds": sum(turn.tool_seconds for turn in trajectory.turns),
        }
    )


def _along_trace(trajectory: Trajectory) -> dict[str, Any]:
    """How an episode followed an expert, if it did: turns until it first strayed, of so many, and patches."""
    if trajectory.expert_turns is None:
        return {}
    turns = trajectory.turns
    strayed = (turn.index for turn in turns if turn.guided is None or not turn.guided.matched)
    matched = next(strayed, len(turns))
    return {"trace": {"matched": matched, "turns": trajectory.expert_turns, "patched": trajectory.patched}}


def usage_of(trajectory: Trajectory, ledger: list[LedgerEntry]) -> dict[str, Any]:
    """Which policy versions sampled how many tokens; how many the engine had cached; how many are trained."""
    versions = Counter(
        version for segment in trajectory.segments for version in segment.versions if version >= 0
    )
    return {
        "versions": {str(version): tokens for version, tokens in sorted(versions.items())},
        "interrupted": sum(len(set(entry.versions)) > 1 for entry in ledger),
        "prompt_tokens": sum(len(entry.prompt_ids) for entry in ledger),
        "cached_tokens": sum(entry.cached for entry in ledger),
        "row_tokens": sum(len(segment.token_ids) for segment in trajectory.segments),
    }
