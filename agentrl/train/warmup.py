"""Warm-up: a small policy learns an environment's dialogue and call format from its scripted expert.

The demonstrations are episodes like any others: the loop plays them, with real tools, and
:class:`agentrl.rollout.ScriptedPolicy` in the model's place. The model is then fitted to the tokens
that the expert sampled, and to no others.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentrl.chat import Chat
from agentrl.chat.vision import Vision
from agentrl.env import Env
from agentrl.errors import ModelUnsupported, SandboxUnavailable
from agentrl.rollout import derive_seed, succeeded
from agentrl.train import tiny, tiny_vision
from agentrl.train.demonstrate import demonstrate, examples
from agentrl.train.fit import fit
from agentrl.train.folders import building, check_free
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.sandbox import Sandbox

VOCABULARY_EPISODES = 400
"""How many episodes' text a new vocabulary is learnt from."""

RECURS = 40
"""A piece that occurs in one episode of so many may be a token."""


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
    vocabulary: int | None = None,
    recurs: int = RECURS,
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
        start: the model folder to begin with; by default a new model, which sees if the
            environment shows images.
        vocabulary: learn one of at most so many tokens from the demonstrations' text. By default a new model
            has one of :data:`agentrl.train.tiny.VOCABULARY`, and ``start`` keeps its own. With its own
            vocabulary an environment's texts are short; ``start`` is then a small policy of agentrl's, and
            lends its layers.
        recurs: with ``vocabulary`` and ``start``, a token occurs in the text of one episode of so many, or
            more often. The fewer, the more is spelled in letters, as it must be where names are to be copied.
        sandbox: where tools open sessions, closed at the end; by default this machine's, where it has one.
        progress: told after every episode and every step.

    Raises:
        ConfigError: ``out`` is taken.
        DefinitionError: the environment has no tasks or no expert.
        UsageError: the expert, a tool or a reward failed.
        InfrastructureError: machines failed too many of the demonstrations.
    """
    check_free(out)
    told = progress or (lambda _: None)

    def episodes(done: int) -> None:
        told(Progress("demonstrations", done, demonstrations))

    begin = _Beginning(start, vocabulary, recurs)
    model, chat, played = asyncio.run(_prepare(env, seed, demonstrations, begin, sandbox, episodes))
    losses = fit(
        model, examples(played, tiny.CONTEXT), vision=chat.vision, steps=steps, batch_size=batch_size,
        learning_rate=learning_rate, seed=seed,
        progress=lambda step, loss: told(Progress("training", step, steps, loss)),
    )  # fmt: skip
    with building(out) as folder:
        tiny.save(model, chat.tokenizer, folder, like=start)
        if chat.vision is not None:
            tiny_vision.save_processor(chat.vision.processor, chat.tokenizer, folder)
    last = losses[-max(1, steps // 10) :]
    return WarmupReport(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        demonstrations=len(played),
        expert_success=sum(succeeded(env, trajectory) for trajectory in played) / len(played),
        tool_rate=sum(bool(trajectory.calls) for trajectory in played) / len(played),
        steps=steps,
        loss=sum(last) / len(last),
    )


@dataclass(frozen=True)
class _Beginning:
    """The model folder to begin with, if any, and what vocabulary to learn, if any."""

    start: Path | None
    vocabulary: int | None
    recurs: int


async def _prepare(
    env: Env,
    seed: int,
    count: int,
    begin: _Beginning,
    sandbox: Sandbox | None,
    progress: Callable[[int], None],
) -> tuple[Any, Chat, list[Trajectory]]:
    """The model to begin with, its chat format, and the demonstrations."""
    async with AsyncExitStack() as stack:
        sandbox = await _entered(stack, sandbox)
        if begin.start is None or begin.vocabulary is not None:
            model, chat = await _with_vocabulary(env, seed, begin, sandbox)
        else:
            model, chat = tiny.load(begin.start)[1], Chat.load(str(begin.start))
        played = await demonstrate(env, chat, count, seed=seed, sandbox=sandbox, progress=progress)
        return model, chat, played


async def _entered(stack: AsyncExitStack, sandbox: Sandbox | None) -> Sandbox | None:
    """The sandbox in its context; this machine's by default. Without one, only tools that ask for it fail."""
    from agentrl.sandbox import open_sandbox

    try:
        return await stack.enter_async_context(sandbox or open_sandbox())
    except SandboxUnavailable:
        return None


async def _with_vocabulary(
    env: Env, seed: int, begin: _Beginning, sandbox: Sandbox | None
) -> tuple[Any, Chat]:
    """A vocabulary learnt from what episodes of the environment look like, and the model for it."""
    special = [*tiny.SPECIAL_TOKENS, *(tiny_vision.TOKENS if env.images else ())]

    def chat(texts: Iterable[str] = (), size: int = tiny.VOCABULARY, recurs: int = 0) -> Chat:
        tokenizer = tiny.make_tokenizer(texts, size, special, recurs)
        return tiny.chat(
            tokenizer, Vision.of(tokenizer, tiny_vision.make_processor()) if env.images else None
        )

    byte_level = chat()
    vocabulary_seed = derive_seed(seed, "vocabulary")
    played = await demonstrate(env, byte_level, VOCABULARY_EPISODES, seed=vocabulary_seed, sandbox=sandbox)
    pictured = set(byte_level.banned_token_ids)
    rows = examples(played, longest=sys.maxsize)
    texts = (byte_level.decode([token for token in row.ids if token not in pictured]) for row in rows)
    recurs = 0 if begin.start is None else len(rows) // begin.recurs
    learnt = chat(texts, begin.vocabulary or tiny.VOCABULARY, recurs)
    if begin.start is None:
        make = tiny_vision.make_model if env.images else tiny.make_model
        return make(learnt.tokenizer, seed), learnt
    known, model = tiny.load(begin.start)
    if model.config.model_type != tiny.MODEL_TYPE or env.images:
        raise ModelUnsupported(
            f"vocabulary={begin.vocabulary} needs a small policy of agentrl's that reads to begin with, and "
            f"{begin.start} is a {model.config.model_type} model. Leave vocabulary out: it keeps its own."
        )
    return tiny.with_vocabulary(model, known, learnt.tokenizer), learnt
