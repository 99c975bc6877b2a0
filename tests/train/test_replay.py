"""Stored episodes in a step: which enter, with which advantages and log-probs, and what the doctor says."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from replay_support import Lab, Played, lab, saved

from agentrl.algorithms.pool import Rollout
from agentrl.config import load_config
from agentrl.doctor import examine_step
from agentrl.errors import ConfigError
from agentrl.train.algorithm import plan
from agentrl.train.batch import TOKEN_FIELDS, VERSIONS, fetch_rows
from agentrl.train.metrics import expected_episodes, step_metrics
from agentrl.train.replay import Decision, TaskReplay, decide

TRPO = "algorithm.name=trpo_traj"
DART = ["algorithm.name=dart", "algorithm.filters.low_entropy_turns=null",
        "algorithm.groups={adaptive_size: false, adaptive_length: false}"]  # fmt: skip
NEVER = [Played(0.0)] * 4


def advantages(update, digits: int = 6) -> list[float]:
    """Of each episode's last token, in the order of the keys."""
    return [round(row[-1], digits) for _, row in sorted(update.column("advantages").items())]


def test_a_group_that_failed_gets_the_tasks_stored_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mobile-Agent-v3's numbers: R = 1, 0, 0, 0 by a deviation with ddof 0; other tasks have none stored."""
    made = lab(monkeypatch, TRPO, "algorithm.advantage.ddof=0", tasks=2)
    first = made.step({"a": [Played(1.0, tokens=[3, 2]), Played(0.0), Played(0.0), Played(-0.5)], "b": NEVER})
    assert advantages(first)[:4] == [1.605907, -0.229415, -0.229415, -1.147077]
    assert advantages(first)[4:] == [0.0] * 4
    second = made.step({"a": NEVER, "b": NEVER})
    stored = [key for key in second.keys if key.startswith("g2x0_4")]
    assert stored == ["g2x0_4_0"] and len(second.keys) == 8
    assert sorted(advantages(second)) == sorted([1.732047, *[-0.577349] * 3, *[0.0] * 4])
    assert advantages(second)[[*sorted(second.keys)].index("g2x0_4_0")] == 1.732047
    told, replaced = made.trainer._experience.take_told()
    assert (told["replay/injected"], told["replay/stored"], len(replaced)) == (1, 1, 1)
    assert made.trainer._experience.take_told() == ({"replay/injected": 0, "replay/stored": 1}, [])


def test_the_papers_loss_is_over_all_tokens_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, TRPO, "algorithm.advantage.ddof=0", "algorithm.correction.kind=tis")
    group = [Played(1.0, tokens=[3, 2], split=True), Played(0.0, tokens=[4]), Played(0.0, tokens=[1]),
             Played(-0.5, tokens=[2])]  # fmt: skip
    update = made.step({"a": group})
    assert len(update.column("advantages")) == 5
    loss = 0.0
    for row in update.rows.values():
        loss -= float((row["advantages"] * row["loss_shares"]).sum())  # ratios are 1
    assert loss == pytest.approx(-0.382359, abs=1e-6) or loss == pytest.approx(-0.382359 * 2, abs=1e-6)


def test_stored_rows_are_what_was_sampled_and_keep_their_old_log_probs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the trainer recomputes log-probs, PPO's ratio is still against the policy that sampled."""
    made = lab(monkeypatch, TRPO)
    first = made.step({"a": [Played(1.0, tokens=[2, 3], split=True, logprob=-0.25), *[Played(0.0)] * 3]})
    monkeypatch.setattr(type(made.trainer), "_examined", lambda self: True)
    second = made.step({"a": [Played(0.0, logprob=-0.5)] * 4})
    for index in (0, 1):
        old, new = first.rows[f"g1x0_0_{index}"], second.rows[f"g2x0_4_{index}"]
        for name in ("prompts", "responses", "response_mask", "rm_scores", "rollout_log_probs", "versions"):
            assert torch.equal(old[name], new[name])
        assert new["old_log_probs"].tolist() == [-0.25] * (2 + index)
        assert (new["uid"], new["extra_fields"]["episode"]["replayed"]["step"]) == ("g2x0", 1)
    fresh = [key for key in second.keys if not key.startswith(("g2x0_4", "pad"))]
    assert len(fresh) == 3
    assert all(second.rows[key]["old_log_probs"].tolist() == [-2.0, -2.0] for key in fresh)
    assert set(made.queue.rows) >= set(second.keys)
    gone = {f"g2x0_{number}_0" for number in range(4)} - set(second.keys)
    assert len(gone) == 1 and not gone & set(made.queue.rows)


