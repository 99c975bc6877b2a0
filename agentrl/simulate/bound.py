"""What no scheduler can beat: every GPU busy at its best, nobody ever waiting."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.simulate.cluster import plan
from agentrl.simulate.scenario import Scenario

EPISODES = 1000
"""Plans that the means are taken over."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one episode costs at least, on average.

    Args:
        engine_seconds: of an engine with the largest batch that fits.
        trainer_seconds: of as many GPUs as an engine has.
        sampled: tokens sampled.
        context: tokens trained on.
        tool_seconds: in tools, which no GPU waits for.
    """

    engine_seconds: float
    trainer_seconds: float
    sampled: float
    context: float
    tool_seconds: float

    @property
    def rollout_share(self) -> float:
        """Of the GPUs, so that neither side waits for the other."""
        return self.engine_seconds / (self.engine_seconds + self.trainer_seconds)


def work_of(scenario: Scenario) -> Work:
    """The means over the scenario's own episodes.

    A decoding step of a batch ``n`` that fills the KV cache, over ``n``, is the least time for a token; prompts and
    observations are computed once.
    """
    workload, engine, trainer = scenario.workload, scenario.engine.model, scenario.trainer
    sampled = context = tool = weighted = 0.0
    for number in range(EPISODES):
        length = workload.prompt_tokens
        for step in plan(workload, scenario.seed, str(number), f"{number}"):
            sampled += step.tokens
            weighted += step.tokens * (length + step.tokens / 2)
            length += step.tokens + step.observation
            tool += step.seconds or 0.0
        context += length
    sampled, context, tool, weighted = (value / EPISODES for value in (sampled, context, tool, weighted))
    while_decoding = weighted / sampled
    batch = max(1.0, min(engine.sequences, engine.kv_tokens / while_decoding))
    token = engine.step(batch, batch * while_decoding) / batch
    computed = context - sampled
    return Work(
        engine_seconds=sampled * token + computed / engine.prefill_rate,
        trainer_seconds=context / (trainer.tokens_per_gpu_second * scenario.engine.gpus),
        sampled=sampled,
        context=context,
        tool_seconds=tool,
    )


def perfect_rate(scenario: Scenario, work: Work) -> float:
    """Episodes a second of the whole cluster, if no GPU ever waited."""
    if scenario.trainer.own_gpus:
        training = work.trainer_seconds * scenario.engine.gpus / scenario.trainer.own_gpus
        fixed = scenario.trainer.fixed_seconds / (scenario.groups * scenario.workload.group_size)
        return min(scenario.engines / work.engine_seconds, 1 / (training + fixed))
    return scenario.engines / (work.engine_seconds + work.trainer_seconds)
