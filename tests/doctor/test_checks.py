"""The doctor passes a sound step and catches each kind of planted fault."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from agentrl.algorithms import load
from agentrl.config import Algorithm
from agentrl.doctor import Row, examine_step
from agentrl.doctor.checks import group_advantages

GRPO = load("grpo").advantage
TOKENS, MASK, ARRIVED, AGREE, REWARDS, BASELINES = (
    "trained tokens are the sampled tokens",
    "the mask covers exactly the sampled spans",
    "the engine's log-probs arrived unchanged",
    "the trainer recomputes the engine's log-probs",
    "rewards arrived whole, at sampled tokens",
    "no void episode in a baseline",
)


def episode(key: str, reward: float, advantage: float, seed: int) -> Row:
    """Two turns around an observation: prompt (4), turn (5), observation (3), turn (2)."""
    rng = np.random.default_rng(seed)
    prompt, first, seen, second = (rng.integers(10, 500, size=n).tolist() for n in (4, 5, 3, 2))
    logprobs = [rng.uniform(-3, -0.1, size=n).astype(np.float32).tolist() for n in (5, 2)]
    mask = np.array([1] * 5 + [0] * 3 + [1] * 2)
    rollout = np.array(logprobs[0] + [0.0] * 3 + logprobs[1], dtype=np.float32)
    rewards = np.zeros(10, dtype=np.float32)
    rewards[-1] = reward
    return Row(
        key=key,
        episode={"status": "finished", "reward": reward},
        ledger=[
            {"prompt_ids": prompt, "token_ids": first, "logprobs": logprobs[0]},
            {"prompt_ids": prompt + first + seen, "token_ids": second, "logprobs": logprobs[1]},
        ],
        columns={
            "prompts": np.array(prompt),
            "responses": np.array(first + seen + second),
            "response_mask": mask,
            "rm_scores": rewards,
            "rollout_log_probs": rollout,
            "old_log_probs": rollout + mask * rng.normal(0, 1e-4, size=10).astype(np.float32),
            "advantages": mask * np.float32(advantage),
        },
    )


def step() -> list[Row]:
    """One group of four episodes with rewards 1, 0, 0, 1."""
    rewards = np.array([1.0, 0.0, 0.0, 1.0])
    advantages = group_advantages(rewards, GRPO)
    return [episode(f"task_{i}_0", rewards[i], advantages[i], seed=i) for i in range(4)]


def failed(rows: list[Row], algorithm: Algorithm | None = None) -> set[str]:
    report = examine_step(rows, step=1, algorithm=algorithm or Algorithm())
    return {check.name for check in report.checks if not check.passed}


def test_a_sound_step_passes() -> None:
    assert failed(step()) == set()


def test_group_advantages_are_those_of_the_paper() -> None:
    assert group_advantages(np.array([1.0, 0, 0, 1]), GRPO) == pytest.approx(
        [0.866024, -0.866024, -0.866024, 0.866024], abs=1e-5
    )
    assert group_advantages(np.array([1.0, 0, 0, 0]), GRPO)[0] == pytest.approx(1.499997, abs=1e-5)
    assert group_advantages(np.array([1.0, 0, 0, 1]), load("dr_grpo").advantage).tolist() == [
        0.5,
        -0.5,
        -0.5,
        0.5,
    ]


def change(column: str, at: int, value: float) -> Callable[[Row], None]:
    def apply(row: Row) -> None:
        row.columns[column][at] = value

    return apply


def shift_logprobs(row: Row) -> None:
    """Positions off by one, as a trainer with wrong position ids or a shifted label would give."""
    row.columns["old_log_probs"] = np.roll(row.columns["old_log_probs"], 1)


def retokenise(row: Row) -> None:
    """The same text in other tokens: one sampled token became two."""
    for name in (
        "responses",
        "response_mask",
        "rm_scores",
        "rollout_log_probs",
        "old_log_probs",
        "advantages",
    ):
        row.columns[name] = np.insert(row.columns[name], 2, row.columns[name][2])


def drop_context(row: Row) -> None:
    """The observation that the model saw is missing from what is trained on."""
    for name in (
        "responses",
        "response_mask",
        "rm_scores",
        "rollout_log_probs",
        "old_log_probs",
        "advantages",
    ):
        row.columns[name] = np.delete(row.columns[name], 6)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        pytest.param(change("responses", 1, 7), TOKENS, id="a sampled token replaced"),
        pytest.param(change("responses", 6, 7), TOKENS, id="an observed token replaced"),
        pytest.param(change("prompts", 0, 7), TOKENS, id="another prompt"),
        pytest.param(retokenise, TOKENS, id="re-tokenised"),
        pytest.param(drop_context, TOKENS, id="an observation dropped"),
        pytest.param(change("response_mask", 6, 1), MASK, id="loss on an observation"),
        pytest.param(change("response_mask", 0, 0), MASK, id="a sampled token left out"),
        pytest.param(change("advantages", 6, 0.5), MASK, id="an advantage on an observation"),
        pytest.param(change("rollout_log_probs", 3, -9.0), ARRIVED, id="an engine log-prob changed"),
        pytest.param(shift_logprobs, AGREE, id="trainer positions off by one"),
        pytest.param(change("old_log_probs", 3, np.nan), AGREE, id="a log-prob that is no number"),
        pytest.param(change("rm_scores", 9, 0.25), REWARDS, id="part of a reward lost"),
        pytest.param(
            lambda row: row.episode.update(status="void"), BASELINES, id="a void episode trained on"
        ),
        pytest.param(change("advantages", 9, 3.0), BASELINES, id="another advantage"),
        pytest.param(lambda row: row.ledger.pop(), MASK, id="a generation that nobody recorded"),
    ],
)
def test_a_planted_fault_is_caught(plant: Callable[[Row], None], expected: str) -> None:
    rows = copy.deepcopy(step())
    plant(rows[0])
    assert expected in failed(rows)


def test_a_reward_on_an_observation_is_caught() -> None:
    rows = step()
    rows[0].columns["rm_scores"][9] = 0
    rows[0].columns["rm_scores"][6] = 1
    assert REWARDS in failed(rows)


def test_a_stale_policy_is_caught() -> None:
    """The engine sampled from other weights than the trainer's: log-probs differ a little everywhere."""
    rows = step()
    for row in rows:
        row.columns["old_log_probs"] = row.columns["old_log_probs"] - 0.05 * row.columns["response_mask"]
    assert failed(rows) == {AGREE}


