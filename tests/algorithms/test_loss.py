"""The policy's loss: worked numbers, gradients by finite differences, and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from algorithm_numbers import loss_of, row, spec, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algorithms import Algorithm, load, names
from agentrl.algorithms.aggregate import token_shares
from agentrl.algorithms.clip_cov import covariance, kept_tokens
from agentrl.algorithms.correction import correction_weights
from agentrl.algorithms.kl import kl_estimate
from agentrl.algorithms.loss import LossInputs, policy_loss
from agentrl.algorithms.ratios import ratio
from agentrl.algorithms.spec import ClipCov, Correction


@pytest.mark.parametrize(
    ("kind", "expected"), [("decoupled", -3.2625), ("mask", -0.2625), ("clamp", -1.7625), ("tis", -1.7625)]
)
def test_areal(kind: str, expected: float) -> None:
    got = loss_of(
        load("areal", {"correction": {"kind": kind}}),
        [0.3, 0.2, 0.5, 0.4], [1, 1, -1, 1], old=[0.25, 0.25, 0.5, 0.2], behaviour=[0.2, 0.25, 0.4, 0.02],
    )  # fmt: skip
    assert got == pytest.approx(expected)


def test_llamarl() -> None:
    algorithm = load("llamarl", {"trust": {"cap": 2.0}})
    got = loss_of(algorithm, [0.9, 0.3, 0.06], [1, 1, -2], behaviour=[0.1, 0.3, 0.6])
    assert got == pytest.approx(0.284004, abs=1e-6)


def test_scalerl() -> None:
    got = loss_of(load("scalerl"), [0.5, 0.6, 0.3], [1, 1, 1], behaviour=[1.0, 0.2, 0.05])
    assert got == pytest.approx(2.231647, abs=1e-6)


@pytest.mark.parametrize(("level", "expected"), [("token", -1.23), ("turn", -1.308), ("sequence", -1.32)])
def test_loop(level: str, expected: float) -> None:
    algorithm = load("loop", {"ratio": {"level": level}})
    got = loss_of(
        algorithm, [0.24, 0.18, 0.22, 0.2], [1.2] * 4, old=[0.2] * 4, turns=[0, 0, 1, 1]
    )  # fmt: skip
    assert got == pytest.approx(expected)


def test_loops_clip_is_reciprocal() -> None:
    assert loss_of(load("loop"), [0.4], [-1], old=[0.5]) == pytest.approx(0.909091, abs=1e-6)
    assert loss_of(load("ppo"), [0.35], [-1], old=[0.5]) == pytest.approx(0.8)


def test_mobile_agents_loss_is_over_all_tokens_of_all_steps() -> None:
    advantages = [1.605907, -0.229415, -0.229415, -1.147077]
    batch = turns([[3, 2], [4], [1], [2]], [[0, 0], [0], [0], [0]])
    shares = torch.from_numpy(token_shares(batch, load("trpo_traj").aggregation))
    given = torch.tensor(advantages)[:, None] * torch.from_numpy(batch.mask)
    same = torch.full_like(given, -1.0)
    loss, _ = policy_loss(
        load("trpo_traj"), LossInputs(same, same, given, torch.from_numpy(batch.mask), shares)
    )
    assert float(loss) == pytest.approx(-0.382359, abs=1e-6)


def test_darts_truncated_weights() -> None:
    how = load("dart").correction
    got = correction_weights(row([0.5, 0.2, 0.3]).log(), row([0.4, 0.4, 0.3]).log(), torch.ones(1, 3), how)
    assert got[0].tolist() == pytest.approx([1, 0.5, 1])
    without = correction_weights(row([-1, -2, -3]), torch.zeros(1, 3), torch.ones(1, 3), how)
    assert without[0].tolist() == [1, 1, 1]


def test_a_sequences_correction_is_the_geometric_mean() -> None:
    how = Correction(kind="mask", level="sequence", cap=2.0)
    weights = correction_weights(torch.log(torch.tensor([[2.0, 0.5, 4.0], [16.0, 1.0, 1.0]])),
                                 torch.full((2, 3), -1e-9), torch.ones(2, 3), how)  # fmt: skip
    assert weights[0].tolist() == pytest.approx([4 ** (1 / 3)] * 3, rel=1e-5)
    assert weights[1].tolist() == [0, 0, 0]  # 16 ** (1/3) is above the cap


def test_clip_cov_draws_among_tokens_that_vary_together() -> None:
    advantages, p = row([1, 1, -1, -1]), row([0.9, 0.1, 0.9, 0.1]).log()
    mask = torch.ones_like(p)
    assert covariance(p, advantages, mask)[0].tolist() == pytest.approx(
        [1.098612, -1.098612, -1.098612, 1.098612], abs=1e-6
    )
    drawn = set()
    for seed in range(20):
        kept = kept_tokens(
            p, advantages, mask, torch.zeros(1, 4, dtype=torch.bool), ClipCov(share=0.02, low=1, high=40),
            torch.Generator().manual_seed(seed),
        )[0]  # fmt: skip
        [out] = torch.nonzero(kept == 0).flatten().tolist()
        drawn.add(out)
    assert drawn == {0, 3}


def test_forms_of_kl() -> None:
    p, reference = row([0.5, 0.2]).log(), row([0.25, 0.4]).log()
    d = np.log(2)
    assert kl_estimate(p, reference, "k1")[0].tolist() == pytest.approx([d, -d])
    assert kl_estimate(p, reference, "abs")[0].tolist() == pytest.approx([d, d])
    assert kl_estimate(p, reference, "k2")[0].tolist() == pytest.approx([d * d / 2] * 2)
    assert kl_estimate(p, reference, "k3")[0].tolist() == pytest.approx([0.5 - 1 + d, 2 - 1 - d])


def test_verirl_weighs_policy_loss_and_kl_apart() -> None:
    p, old = row([0.4, 0.5]).log(), row([0.5, 0.4]).log()
    inputs = LossInputs(
        p, old, row([1.0, -1.0]), torch.ones(1, 2), row([0.5, 0.5]), weights=row([1.8, 1.0]),
        kl_weights=row([0.5, 0.6]),
    )  # fmt: skip
    loss, parts = policy_loss(load("verirl", {"ratio": {"level": "token"}}), inputs)
    k3 = [1.25 - 1 - np.log(1.25), 0.8 - 1 - np.log(0.8)]
    assert float(parts["policy"]) == pytest.approx(0.5 * (-1.8 * 0.8 + 1.0 * 1.25))
    assert float(parts["kl"]) == pytest.approx(0.5 * (0.5 * k3[0] + 0.6 * k3[1]))
    assert float(loss) == pytest.approx(float(parts["policy"] + parts["kl"]))


def random_inputs(seed: int, rows: int = 4, width: int = 9) -> tuple[LossInputs, Any]:
    """Tensors in double precision, away from the corners of clips, and the batch that shares are made of."""
    rng = np.random.default_rng(seed)
    lengths = [[int(rng.integers(1, 4)), int(rng.integers(1, 4))] for _ in range(rows)]
    batch = turns(lengths, [[0, 0]] * rows, groups=[i // 2 for i in range(rows)])
    shape = batch.mask.shape
    tensor = {name: torch.from_numpy(rng.normal(-1.5, 0.2, shape))
              for name in ("logprobs", "old", "behaviour", "reference")}  # fmt: skip
    return LossInputs(
        **tensor,
        advantages=torch.from_numpy(rng.normal(0, 1, shape)),
        mask=torch.from_numpy(batch.mask),
        shares=torch.from_numpy(token_shares(batch, spec().aggregation)).double(),
        turns=torch.from_numpy(np.where(batch.mask, batch.turns, -1)),
        entropy=torch.from_numpy(rng.uniform(0, 1, shape)),
        weights=torch.from_numpy(rng.uniform(0.5, 2, shape)),
        kl_weights=torch.from_numpy(rng.uniform(0.5, 2, shape)),
    ), batch


def with_logprobs(inputs: LossInputs, logprobs: torch.Tensor) -> LossInputs:
    from dataclasses import replace

    return replace(inputs, logprobs=logprobs)


EXTRA = [
    spec(ratio={"level": "turn", "mean": True}, kl={"coefficient": 0.3, "form": "k2"}),
    spec(ratio={"level": "turn"}, trust={"kind": "reciprocal"}, entropy={"coefficient": 0.1}),
    spec(
        correction={"kind": "clamp", "level": "sequence", "floor": 0.9, "cap": 1.1}, kl={"coefficient": 1.0}
    ),
    spec(trust={"dual_clip": 1.05}, kl={"coefficient": 0.5, "against": "old", "form": "k1"}),
]
SMOOTH = [algorithm for algorithm in [*map(load, names()), *EXTRA] if algorithm.clip_cov is None]


@pytest.mark.parametrize("algorithm", SMOOTH, ids=lambda a: a.name)
def test_gradients_are_those_of_finite_differences(algorithm: Algorithm) -> None:
    """Weights of truncated losses are held as they are at the point, for they carry no gradient."""
    inputs, _ = random_inputs(3)
    at = inputs.logprobs.clone().requires_grad_()
    loss, _ = policy_loss(algorithm, with_logprobs(inputs, at))
    loss.backward()
    if algorithm.trust.kind == "truncated":
        held = torch.exp(inputs.logprobs - inputs.behaviour).clamp(max=algorithm.trust.cap)
        expected = -held * inputs.advantages * inputs.shares * inputs.weights * inputs.mask
        assert torch.allclose(at.grad, expected)
        return
    step = 1e-6
    for place in torch.nonzero(inputs.mask):
        i, t = place.tolist()
        ends = []
        for sign in (1, -1):
            moved = inputs.logprobs.clone()
            moved[i, t] += sign * step
            ends.append(float(policy_loss(algorithm, with_logprobs(inputs, moved))[0]))
        assert float(at.grad[i, t]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
    assert not at.grad[~inputs.mask].any()


@given(st.integers(0, 1000), st.sampled_from(SMOOTH), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_micro_batches_sum_to_the_whole_and_masked_tokens_may_hold_anything(
    seed: int, algorithm: Algorithm, cut: int
) -> None:
    inputs, _ = random_inputs(seed)
    whole, _ = policy_loss(algorithm, inputs)
    parts = []
    for rows in (slice(None, cut), slice(cut, None)):
        padded = {name: torch.nn.functional.pad(tensor[rows], (0, 3), value=0 if name == "mask" else 9)
                  for name, tensor in vars(inputs).items()}  # fmt: skip
        off = ~padded["mask"].bool()
        for name in ("logprobs", "old", "behaviour", "reference", "entropy", "advantages"):
            padded[name] = padded[name].masked_fill(off, float("nan"))
        parts.append(float(policy_loss(algorithm, LossInputs(**padded))[0]))
    assert sum(parts) == pytest.approx(float(whole), abs=1e-9)


def test_nan_behind_the_mask_leaves_gradients_whole() -> None:
    inputs, _ = random_inputs(5)
    dirty = inputs.logprobs.masked_fill(~inputs.mask, float("nan")).requires_grad_()
    loss, _ = policy_loss(load("loop", {"ratio": {"level": "turn"}}), with_logprobs(inputs, dirty))
    loss.backward()
    assert torch.isfinite(dirty.grad).all()


def test_what_is_missing_is_said() -> None:
    p = row([0.5]).log()
    bare = LossInputs(p, p, row([1.0]), torch.ones(1, 1), row([1.0]))
    with pytest.raises(ValueError, match="given no reference"):
        policy_loss(load("router_r1"), bare)
    with pytest.raises(ValueError, match="needs the turns"):
        policy_loss(spec(ratio={"level": "turn"}), bare)
    with pytest.raises(ValueError, match=r"Algorithm\.at"):
        policy_loss(spec(kl={"coefficient": {"start": 0, "end": 1, "until": 3}}), bare)


def test_a_gspo_ratio_is_the_geometric_mean() -> None:
    delta = torch.tensor([[0.1, 0.3, 9.0]])
    got = ratio(delta, torch.zeros(1, 3), torch.tensor([[1, 1, 0]]), level="sequence", mean=True)
    assert got[0].tolist() == pytest.approx([np.exp(0.2), np.exp(0.2), 1])
