"""Published examples through the trainer's own path: rows in a queue, advantages and a loss out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from replay_support import Played, Update, lab
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from agentrl.algorithms import Algorithm
from agentrl.config import load_config
from agentrl.train.algorithm import plan
from agentrl.train.loss import agent_loss
from agentrl.train.queue import replaced_groups
from agentrl.train.staleness import StalenessRule

Row = Sequence[float]


def advantages(update: Update) -> list[float]:
    """Of each episode, in order, at its last token."""
    return [row[-1] for _, row in sorted(update.column("advantages").items())]


def step(monkeypatch: pytest.MonkeyPatch, name: str, *groups: Sequence[Played], words: Row | Any = ()) -> Any:
    made = lab(
        monkeypatch, f"algorithm.name={name}", "algorithm.rollout=null", *words,
        tasks=len(groups), size=max(map(len, groups)),
    )  # fmt: skip
    return made, made.step({chr(97 + place): group for place, group in enumerate(groups)})


def of(*rewards: float) -> list[Played]:
    return [Played(reward) for reward in rewards]


# ---- advantages


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        ("loop", [1, 0.5, 0, 0, 0, 0.5], [0.8, 0.2, -0.4, -0.4, -0.4, 0.2]),
        ("webagent_r1", [1, 0, 0, 0, 1], [1.095245, *[-0.730163] * 3, 1.095245]),
        ("llamarl", [1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        ("grpo", [1, 0, 0, 1], [0.866024, -0.866024, -0.866024, 0.866024]),
        ("grpo", [1, 0, 0, 0], [1.499997, *[-0.499999] * 3]),
        ("trpo_traj", [1, 0, 0, -0.5], [1.390757, -0.19868, -0.19868, -0.993398]),
    ],
)
def test_advantages(monkeypatch: pytest.MonkeyPatch, name: str, rewards: Row, expected: Row) -> None:
    _, update = step(monkeypatch, name, of(*rewards))
    assert advantages(update) == pytest.approx(expected, abs=2e-6)


def test_scalerl_scales_what_is_left_and_averages_over_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = of(1, 1, 1, 1)
    first = [Played(reward, tokens=[n]) for reward, n in zip([1, 0, 0, 1], [2, 4, 2, 2], strict=True)]
    second = [Played(reward, tokens=[n]) for reward, n in zip([0, 0, 0, 1], [10, 10, 10, 20], strict=True)]
    words = ["rollout.max_trajectory_tokens=32"]
    _, update = step(monkeypatch, "scalerl", solved, first, second, words=words)
    expected = [0] * 4 + [1.069045, -1.069045, -1.069045, 1.069045] + [-0.534522] * 3 + [1.603567]
    assert advantages(update) == pytest.approx(expected, abs=2e-6)
    total = sum(float((row["advantages"] * row["loss_shares"]).sum()) for row in update.rows.values())
    assert total == pytest.approx(0.053452, abs=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dapo", "llamarl", "spo", "spear", "trpo_traj"])
def test_an_episode_whose_group_is_void_otherwise_teaches_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """verl would give it its whole reward for an advantage."""
    whole = of(1, 0) if name != "trpo_traj" else of(1, 0.5)
    words = [
        "algorithm.filters.top_share=null",
        "algorithm.replay=null",
        "algorithm.groups.inject_success=false",
    ]
    _, update = step(monkeypatch, name, whole, of(0.5), words=words)
    first, second, alone = advantages(update)
    assert first > 0 > second and alone == 0


def test_leave_one_out_has_nothing_to_subtract_then(monkeypatch: pytest.MonkeyPatch) -> None:
    _, update = step(monkeypatch, "loop", of(1, 0), of(0.5))
    assert advantages(update) == pytest.approx([1, -1, 0.5])


@pytest.mark.parametrize("name", ["grpo", "scalerl"])
def test_rounding_is_no_advantage(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    words = ["algorithm.advantage.epsilon=0", "algorithm.filters.zero_variance=keep"]
    _, update = step(monkeypatch, name, of(*[0.1] * 3), of(*[0.7] * 6), of(*[1 / 3] * 7), words=words)
    assert advantages(update) == [0.0] * 16


# ---- shares


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("webagent_r1", [[1 / 4, 1 / 12], [1 / 2]]),
        ("dart", [[1 / 3, 1 / 9], [1 / 3]]),
        ("archer", [[1 / 3, 1 / 3], [1 / 3]]),
        ("loop", [[1 / 8, 1 / 8], [1 / 2]]),
    ],
)
def test_what_is_averaged(monkeypatch: pytest.MonkeyPatch, name: str, shares: list[Row]) -> None:
    """An episode of turns of 1 and 3 tokens, in two rows, and one of a single token."""
    words = ["algorithm.replay=null", "algorithm.groups.inject_success=false"]
    words += ["algorithm.filters.low_entropy_turns=null"]
    members = [Played(1.0, tokens=[1, 3], split=True), Played(0.0, tokens=[1])]
    _, update = step(monkeypatch, name, members, words=words)
    found = update.column("loss_shares")
    # Three rows are two updates of two, and a share is of the update.
    last = [found[key][-1] / 2 for key in ("g1x0_0_0", "g1x0_0_1", "g1x0_1_0")]
    assert last == pytest.approx([*shares[0], *shares[1]])


def test_a_truncated_episode_is_in_baselines_and_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Played(1.0, tokens=[3])
    cut.status = "truncated"
    _, update = step(monkeypatch, "spear", [cut, Played(0.0, tokens=[2])])
    assert advantages(update) == pytest.approx([0.5, -0.5])
    shares = update.column("loss_shares")
    assert shares["g1x0_0_0"] == [0, 0, 0] and min(shares["g1x0_1_0"]) > 0


# ---- losses of tokens, given as probabilities


def loss(algorithm: Algorithm, new: Row, given: Row, *, old: Row | None = None, behaviour: Row | None = None,
         turns: Sequence[int] | None = None) -> tuple[float, dict[str, Any]]:  # fmt: skip
    """Of one row, as verl's worker calls it; all tokens share alike."""
    count = len(new)

    def nested(values: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.nested.as_nested_tensor([torch.as_tensor(values, dtype=dtype)], layout=torch.jagged)

    columns = {
        "response_mask": nested([1] * count, torch.int64),
        "advantages": nested(given),
        "loss_shares": nested([1 / count] * count),
        "old_log_probs": nested(np.log(new if old is None else old)),
        "rollout_log_probs": nested(
            np.log((new if old is None else old) if behaviour is None else behaviour)
        ),
        "prompts": nested([0], torch.int64),
        "responses": nested([0] * count, torch.int64),
    }
    if turns is not None:
        columns["loss_turns"] = nested(turns, torch.int64)
    data = TensorDict(columns, batch_size=1)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=count, global_batch_size=1)
    output = {"log_probs": nested([*np.log(new), 0.0])}
    value, metrics = agent_loss(output, data, algorithm=algorithm)
    return float(value), metrics


