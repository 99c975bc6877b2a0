"""What the parts of algorithms cost on a CPU, at the size of a large step.

    python benchmarks/algorithms.py [--episodes 512] [--tokens 8192] [--step-seconds 60]

Prints milliseconds of CPU time of each part, the best of a few runs, and its share of a step. A step of that
size takes minutes on any machine; ``--step-seconds`` says what the share is of.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from agentrl.algorithms import load
from agentrl.algorithms.advantages import compute
from agentrl.algorithms.aggregate import token_shares
from agentrl.algorithms.batch import Batch
from agentrl.algorithms.entropy import turn_entropy
from agentrl.algorithms.filters import high_entropy_turns, kept_episodes
from agentrl.algorithms.loss import LossInputs, policy_loss
from agentrl.algorithms.spec import Aggregation, Filters
from agentrl.algorithms.weights import sequence_probability

RUNS = 3
TURN = 256
"""Tokens from the start of a turn to that of the next; the second half of them is an observation."""


def batch_of(episodes: int, tokens: int, rng: np.random.Generator) -> Batch:
    """Episodes of alternating turns and observations, eight to a task."""
    place = np.arange(tokens)
    mask = np.broadcast_to(place % TURN < TURN // 2, (episodes, tokens)).copy()
    turns = np.where(mask, place // TURN, -1)
    rewards = np.where(place % TURN == TURN // 2 - 1, rng.random((episodes, tokens)), 0.0)
    values = rng.random((episodes, tokens))
    return Batch.of(mask, rewards, np.arange(episodes) // 8, turns=turns, values=values)


def fresh(batch: Batch) -> Batch:
    """The same without what it remembers, so that building the tables is paid for."""
    return Batch(
        batch.mask, batch.rewards, batch.turns, batch.episodes, batch.groups, batch.order, batch.values
    )


def milliseconds(part: Callable[[], object]) -> float:
    """The best of a few runs."""
    best = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        part()
        best = min(best, time.process_time() - start)
    return best * 1000


def parts(batch: Batch, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    tokens = batch.tokens
    noise = rng.normal(-1, 0.2, batch.mask.shape).astype(np.float32)
    reward, group = tokens.episode_reward, tokens.episode_group
    found: dict[str, Callable[[], object]] = {
        "tables of turns and tokens": lambda: fresh(batch).tokens,
        "filters of groups": lambda: kept_episodes(
            reward, group, Filters(zero_variance="drop", top_share=0.75)
        ),
        "turns of high entropy": lambda: high_entropy_turns(turn_entropy(noise, tokens), tokens.turn_group),
        "sequence probability": lambda: sequence_probability(
            noise[tokens.row, tokens.column], tokens.episode
        ),
    }
    for name in ("grpo", "loop", "dart", "ppo", "ui_s1"):
        found[f"advantages: {name}"] = lambda name=name: compute(batch, load(name))  # type: ignore[misc]
    for kind in ("token", "prompt", "action", "sum_norm"):
        how = Aggregation.model_validate({"kind": kind, "horizon": 8192})
        found[f"shares: {kind}"] = lambda how=how: token_shares(batch, how)  # type: ignore[misc]
    return found | losses(batch, noise)


def losses(batch: Batch, noise: np.ndarray) -> dict[str, Callable[[], object]]:
    """Losses with their gradients, of the whole step at once; in training, micro-batches share this out."""
    given = LossInputs(
        logprobs=torch.from_numpy(noise).requires_grad_(),
        old=torch.from_numpy(noise + 0.01),
        behaviour=torch.from_numpy(noise - 0.01),
        reference=torch.from_numpy(noise),
        advantages=torch.from_numpy(noise),
        mask=torch.from_numpy(batch.mask),
        shares=torch.from_numpy(token_shares(batch, Aggregation())),
        turns=torch.from_numpy(np.where(batch.mask, batch.turns, 0)),
    )

    def run(name: str, changes: dict[str, object]) -> Callable[[], object]:
        algorithm = load(name, changes)
        return lambda: policy_loss(algorithm, given)[0].backward()  # type: ignore[no-untyped-call]

    return {
        "loss: areal": run("areal", {}),
        "loss: scalerl": run("scalerl", {}),
        "loss: loop, per turn": run("loop", {"ratio": {"level": "turn"}}),
        "loss: spear": run("spear", {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--step-seconds", type=float, default=60.0)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{asked.episodes} episodes of {asked.tokens} tokens, {torch.get_num_threads()} threads")
    for name, part in parts(batch_of(asked.episodes, asked.tokens, rng), rng).items():
        taken = milliseconds(part)
        print(f"{name:32} {taken:8.0f} ms  {taken / asked.step_seconds / 10:6.2f}%")


if __name__ == "__main__":
    main()
