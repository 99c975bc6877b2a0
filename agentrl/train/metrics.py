"""A training step in plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl.algorithms.expert_replay import sop
from agentrl.config import Algorithm
from agentrl.doctor import Row
from agentrl.train.summary import began_plainly

FROM_VERL = {
    "actor/entropy": "actor/entropy",
    "actor/pg_loss": "actor/loss",
    "actor/grad_norm": "actor/grad_norm",
    "actor/pg_clipfrac": "actor/clip_fraction",
    "actor/ppo_kl": "actor/kl_to_old",
    "actor/lr": "actor/learning_rate",
    "actor/kl_loss": "actor/kl_to_reference",
    "critic/vf_loss": "critic/loss",
    "critic/vf_explained_var": "critic/explained_variance",
    "replay/loss": "replay/loss",
    "training/rollout_probs_diff_mean": "engine/probability_difference_mean",
    "training/rollout_probs_diff_max": "engine/probability_difference_max",
}


def expected_episodes(rows: Sequence[Row], algorithm: Algorithm, *, elsewhere: int = 0) -> int:
    """Episodes that a step asked for: of a task without a single row, the usual number.

    Args:
        rows: those of episodes that were played for the step.
        algorithm: tasks and episodes of a step.
        elsewhere: tasks whose episodes others played.
    """
    asked = {row.group: int(row.episode.get("asked", algorithm.group_size)) for row in rows}
    return (
        sum(asked.values()) + max(0, algorithm.tasks_per_step - elsewhere - len(asked)) * algorithm.group_size
    )


def step_metrics(
    rows: Sequence[Row],
    metrics: Mapping[str, Any],
    timing: Mapping[str, float],
    *,
    expected: int,
    replaced: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """What a person watches, by name.

    ``time/generate`` and ``time/tools`` split the wall time of the rollout in proportion to what
    the episodes spent in each, since both go on at once.

    Args:
        rows: the step's rows, those alone that were played for it.
        metrics: verl's metrics.
        timing: verl's timings, in seconds.
        expected: episodes the step asked for; those missing were void.
        replaced: summaries of episodes that were played for it and gave way to stored ones.
    """
    episodes = [*{row.session: row.episode for row in rows}.values(), *replaced]
    generate = sum(episode["generate_seconds"] for episode in episodes)
    tools = sum(episode["tool_seconds"] for episode in episodes)
    rollout, share = timing.get("gen", 0.0), generate / (generate + tools) if generate + tools else 1.0
    train = sum(timing.get(name, 0.0) for name in
                ("old_log_prob", "ref", "values", "adv", "update_critic", "update_actor"))  # fmt: skip
    step, sync = timing.get("step", 0.0), timing.get("update_weights", 0.0)
    calls = sum(episode["calls"] for episode in episodes)
    whole = [episode for episode in episodes if began_plainly(episode)]
    result = {
        "reward/mean": _mean(episodes, "reward"),
        "success/mean": _mean(whole or episodes, "success"),  # of those that began as held-out ones do
        "calls/mean": _mean(episodes, "calls"),
        "calls/error_share": sum(e["call_errors"] for e in episodes) / calls if calls else 0.0,
        "turns/mean": _mean(episodes, "turns"),
        "turns/interrupted": float(sum(episode["interrupted"] for episode in episodes)),
        "turns/forced": float(sum(episode.get("forced", 0) for episode in episodes)),
        "tokens/mean": _mean(episodes, "tokens"),
        "tokens/per_second": sum(e["tokens"] for e in episodes) / rollout if rollout else 0.0,
        "tokens/trained_per_second": sum(e["row_tokens"] for e in episodes) / train if train else 0.0,
        "truncated": sum(episode["status"] == "truncated" for episode in episodes) / max(1, len(episodes)),
        "voided": float(expected - len(episodes)),
        "time/step": step,
        "time/generate": rollout * share,
        "time/tools": rollout * (1 - share),
        "time/train": train,
        "time/sync": sync,
        "time/checkpoint": timing.get("save_checkpoint", 0.0),
    }
    result["time/other"] = max(0.0, step - rollout - train - sync - result["time/checkpoint"])
    prompts = sum(episode["prompt_tokens"] for episode in episodes)
    cached = sum(episode["cached_tokens"] for episode in episodes)
    result["engine/prefix_hit_rate"] = cached / prompts if prompts else 0.0
    result |= _components(episodes)
    result |= _along_traces(episodes)
    unshaped = [episode for episode in episodes if "unshaped" in episode]
    if unshaped:
        result["reward/unshaped"] = _mean(unshaped, "unshaped")
    return result | {ours: float(metrics[theirs]) for theirs, ours in FROM_VERL.items() if theirs in metrics}


def _components(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each component's mean over the episodes that have it, and the share that lacks it, if any does."""
    found: dict[str, float] = {}
    for name in sorted({name for episode in episodes for name in episode["rewards"]}):
        values = [episode["rewards"][name] for episode in episodes if name in episode["rewards"]]
        found[f"reward/{name}"] = float(np.mean(values))
    missing = [name for episode in episodes for name in episode.get("missing", ())]
    return found | {
        f"reward/{name}/missing": missing.count(name) / len(episodes) for name in sorted(set(missing))
    }


def _along_traces(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """UI-S1's semi-online performance of the episodes that followed an expert, and its patches."""
    traces = [episode["trace"] for episode in episodes if "trace" in episode]
    if not traces:
        return {}
    found = sop([trace["matched"] for trace in traces], [trace["turns"] for trace in traces])
    return {
        "sop/progress": found.progress,
        "sop/success": found.success,
        "sop/score": found.score,
        "turns/patched": float(sum(trace["patched"] for trace in traces)),
    }


def _mean(episodes: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([float(episode[key]) for episode in episodes])) if episodes else 0.0
