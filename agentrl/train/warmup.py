"""Warm-up: a small policy learns an environment's dialogue and call format from its scripted expert.

The demonstrations are episodes like any others: the loop plays them, with real tools, and
:class:`agentrl.rollout.ScriptedPolicy` in the model's place. The model is then fitted to the tokens
that the expert sampled, and to no others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentrl.chat import Chat
from agentrl.env import Env
from agentrl.rollout import derive_seed, succeeded
from agentrl.train import tiny
from agentrl.train.demonstrate import demonstrate, examples
from agentrl.train.fit import fit
from agentrl.train.folders import building, check_free

if TYPE_CHECKING:
    from agentrl.sandbox import Sandbox

VOCABULARY_EPISODES = 400
"""How many episodes' text a new vocabulary is learnt from."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a warm-up is: ``done`` of ``total`` demonstrations or steps; ``loss`` in nats per token."""

    stage: Literal["demonstrations", "training"]
    done: int
    total: int
    loss: float | None = None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class WarmupReport:
    """What a warm-up did.

    Args:
        parameters: of the model.
        demonstrations: episodes it learnt from.
        expert_success: the share of them that solved their task.
        tool_rate: the share of them that called a tool.
        steps: of the optimizer.
        loss: mean over the last tenth of the steps, in nats per sampled token.
    """

    parameters: int
    demonstrations: int
    expert_success: float
    tool_rate: float
    steps: int
    loss: float


def warmup(
    env: Env,
    out: Path,
    *,
    seed: int = 0,
    steps: int = 1000,
    demonstrations: int = 8000,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    start: Path | None = None,
    sandbox: Sandbox | None = None,
    progress: OnProgress | None = None,
) -> WarmupReport:
    """Train a small policy on an environment's demonstrations and write it to ``out``.

    The same arguments give the same weights on the same machine. Starts an event loop: call it
    where none runs.

    Args:
        env: has an expert. Its ``train`` tasks are demonstrated, each as often as it takes.
        out: the model folder to write; it must not exist, or be empty.
        seed: of the first weights, the expert's choices and the order of the batches.
        steps: of the optimizer, ``batch_size`` rows each.
        demonstrations: episodes that are played.
        learning_rate: its peak.
        start: the model folder to begin with; by default a new model with a vocabulary of its own.
        sandbox: where tools open sessions; by default this machine's, where it has one.
        progress: told after every episode and every step.

    Raises:
        ConfigError: ``out`` is taken.
        DefinitionError: the environment has no tasks or no expert.
        UsageError: the expert, a tool or a reward failed.
        InfrastructureError: machines failed too many of the demonstrations.
    """
    check_free(out)
    told = progress or (lambda _: None)
    tokenizer, model = _new(env, seed, sandbox) if start is None else tiny.load(start)
    chat = tiny.chat(tokenizer) if start is None else Chat.load(str(start))
    played = demonstrate(
        env, chat, demonstrations, seed=seed, sandbox=sandbox,
        progress=lambda done: told(Progress("demonstrations", done, demonstrations)),
    )  # fmt: skip
    losses = fit(
        model, examples(played, tiny.CONTEXT), steps=steps, batch_size=batch_size, learning_rate=learning_rate,
        seed=seed, progress=lambda step, loss: told(Progress("training", step, steps, loss)),
    )  # fmt: skip
    with building(out) as folder:
        tiny.save(model, tokenizer, folder, like=start)
    last = losses[-max(1, steps // 10) :]
    return WarmupReport(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        demonstrations=len(played),
        expert_success=sum(succeeded(env, trajectory) for trajectory in played) / len(played),
        tool_rate=sum(bool(trajectory.calls) for trajectory in played) / len(played),
        steps=steps,
        loss=sum(last) / len(last),
    )


def _new(env: Env, seed: int, sandbox: Sandbox | None) -> tuple[Any, Any]:
    """A fresh model, with a vocabulary learnt from what episodes of the environment look like."""
    byte_level = tiny.chat(tiny.make_tokenizer())
    played = demonstrate(
        env, byte_level, VOCABULARY_EPISODES, seed=derive_seed(seed, "vocabulary"), sandbox=sandbox
    )
    rows = examples(played, longest=sys.maxsize)
    tokenizer = tiny.make_tokenizer(byte_level.decode(ids) for ids, _ in rows)
    return tokenizer, tiny.make_model(tokenizer, seed)