def carried(name: str, *words: str) -> Algorithm:
    return plan(load_config("env", [f"algorithm.name={name}", *words]).algorithm).algorithm


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["algorithm.correction.kind=decoupled"], -3.2625),
        ([], -0.2625),
        (["algorithm.correction.kind=clamp"], -1.7625),
    ],
)
def test_areals_loss(words: list[str], expected: float) -> None:
    found, _ = loss(carried("areal", *words), [0.3, 0.2, 0.5, 0.4], [1, 1, -1, 1],
                    old=[0.25, 0.25, 0.5, 0.2], behaviour=[0.2, 0.25, 0.4, 0.02])  # fmt: skip
    assert found == pytest.approx(expected)


def test_llamarls_and_scalerls_truncated_weights() -> None:
    found, _ = loss(carried("llamarl", "algorithm.trust.cap=2"), [0.9, 0.3, 0.06], [1, 1, -2],
                    behaviour=[0.1, 0.3, 0.6])  # fmt: skip
    assert found == pytest.approx(0.284004, abs=1e-6)
    found, _ = loss(carried("scalerl"), [0.5, 0.6, 0.3], [1, 1, 1], behaviour=[1.0, 0.2, 0.05])
    assert found == pytest.approx(2.231647, abs=1e-6)


@pytest.mark.parametrize(("level", "expected"), [("token", -1.23), ("turn", -1.308), ("sequence", -1.32)])
def test_loops_ratios(level: str, expected: float) -> None:
    algorithm = carried("loop", f"algorithm.ratio.level={level}")
    new = [0.2 * ratio for ratio in (1.2, 0.9, 1.1, 1)]
    found, _ = loss(algorithm, new, [1.2] * 4, old=[0.2] * 4, turns=[0, 0, 1, 1])
    assert found == pytest.approx(expected)