def test_a_baseline_that_counts_a_void_episode_as_zero_is_caught() -> None:
    """Three episodes ended with 1, 0, 1; the fourth was void. Its zero must not enter the mean."""
    counted = group_advantages(np.array([1.0, 0, 1, 0]), GRPO)
    rows = [episode(f"task_{i}_0", r, counted[i], seed=i) for i, r in enumerate([1.0, 0.0, 1.0])]
    assert failed(rows) == {BASELINES}
    right = group_advantages(np.array([1.0, 0, 1]), GRPO)
    rows = [episode(f"task_{i}_0", r, right[i], seed=i) for i, r in enumerate([1.0, 0.0, 1.0])]
    assert failed(rows) == set()


def test_rows_of_one_episode_are_examined_together() -> None:
    """The context was rewritten after the first turn: two rows, one reward, one advantage."""
    whole = episode("task_0_0", 1.0, 0.0, seed=5)
    first, second = copy.deepcopy(whole), copy.deepcopy(whole)
    cut = {name: column[:5] for name, column in whole.columns.items() if name != "prompts"}
    first.columns.update(cut)
    fresh = np.array([900, 901, 902])
    second = Row("task_0_1", whole.episode, whole.ledger, {name: c[8:] for name, c in whole.columns.items()})
    second.columns["prompts"] = fresh
    ledger = [whole.ledger[0], {**whole.ledger[1], "prompt_ids": fresh.tolist()}]
    rows = [Row(r.key, r.episode, ledger, r.columns) for r in (first, second)]
    assert failed(rows, Algorithm(name="ppo")) == set()
    rows[1].columns["responses"][0] += 1
    assert TOKENS in failed(rows, Algorithm(name="ppo"))


def test_a_step_without_rows_or_records_does_not_pass() -> None:
    assert TOKENS in failed([])
    rows = step()
    rows = [Row(row.key, row.episode, [], row.columns) for row in rows]
    assert TOKENS in failed(rows) and MASK in failed(rows)
