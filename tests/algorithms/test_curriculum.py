"""Curricula, buffers, semi-online episodes, compression and critics against worked numbers."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms.compression import Exchange, acting_samples, compressed_sample, context
from agentrl.algorithms.curriculum import (
    PassRates,
    drawn,
    length_cap,
    rollouts_for,
    tier_at,
    tiers_by_label,
    tiers_by_number,
)
from agentrl.algorithms.expert_replay import semi_online, sop, step_reward, step_reward_of_code
from agentrl.algorithms.progress import attribution_loss, fit, loo_outcome, step_rewards
from agentrl.algorithms.replay import Buffer, Item, spear_admits
from agentrl.algorithms.utterance_critic import advantage, critic_loss, polyak, q_target
from agentrl.errors import DefinitionError


def test_tiers() -> None:
    assert tiers_by_number([2, 3, 5, 8, 9, 12]) == [0, 0, 1, 1, 2, 2]
    assert tiers_by_number([0.9, 0.1, 0.5], [0.3, 0.7], down=True) == [0, 2, 1]
    assert tiers_by_label(["hard", "easy"], ["easy", "hard"]) == [1, 0]
    stages = [tier_at(step, 30, [1 / 3] * 3) for step in range(30)]
    assert stages == [0] * 10 + [1] * 10 + [2] * 10
    tiers = [0, 0, 1, 1, 2, 2]
    assert drawn(tiers, stages[15]) == [2, 3] and drawn(tiers, stages[15], cumulative=True) == [0, 1, 2, 3]
    with pytest.raises(DefinitionError):
        tiers_by_label(["odd"], ["easy"])


def test_what_is_solved_is_not_drawn_again() -> None:
    rates = PassRates()
    rates.add("easy", 9, 10)
    rates.add("hard", 8, 10)
    assert rates.drawn(["easy", "hard", "new"]) == ["hard", "new"]
    rates.add("easy", 0, 100)  # out is out
    assert PassRates.load(rates.state()).drawn(["easy", "hard"]) == ["hard"]
    with pytest.raises(DefinitionError):
        PassRates.load({"limit": 1})


def test_dart_plans() -> None:
    assert [rollouts_for(rate) for rate in (0, 0.6, 0.7, 0.8, 0.95, 1)] == [8, 8, 6, 4, 2, 2]
    assert (length_cap([], 50), length_cap([10, 30], 50), length_cap([80], 50)) == (50, 30, 50)


def test_buffer_rules() -> None:
    buffer: Buffer[str] = Buffer(3, 2, age=5)
    for step, (task, reward) in enumerate([("a", 1), ("a", 0), ("a", 1), ("a", 1), ("b", 1), ("c", 1)]):
        buffer.add(Item(str(step), task, reward, step))
    assert [item.value for item in buffer] == ["3", "4", "5"]
    assert (buffer.counts.admitted, buffer.counts.refused, buffer.counts.evicted) == (5, 1, 2)
    assert buffer.expire(9) == 1 and [item.value for item in buffer.of("a")] == []
    newest = buffer.newest("c")
    assert newest is not None and newest.value == "5" and buffer.newest("a") is None
    assert len(buffer.sample(9, Random(0))) == 2


def test_spears_use_of_the_buffer() -> None:
    buffer: Buffer[int] = Buffer(10, 10, admit=spear_admits)
    offered = [Item(i, "t", i / 4, 0, advantage=1.0, calls=1) for i in range(5)]
    assert all(map(buffer.add, offered))
    assert not buffer.add(Item(9, "t", 1, 0, advantage=1.0)) and not buffer.add(Item(9, "t", 1, 0, calls=1))
    assert buffer.take_above(0.5, ready=2) == [] and len(buffer) == 5
    assert [item.value for item in buffer.take_above(0.5, ready=1)] == [3, 4] and len(buffer) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1), st.booleans()), max_size=40),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(["oldest", "lowest"]),
)
def test_a_buffer_keeps_its_bounds(offers, most, per_task, evict) -> None:
    buffer: Buffer[int] = Buffer(most, per_task, age=3, admit=lambda item: item.reward > 0.2, evict=evict)
    for step, (task, reward, tick) in enumerate(offers):
        buffer.add(Item(step, task, reward, step))
        if tick:
            buffer.expire(step)
            assert all(step - item.step <= 3 for item in buffer)
        assert len(buffer) <= most and all(len(buffer.of(name)) <= per_task for name in "abc")
        assert sorted(i.value for name in "abc" for i in buffer.of(name)) == [i.value for i in buffer]
    kept = buffer.counts.admitted - buffer.counts.evicted - buffer.counts.aged
    assert kept == len(buffer) and buffer.counts.admitted + buffer.counts.refused == len(offers)


def test_semi_online_episodes() -> None:
    trace = [(i, "abcd"[i]) for i in range(4)]
    seen = []

    def act(state, history):
        seen.append("".join(history))
        return "axcx"[state]

    steps = semi_online(trace, act, str.__eq__, patches=1)
    assert seen == ["", "a", "ab", "abc"]  # the patch stands where the model diverged
    assert [step.matched for step in steps] == [True, False, True, False]
    assert [step.patched for step in steps] == [False, True, False, False]
    assert len(semi_online(trace, act, str.__eq__, patches=0)) == 2
    assert len(semi_online(trace, act, str.__eq__, patches=2)) == 4


def test_semi_online_numbers() -> None:
    assert step_reward(True, True, False) == pytest.approx(0.5)
    assert step_reward_of_code(True, True, True, False) == pytest.approx(0.55)
    assert step_reward(False, True, True) == 0
    metric = sop([3, 5, 0], [4, 5, 2])
    assert (metric.progress, metric.success, metric.score) == pytest.approx(
        (0.583333, 0.333333, 0.458333), abs=1e-6
    )
    with pytest.raises(DefinitionError):
        sop([3], [2])


def test_compression_keeps_the_acting_context() -> None:
    exchanges = [Exchange(range(100), range(200 + 10 * i, 205 + 10 * i)) for i in range(3)]
    stub = [7, 8, 9]
    assert len(context([], exchanges[:2], exchanges[2].observation, stub)) == 116
    samples = acting_samples([], exchanges, stub)
    assert [len(sample.ids) for sample in samples] == [105, 113, 121]
    assert (
        sum(sum(sample.mask) for sample in samples) == 15 == sum(compressed_sample([], exchanges, stub).mask)
    )
    for sample, exchange in zip(samples, exchanges, strict=True):
        trained = [token for token, own in zip(sample.ids, sample.mask, strict=True) if own]
        assert trained == list(exchange.action)


def test_utterance_critic() -> None:
    assert q_target([0.0, 1.0], [0, 1], [0.5, float("nan")], discount=0.9).tolist() == [0.45, 1.0]
    value = torch.tensor([0.5, float("nan")], requires_grad=True)
    target = q_target(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), value, discount=0.9)
    assert target.tolist() == pytest.approx([0.45, 1.0]) and not target.requires_grad
    assert advantage((np.array(0.6), np.array(0.7)), (np.array(0.4), np.array(0.55))) == pytest.approx(0.2)
    slow = [torch.tensor([0.5])]
    polyak(slow, [torch.tensor([1.0])], rate=0.1)
    assert slow[0].item() == pytest.approx(0.55)


def test_critic_loss_has_the_gradient_of_its_squares() -> None:
    rng = torch.Generator().manual_seed(0)
    q1, q2, v1, v2 = (
        torch.randn(4, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(4)
    )
    wanted = torch.randn(4, generator=rng, dtype=torch.float64, requires_grad=True)

    def loss(*values):
        a, b, c, d = values
        return critic_loss((a, b), (c, d), (wanted, wanted), (wanted, wanted))

    assert torch.autograd.gradcheck(loss, (q1, q2, v1, v2))
    loss(q1, q2, v1, v2).backward()
    assert wanted.grad is None


def test_progress_numbers() -> None:
    loss = attribution_loss(np.array([[0.1, 0.4, 0.3, 9.0]]), np.array([[1, 1, 1, 0]]), np.array([1.0]))
    assert loss == pytest.approx(0.04)
    rewards = step_rewards([0.1, 0.4, 0.3], [True, False, True])
    assert rewards == pytest.approx([0.6, 0.4, 0.8])
    assert step_rewards([0.1, 0.4, 0.3], [True] * 3, beta=0).sum() == pytest.approx(0.8)
    assert loo_outcome([1, 0, 0.5]).tolist() == [0.75, -0.75, 0]


def test_the_estimator_finds_the_steps_that_pay() -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(2, 1, bias=False)

        def forward(self, features):
            return self.head(features).squeeze(-1)

    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(40):
        features = rng.integers(0, 2, (int(rng.integers(1, 5)), 2)).astype(float)
        episodes.append((features, float(features[:, 0].sum() * 0.25)))
    torch.manual_seed(0)
    model = Linear()
    losses = fit(model, episodes, epochs=400, rate=0.05)
    assert losses[-1] < 1e-4 < losses[0]
    assert model.head.weight.detach().numpy().ravel() == pytest.approx([0.25, 0], abs=0.02)