def test_loops_clip_is_reciprocal() -> None:
    found, _ = loss(carried("loop"), [0.8], [-1], old=[1.0])
    assert found == pytest.approx(0.909091, abs=1e-6)


def test_darts_truncated_importance_weights() -> None:
    _, metrics = loss(carried("dart", "algorithm.kl.coefficient=0"), [0.5, 0.2, 0.3], [1, 1, 1],
                      behaviour=[0.4, 0.4, 0.3])  # fmt: skip
    assert metrics["actor/correction_mean"].values == [pytest.approx((1 + 0.5 + 1) / 3)]


def test_spears_clip_cov_takes_one_of_the_tokens_that_vary_most() -> None:
    """Covariances are 1.1, -1.1, -1.1 and 1.1: of the first and the last token one has no loss."""
    words = ["algorithm.clip_cov.share=0.02", "algorithm.clip_cov.low=1", "algorithm.clip_cov.high=40"]
    found, _ = loss(carried("spear", *words), [0.9, 0.1, 0.9, 0.1], [1, 1, -1, -1])
    assert abs(found) == pytest.approx(0.25)


# ---- which groups are trained on


def test_uis_first_returns_say_which_groups_are_played_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards of turns 1 and .1, or .1 and 1, sum to the same, and their first returns are 1.05 and .6."""
    made = lab(monkeypatch, "algorithm.name=ui_s1", tasks=2, size=2)
    algorithm = made.trainer._plan.algorithm
    differ = [Played(1.1, tokens=[1, 1]), Played(1.1, tokens=[1, 1])]
    made.step({"a": differ, "b": [Played(1.0, tokens=[1, 1]), Played(1.0, tokens=[1, 1])]})
    assert made.last is not None
    for key, rewards in {"g1x0_0_0": [1.0, 0.1], "g1x0_1_0": [0.1, 1.0]}.items():
        made.queue.rows[key]["rm_scores"] = torch.tensor(rewards)
    real = [key for key in made.last.keys if not key.startswith("pad")]
    batch = type(made.last)(partition_id="train", keys=real, tags=[{} for _ in real])
    wanted = algorithm.model_copy(deep=True)
    wanted.filters.least_std = 0.2
    assert replaced_groups(batch, wanted) == {"g1x0": None, "g1x1": 1.0}
    wanted.filters.least_std = 0.3  # the standard deviation is .225
    assert replaced_groups(batch, wanted) == {"g1x0": pytest.approx(1.1), "g1x1": 1.0}


def test_dapo_looks_at_episodes_and_not_at_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of an episode may differ where episodes do not; a group of one has none to differ from."""
    made = lab(monkeypatch, "algorithm.name=dapo", tasks=3, size=2)
    alike = [Played(1.0, tokens=[1, 1], split=True), Played(1.0, tokens=[2])]
    made.step({"a": alike, "b": of(1, 0), "c": of(1)})
    assert made.last is not None
    real = [key for key in made.last.keys if not key.startswith("pad")]
    batch = type(made.last)(partition_id="train", keys=real, tags=[{} for _ in real])
    found = replaced_groups(batch, made.trainer._plan.algorithm)
    assert found == {"g1x0": 1.0, "g1x1": None, "g1x2": 1.0}


# ---- how old samples may be


@pytest.mark.parametrize(
    ("words", "bound"),
    [([], 4), (["algorithm.staleness.max_lag=0"], 0), (["algorithm.staleness.max_lag=null"], 2)],
)
def test_areals_eta_is_the_bound(words: list[str], bound: int) -> None:
    config = load_config("env", ["algorithm.name=areal", "mode=async", *words])
    assert StalenessRule.of(config).bound == bound


def test_areals_admission() -> None:
    """eta = 4, batches of 4; the episodes that run at once are bounded elsewhere."""
    rule = StalenessRule(4, "drop")
    cases = [(0, 0, 0, 20), (0, 12, 6, 2), (0, 14, 6, 0), (1, 14, 6, 4), (3, 16, 7, 9)]
    for version, accepted, running, room in cases:
        found = rule.capacity(batch=4, trained=accepted, version=version, outstanding=running, last=100)
        assert found == room
