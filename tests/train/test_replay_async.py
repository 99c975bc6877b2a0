"""Stored episodes in a step of asynchronous training, where those that were just played are stale, too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from replay_support import Lab, Played, lab
from rollout_support import Recorder
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from agentrl.doctor import examine_step
from agentrl.events import StalenessReported, StepFinished
from agentrl.train.async_trainer import AsyncTrainer
from agentrl.train.batch import TOKEN_FIELDS, VERSIONS, fetch_rows

TRPO = ["algorithm.name=trpo_traj", "mode=async", "staleness.bound=1"]
SPEAR = ["algorithm.name=spear", "algorithm.shaping=null", "algorithm.filters.top_share=null",
         "mode=async",
         "algorithm.replay.options={size: 1, fill: 1, tolerate_steps: 5, coefficient: 1}"]  # fmt: skip


def later(monkeypatch: pytest.MonkeyPatch, *settings: str) -> tuple[Lab, Any]:
    """A success of version 0, and in step 5 a group that failed, of versions 3 and 4."""
    made = lab(monkeypatch, *settings, kind=AsyncTrainer)
    made.trainer.local_trigger_step = 0
    made.trainer.actor_rollout_wg.save_model_to_cpu = lambda version: None
    made.step({"a": [Played(1.0, logprob=-0.25), *[Played(0.0)] * 3]})
    made.trainer.global_steps = 5
    failed = [Played(0.0, version=version, logprob=-0.5) for version in (3, 4, 4, 4)]
    return made, made.step({"a": failed})


def test_a_stored_episode_enters_beside_stale_ones_however_old_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _, update = later(monkeypatch, *TRPO)
    assert "g5x0_4_0" in update.keys and len(update.keys) == 4
    old = {key: set(row["old_log_probs"].tolist()) for key, row in update.rows.items()}
    assert old.pop("g5x0_4_0") == {-0.25}, "the policy that sampled it, five updates ago"
    assert list(old.values()) == [{-0.5}] * 3


def test_the_bound_and_the_report_are_of_what_was_just_played(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = later(monkeypatch, *TRPO)
    assert made.last is not None
    rows = fetch_rows(made.last, tokens=[*TOKEN_FIELDS, VERSIONS])
    report = examine_step(rows, step=5, algorithm=made.trainer._settings.algorithm, bound=1, recomputed={4})
    checks = {check.name: check for check in report.checks}
    again = checks["what is trained on again is what was sampled"]
    assert again.passed and "1 rows of step 1" in again.detail, again.detail
    made.trainer._events = events = Recorder()
    made.trainer.replay_buffer = SimpleNamespace(take_dropped=dict)
    made.trainer.global_steps = 5
    monkeypatch.setattr(PPOTrainer, "step", lambda self, *step: made.last)
    assert made.trainer.step({}, {}) is made.last
    [told] = events.of(StalenessReported)
    assert set(told.tokens) <= {"0", "1"} and sum(told.tokens.values()) == 6


def test_a_step_is_told_although_the_queue_was_lost_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = later(monkeypatch, *TRPO)
    made.trainer._events = events = Recorder()
    made.trainer.replay_buffer = SimpleNamespace(take_dropped=dict)
    made.trainer.global_steps, made.trainer.total_training_steps = 5, 9
    monkeypatch.setattr(PPOTrainer, "step", lambda self, *step: made.last)
    made.trainer.step({}, {})

    def lost(self: PPOTrainer, *step: object) -> None:
        raise ConnectionError("the queue's machine is gone")

    monkeypatch.setattr(PPOTrainer, "_compute_metrics", lost)
    made.queue.rows.clear()
    with pytest.raises(ConnectionError):
        made.trainer._compute_metrics(made.last, {}, {}, 5, 0)
    [told] = events.of(StepFinished)
    assert told.step == 5 and told.metrics["tokens/mean"] > 0


def test_where_staleness_is_corrected_so_is_that_of_stored_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, update = later(monkeypatch, *TRPO, "staleness.policy=correct")
    row = update.rows["g5x0_4_0"]
    assert set(row["old_log_probs"].tolist()) == {-2.0} and set(row["rollout_log_probs"].tolist()) == {-0.25}


def test_spear_trains_again_after_the_steps_own_update(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, *SPEAR, tasks=2, size=2, kind=AsyncTrainer)
    groups = {
        "a": [Played(0.0, calls=1), Played(1.0, calls=1, logprob=-0.25)],
        "b": [Played(0.0, calls=1), Played(0.4, calls=1)],
    }
    made.step(groups)
    made.step({task: [Played(0.0, version=1)] * 2 for task in groups})
    again = made.updates[-1]
    real = [key for key in again.keys if not key.startswith("pad")]
    assert len(made.updates) >= 3 and real
    rows = [again.rows[key] for key in real]
    assert {row["extra_fields"]["episode"]["replayed"]["step"] for row in rows} == {1}
    assert -0.25 in {value for row in rows for value in row["old_log_probs"].tolist()}