def test_an_algorithm_that_corrects_recomputes_stored_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """DART's numbers: eight failures, one of which gives way, compared turn by turn."""
    made = lab(monkeypatch, *DART, size=8)
    made.step({"a": [Played(1.0, logprob=-0.25), *[Played(0.0)] * 7]})
    update = made.step({"a": [Played(0.0, version=1)] * 8})
    assert sorted(advantages(update)) == [-0.353552] * 7 + [2.474867]
    assert update.rows["g2x0_8_0"]["old_log_probs"].tolist() == [-2, -2]
    assert update.rows["g2x0_8_0"]["rollout_log_probs"].tolist() == [-0.25, -0.25]


def test_dart_leaves_out_groups_that_are_not_full_or_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, *DART, tasks=4, size=8)
    mixed = [Played(1.0), *[Played(0.0)] * 7]
    update = made.step(
        {"full": mixed, "short": mixed[:7], "solved": [Played(1.0)] * 8, "failed": [Played(0.0)] * 8}
    )
    shares = update.column("loss_shares")
    counted = {key.split("_")[0] for key, row in shares.items() if any(row)}
    assert counted == {"g1x0"}
    assert sum(map(sum, shares.values())) == pytest.approx(1)
    told, _ = made.trainer._experience.take_told()
    assert told["replay/left_out"] == 7 + 8 + 8


@pytest.mark.parametrize(
    ("how", "success", "expected"),
    [
        ({}, True, Decision("a1")),
        ({"replace": "oldest"}, True, Decision("a2")),
        ({}, False, Decision()),
        ({"newest_versions": 1}, True, Decision("a1", frozenset({"a2"}))),
        ({"newest_versions": 2, "least": 3, "replace": "oldest"}, True, Decision("a2")),
        ({"newest_versions": 1, "least": 3}, True, Decision(None, frozenset({"a0", "a1", "a2"}))),
        ({"newest_versions": 2, "least": 3}, False, Decision(None, frozenset({"a0", "a1", "a2"}))),
    ],
)
def test_what_becomes_of_a_group(how: dict, success: bool, expected: Decision) -> None:
    """Three failures of versions 5, 5 and 4; another group has version 5."""
    step = [Rollout(f"a{i}", "a", 0.0, version, i) for i, version in enumerate((5, 5, 4))]
    step.append(Rollout("b0", "b", 1.0, 5, 0))
    stored = Rollout("stored", "a", 1.0, 1, -1, used=True) if success else None
    found = decide(TaskReplay(**how), step, "a", stored, asked=3, rng=Random(2))
    if expected.replaced == "a1":  # any of those that count
        assert found.replaced in {"a0", "a1", "a2"} - expected.left_out
        found = Decision("a1", found.left_out)
    assert found == expected


@pytest.mark.parametrize("version", [2, 4, 5])
def test_a_stored_successs_own_version_is_none_of_the_steps(version: int) -> None:
    """Four failures of versions 5, 5, 3 and 3, of which the newest two versions count."""
    step = [Rollout(f"a{i}", "a", 0.0, sampled, i) for i, sampled in enumerate((5, 5, 3, 3))]
    stored = Rollout("stored", "a", 1.0, version, -1, used=True)
    how = TaskReplay(newest_versions=2, least=4, replace="oldest")
    assert decide(how, step, "a", stored, asked=4, rng=Random(2)) == Decision("a2")


