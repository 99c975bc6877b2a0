"""Where verl has the same part, ours gives the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from algorithm_numbers import turns
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig, PolicyLossConfig

from agentrl.algorithms import load
from agentrl.algorithms.advantages import compute
from agentrl.algorithms.aggregate import token_shares
from agentrl.algorithms.batch import Batch
from agentrl.algorithms.kl import kl_estimate
from agentrl.algorithms.loss import LossInputs, policy_loss
from agentrl.algorithms.spec import Aggregation

RNG = np.random.default_rng(7)
BATCH = turns([[4, 2], [3], [1, 1, 2], [5]], [[0, 1], [0], [0, 0, 0], [1]], groups=[0, 0, 1, 1])
MASK = torch.from_numpy(BATCH.mask)
LOGPROBS, OLD, REFERENCE = (torch.from_numpy(RNG.normal(-1.5, 0.4, BATCH.mask.shape)) for _ in range(3))
ADVANTAGES = torch.from_numpy(RNG.normal(0, 1, BATCH.mask.shape))


def config(**settings: Any) -> ActorConfig:
    found = ActorConfig(strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1, **settings)
    found.global_batch_info.update(dp_size=1, loss_scale_factor=50)
    return found


def ours(name: str, changes: dict[str, Any]) -> float:
    algorithm = load(name, {"clip_cov": None, "kl": {"coefficient": 0.0}, "filters": {}, **changes})
    shares = torch.from_numpy(token_shares(BATCH, algorithm.aggregation, horizon=50))
    return float(policy_loss(algorithm, LossInputs(LOGPROBS, OLD, ADVANTAGES, MASK, shares))[0])


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("token", "token-mean"), ("sequence", "seq-mean-token-mean"), ("sequence_sum", "seq-mean-token-sum"),
     ("sum_norm", "seq-mean-token-sum-norm")],
)  # fmt: skip
def test_aggregation(kind: str, mode: str) -> None:
    expected = core_algos.agg_loss(ADVANTAGES, MASK, mode, loss_scale_factor=50)
    shares = token_shares(BATCH, Aggregation.model_validate({"kind": kind}), horizon=50)
    assert (shares * ADVANTAGES.numpy()).sum() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"])
@pytest.mark.parametrize("dual", [None, 1.2, 3.0])
def test_ppos_loss(mode: str, dual: float | None) -> None:
    kinds = {"token-mean": "token", "seq-mean-token-mean": "sequence", "seq-mean-token-sum-norm": "sum_norm"}
    expected, _ = core_algos.compute_policy_loss_vanilla(
        OLD, LOGPROBS, ADVANTAGES, MASK, mode,
        config(clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=dual or 1e6),
    )  # fmt: skip
    got = ours("grpo", {"trust": {"dual_clip": dual}, "aggregation": {"kind": kinds[mode]}})
    assert got == pytest.approx(float(expected), rel=1e-5)


def test_gspos_loss() -> None:
    expected, _ = core_algos.compute_policy_loss_gspo(
        OLD, LOGPROBS, ADVANTAGES, MASK, "seq-mean-token-mean",
        config(clip_ratio_low=0.1, clip_ratio_high=0.1),
    )  # fmt: skip
    assert ours("gspo", {"trust": {"clip_low": 0.1, "clip_high": 0.1}}) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize(
    ("form", "verls"), [("k1", "kl"), ("abs", "abs"), ("k2", "mse"), ("k3", "low_var_kl")]
)
def test_forms_of_kl(form: Any, verls: str) -> None:
    expected = core_algos.kl_penalty(LOGPROBS, REFERENCE, verls)
    assert torch.allclose(kl_estimate(LOGPROBS, REFERENCE, form), expected)


@pytest.mark.parametrize(("name", "by_std"), [("grpo", True), ("dr_grpo", False)])
def test_advantages_of_groups(name: str, by_std: bool) -> None:
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        torch.from_numpy(BATCH.rewards), MASK, np.array(["a", "a", "b", "b"]), norm_adv_by_std_in_grpo=by_std
    )
    assert compute(BATCH, load(name)).advantages == pytest.approx(expected.numpy(), abs=1e-5)


def test_leave_one_out() -> None:
    expected, _ = core_algos.compute_rloo_outcome_advantage(
        torch.from_numpy(BATCH.rewards), MASK, np.array(["a", "a", "b", "b"])
    )
    assert compute(BATCH, load("rloo")).advantages == pytest.approx(expected.numpy(), abs=1e-5)


def test_gae_skips_observations() -> None:
    mask = np.array([[1, 0, 0, 1, 1], [1, 1, 0, 1, 0]], dtype=bool)
    rewards = np.where(mask, RNG.normal(size=mask.shape), 0)
    values = RNG.normal(size=mask.shape)
    expected, returns = core_algos.compute_gae_advantage_return(
        torch.from_numpy(rewards), torch.from_numpy(values), torch.from_numpy(mask).double(), 0.9, 0.8
    )
    algorithm = load("ppo", {"advantage": {"gamma": 0.9, "lam": 0.8}})
    result = compute(Batch.of(mask, rewards, [0, 0], values=values), algorithm)
    assert result.advantages[mask] == pytest.approx(expected.numpy()[mask], abs=1e-5)
    assert result.returns[mask] == pytest.approx(returns.numpy()[mask], abs=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.99])
def test_clip_covs_loss(share: float) -> None:
    """The same tokens are drawn, for both draw once among the same candidates."""
    bounds = {"low": 0.05, "high": 9.0}
    names = {"clip_cov_ratio": share, "clip_cov_lb": bounds["low"], "clip_cov_ub": bounds["high"]}
    how = PolicyLossConfig(loss_mode="clip_cov", **names)
    torch.manual_seed(0)
    expected, _ = core_algos.compute_policy_loss_clip_cov(
        OLD, LOGPROBS, ADVANTAGES, MASK, "token-mean",
        config(policy_loss=how, clip_ratio_low=0.2, clip_ratio_high=0.28),
    )  # fmt: skip
    torch.manual_seed(0)
    got = ours("spear", {"clip_cov": {"share": share, **bounds}, "aggregation": {"kind": "token"}})
    assert got == pytest.approx(float(expected), rel=1e-5)


def test_truncated_weights() -> None:
    """verl's CISPO weighs by the policy before the update and bounds it on both sides: within, it is ours."""
    near = OLD + 0.01 * torch.from_numpy(RNG.normal(size=OLD.shape))
    expected, _ = core_algos.compute_policy_loss_cispo(
        OLD, near, ADVANTAGES, MASK, "token-mean", config(clip_ratio_low=0.5, clip_ratio_high=0.5)
    )
    algorithm = load("llamarl")
    shares = torch.from_numpy(token_shares(BATCH, algorithm.aggregation))
    got, _ = policy_loss(algorithm, LossInputs(near, OLD, ADVANTAGES, MASK, shares))
    assert float(got) == pytest.approx(float(expected), rel=1e-4)