def test_a_group_with_a_success_keeps_all_of_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, TRPO)
    group = [Played(1.0), *[Played(0.0)] * 3]
    made.step({"a": group})
    assert sorted(made.step({"a": group}).keys) == [f"g2x0_{number}_0" for number in range(4)]


def test_success_is_the_environments_whatever_the_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, TRPO)
    made.step({"a": [Played(0.5, success=False), *[Played(0.0)] * 3]})
    made.step({"b": [Played(-0.5, success=True), *[Played(-1.0)] * 3]})
    kept = [item.task for item in made.trainer._experience._store.state()]
    assert kept == ["b"]


def test_the_store_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    options = "algorithm.replay.options={capacity: 2, capacity_per_task: 1, age: 3}"
    made = lab(monkeypatch, TRPO, options)
    for task in ("a", "a", "b", "c"):
        made.step({task: [Played(1.0), *[Played(0.0)] * 3]})
    store = made.trainer._experience._store
    assert [(item.task, item.step) for item in store.state()] == [("b", 3), ("c", 4)]
    made.trainer.global_steps = 7
    assert "g7x0_4_0" not in made.step({"b": NEVER}).keys  # more than 3 steps old
    assert [item.task for item in store.state()] == ["c"]


def test_a_resumed_run_has_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = lab(monkeypatch, TRPO)
    first = made.step({"a": [Played(1.0, tokens=[5], logprob=-0.25), *[Played(0.0)] * 3]})
    folder = saved(made, tmp_path / "global_step_1")
    resumed = lab(monkeypatch, TRPO)
    resumed.trainer._experience.load(folder)
    resumed.trainer.global_steps = 2
    row = resumed.step({"a": NEVER}).rows["g2x0_4_0"]
    assert torch.equal(row["responses"], first.rows["g1x0_0_0"]["responses"])
    assert row["old_log_probs"].tolist() == [-0.25] * 5
    fresh = lab(monkeypatch, TRPO)
    fresh.trainer._experience.load(tmp_path / "global_step_9")  # a checkpoint that has none
    assert len(fresh.step({"a": NEVER}).keys) == 4


def examined(made: Lab, update, step: int):
    """What the doctor says of what is trained on again; the rest has no ledger here."""
    rows = fetch_rows(made.last, tokens=[*TOKEN_FIELDS, VERSIONS])
    report = examine_step(rows, step=step, algorithm=made.trainer._settings.algorithm)
    return rows, {check.name: check for check in report.checks}


AGAIN, BASELINES = "what is trained on again is what was sampled", "no void episode in a baseline"
REWARDS = "rewards arrived whole, at sampled tokens"


def test_the_doctor_examines_stored_rows_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, TRPO)
    made.step({"a": [Played(1.0, logprob=-0.25), *[Played(0.0)] * 3]})
    update = made.step({"a": [Played(0.0, version=1)] * 4})
    rows, checks = examined(made, update, 2)
    assert [checks[name].passed for name in (AGAIN, BASELINES, REWARDS)] == [True] * 3
    assert (
        "1 groups of 4 to 4 episodes" in checks[BASELINES].detail
        and "1 rows of step 1" in checks[AGAIN].detail
    )
    told = step_metrics(
        [row for row in rows if not row.replayed], {}, {}, expected=4, replaced=[rows[0].episode]
    )
    assert (told["voided"], told["success/mean"]) == (0, 0)


@pytest.mark.parametrize(
    ("column", "value", "failing"),
    [("responses", 7, AGAIN), ("rollout_log_probs", -9.0, AGAIN), ("versions", 1, AGAIN),
     ("rm_scores", 0.25, AGAIN), ("old_log_probs", -2.0, AGAIN), ("advantages", 0.5, BASELINES)],
)  # fmt: skip
def test_the_doctor_catches_a_stored_row_that_changed(
    monkeypatch: pytest.MonkeyPatch, column: str, value: float, failing: str
) -> None:
    made = lab(monkeypatch, TRPO)
    made.step({"a": [Played(1.0, logprob=-0.25), *[Played(0.0)] * 3]})
    update = made.step({"a": [Played(0.0, version=1)] * 4})
    made.queue.rows["g2x0_4_0"][column][-1] = value
    _, checks = examined(made, update, 2)
    assert not checks[failing].passed


SPEAR = ["algorithm.name=spear", "algorithm.shaping=null", "algorithm.filters.top_share=null",
         "algorithm.replay.options={size: 1, fill: 1, tolerate_steps: 5, "
         "coefficient: {start: 0, end: 1, until: 200, shape: cosine}}"]  # fmt: skip
GROUPS = {
    "a": [Played(0.0, calls=1), Played(0.4, calls=1)],
    "b": [Played(0.0, calls=1), Played(1.0, calls=1, tokens=[3], logprob=-0.25)],
    "c": [Played(0.4, calls=1), Played(0.6, calls=2)],
    "d": [Played(0.5), Played(1.0)],  # without calls
    "e": [Played(1.0, calls=1), Played(1.0, calls=1)],  # no better than its group
}


def test_spear_trains_again_on_what_is_above_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means .2, .5, .5, .75, 1 have the median .5; of .4, 1 and .6 two are above it; gamma(50) of 200."""
    made = lab(monkeypatch, *SPEAR, tasks=5, size=2)
    made.trainer.global_steps = 50
    made.step(GROUPS)
    made.step(GROUPS)
    _, policy, again = made.updates
    real = [key for key in again.keys if not key.startswith("pad")]
    assert len(policy.keys) == 10 and len(again.keys) == 10 and len(real) == 2
    last = {row["rm_scores"].sum().item(): row for key, row in again.rows.items() if key in real}
    found = {round(reward, 3): round(row["advantages"][-1].item(), 6) for reward, row in last.items()}
    assert found == {1.0: 0.5, 0.6: 0.1}
    assert last[1.0]["old_log_probs"].tolist() == [-0.25] * 3
    assert last[1.0]["loss_shares"].tolist() == pytest.approx([0.146447 / (2 * 16)] * 3, rel=1e-5)
    padding = [row for key, row in again.rows.items() if key not in real]
    assert all(not row["loss_shares"].any() and len(row["old_log_probs"]) == 1 for row in padding)
    told, _ = made.trainer._experience.take_told()
    assert (told["replay/again"], told["replay/stored"], told["replay/baseline"]) == (2, 3, 0.5)
    steps = [row["extra_fields"]["episode"]["replayed"]["step"] for row in last.values()]
    assert steps == [50, 50]  # the buffer is empty then, but for what this step played
    assert not set(again.keys) & set(made.queue.rows)


def test_spear_waits_for_its_buffer_and_its_schedule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = lab(monkeypatch, *SPEAR, tasks=5, size=2)
    made.step(GROUPS)
    assert len(made.updates) == 1  # the weight is 0 in the first step
    resumed = lab(monkeypatch, *SPEAR, "algorithm.replay.options.size=3", tasks=5, size=2)
    resumed.trainer._experience.load(saved(made, tmp_path / "one"))
    buffer = resumed.trainer._experience._spear
    assert (len(buffer), buffer.baseline) == (3, 0.5)
    resumed.trainer.global_steps = 5
    resumed.step(GROUPS)
    assert len(resumed.updates) == 1 and len(buffer) == 6  # two of three are above the median
    resumed.step(GROUPS)
    again = resumed.updates[-1]
    assert len([key for key in again.keys if not key.startswith("pad")]) == 4
    late = lab(monkeypatch, *SPEAR, tasks=5, size=2)
    late.trainer._experience.load(tmp_path / "one")
    late.trainer.global_steps = 7
    late.step({task: [Played(0.0), Played(0.0)] for task in GROUPS})
    assert len(late.updates) == 1 and len(late.trainer._experience._spear) == 0  # all were too old


def test_the_doctor_sees_what_spear_trains_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, *SPEAR, tasks=5, size=2)
    made.trainer.global_steps = 51
    made.step({task: [Played(0.0, version=9), Played(0.0, version=9)] for task in GROUPS})
    made.trainer._experience._spear.how.coefficient = 0.0
    made.step(GROUPS)
    made.trainer._experience._spear.how.coefficient = 1.0
    monkeypatch.setattr(type(made.trainer), "_examined", lambda self: True)
    made.step({task: [Played(0.0, version=52), Played(0.0, version=52)] for task in GROUPS})
    rows = [*fetch_rows(made.last, tokens=[*TOKEN_FIELDS, VERSIONS]), *made.trainer._again]
    assert len(made.trainer._again) == 3
    report = examine_step(rows, step=53, algorithm=made.trainer._settings.algorithm)
    checks = {check.name: check for check in report.checks}
    assert checks[AGAIN].passed, checks[AGAIN].detail
    assert checks[BASELINES].passed and "5 groups of 2 to 2 episodes" in checks[BASELINES].detail


def test_the_history_of_tasks_says_how_many_episodes_and_turns_they_get(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import json

    from tensordict import NonTensorStack, TensorDict

    settings = ["algorithm.name=grpo", "algorithm.groups={adaptive_size: true, adaptive_length: true}",
                "rollout.max_turns=6"]  # fmt: skip
    made = lab(monkeypatch, *settings, tasks=3, size=8)
    made.step(
        {
            "easy": [Played(1.0, tokens=[1, 1]), *[Played(1.0, tokens=[1])] * 7],
            "half": [*[Played(1.0, tokens=[1] * 3)] * 4, *[Played(0.0, tokens=[1] * 5)] * 4],
            "hard": [Played(0.0, tokens=[1])] * 8,
        }
    )

    def asked(of: Lab) -> tuple[list[int], list[int]]:
        tasks = ("easy", "half", "hard", "new")
        infos = [{"task": json.dumps({"id": task})} for task in tasks]
        prompts = of.trainer._experience.ask(
            TensorDict({"extra_info": NonTensorStack(*infos)}, batch_size=4), 1
        )
        assert list(prompts["__rollout_n__"]) == list(prompts["group_size"])
        return list(prompts["__rollout_n__"]), list(prompts["turn_limit"])

    assert asked(made) == ([2, 8, 8, 8], [2, 3, 6, 6])
    resumed = lab(monkeypatch, *settings, tasks=3, size=8)
    resumed.trainer._experience.load(saved(made, tmp_path / "one"))
    assert asked(resumed) == asked(made)


def test_episodes_that_were_asked_for_are_counted_by_group() -> None:
    from agentrl.doctor import Row

    config = load_config("env", ["algorithm.tasks_per_step=3", "algorithm.group_size=8"]).algorithm
    rows = [Row("a_0_0", {"asked": 2}), Row("a_1_0", {"asked": 2}), Row("b_0_0", {"asked": 8})]
    assert expected_episodes(rows, config) == 2 + 8 + 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([TRPO, "algorithm.replay.name=tasks"], "Did you mean 'task'"),
        ([TRPO, "algorithm.replay.options.least_=1"], r"options\.least_\. Did you mean"),
        ([TRPO, "algorithm.replay.options.replace=newest"], "replace='newest'"),
        ([TRPO, "algorithm.replay=null"], r"set algorithm\.replay\.name=task"),
        (["algorithm.name=spear", "algorithm.replay.options.coefficient=x"], "coefficient='x'"),
        (["algorithm.name=spear", "algorithm.weights.kind=duration"], r"weights\.kind=none"),
        (["algorithm.name=sapo_swarm", "algorithm.replay.options.node=a/b"], "node='a/b'"),
    ],
)
def test_what_does_not_fit_is_told(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(load_config("env", words).algorithm)
