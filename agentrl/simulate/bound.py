"""What no scheduler can beat: nobody ever waits for anybody, and every batch is as large as it may be."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.simulate.cluster import plan
from agentrl.simulate.scenario import Mode, Scenario

EPISODES = 1000
"""Plans that the means are taken over."""

ROUNDS = 60
"""Of a fixed point that halves its error in each."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an episode is on average.

    Args:
        sampled: tokens sampled.
        computed: tokens of the prompt and of observations, which have to be computed once.
        context: tokens before a sampled one, on average.
        tool_seconds: in tools.
        spread: how much longer the longest of a group takes, on average. Those that ended before it are not
            trained on yet, and so are under way too.
    """

    sampled: float
    computed: float
    context: float
    tool_seconds: float
    spread: float

    @property
    def trained(self) -> float:
        """Tokens that a training step reads."""
        return self.sampled + self.computed


def work_of(scenario: Scenario) -> Work:
    """The means over the scenario's own episodes."""
    workload, step_seconds = scenario.workload, scenario.engine.step_seconds
    sampled = computed = tool = weighted = longest = 0.0
    groups = max(1, EPISODES // workload.group_size)
    for number in range(groups):
        seconds = []
        for index in range(workload.group_size):
            length, tokens, calls = workload.prompt_tokens, 0, 0.0
            computed += length
            for step in plan(workload, scenario.seed, str(number), f"{number}-{index}"):
                weighted += step.tokens * (length + step.tokens / 2)
                length += step.tokens + step.observation
                tokens += step.tokens
                computed += step.observation
                calls += step.seconds or 0.0
            sampled, tool = sampled + tokens, tool + calls
            seconds.append(tokens * step_seconds + calls)
        longest += max(seconds)
    episodes = groups * workload.group_size
    spread = longest / groups / ((sampled * step_seconds + tool) / episodes)
    return Work(sampled / episodes, computed / episodes, weighted / sampled, tool / episodes, spread)


def step_seconds(scenario: Scenario, mode: Mode, tokens: float, gpus: int) -> float:
    """What a training step on so many tokens takes."""
    trainer = scenario.trainer
    seconds = tokens / (trainer.tokens_per_gpu_second * gpus)
    if mode == "sync":
        return seconds * (1 + trainer.logprob_share) + trainer.fixed_seconds + 2 * trainer.switch_seconds
    return (seconds + trainer.fixed_seconds) * trainer.beside_factor


def episodes_of(scenario: Scenario) -> int:
    """Episodes of a training step."""
    return scenario.groups * scenario.workload.group_size


def rollout_rate(scenario: Scenario, work: Work, engines: int, eta: int, *, stalls: bool) -> float:
    """Episodes a second that engines generate with ``(η + 1)·B`` of them under way and none ever waiting.

    Those under way are in a batch or in a tool, by what each takes (Little's law), or wait for their group. A
    larger batch takes longer for a turn and gives more tokens a second.

    Args:
        stalls: whether engines stand still for new weights, and to compute contexts anew under them.
    """
    model, episodes = scenario.engine.model, episodes_of(scenario)
    under_way = (eta + 1) * episodes / work.spread / engines
    largest = max(1.0, min(model.sequences, model.kv_tokens / (work.context + work.sampled)))
    batch, seconds = min(largest, under_way), 0.0
    for _ in range(ROUNDS):
        seconds = work.sampled * model.step(batch, batch * work.context) + work.computed / model.prefill_rate
        wanted = under_way * seconds / (seconds + work.tool_seconds)
        batch = (batch + min(largest, wanted)) / 2
    rate = engines * batch / seconds
    if not stalls:
        return rate
    again = 0.0 if model.keeps_cache else batch * work.context / model.prefill_rate
    return rate / (1 + rate * (scenario.trainer.sync_seconds + again) / episodes)


def rate(scenario: Scenario, work: Work, engines: int, eta: int, *, stalls: bool = False) -> float:
    """Episodes a second, if so many engines generate and all other GPUs train, side by side."""
    gpus = scenario.trainer.own_gpus or (scenario.engines - engines) * scenario.engine.gpus
    if gpus < 1:
        return 0.0
    episodes = episodes_of(scenario)
    training = step_seconds(scenario, "async", episodes * work.trained, gpus)
    training += scenario.trainer.sync_seconds if stalls else 0.0
    return min(episodes / training, rollout_rate(scenario, work, engines, eta, stalls=stalls))


def best_split(scenario: Scenario, work: Work, eta: int, *, stalls: bool = True) -> int:
    """How many engines should generate, so that neither side waits for the other."""
    if scenario.trainer.own_gpus:
        return scenario.engines
    choices = range(1, max(2, scenario.engines), max(1, scenario.engines // 64))
    return max(choices, key=lambda engines: rate(scenario, work, engines, eta, stalls=stalls))


def perfect_rate(scenario: Scenario, work: Work) -> float:
    """Episodes a second of a perfect scheduler that keeps to the scenario's η, on the whole cluster."""
    engines = best_split(scenario, work, scenario.eta, stalls=False)
    return rate(scenario, work, engines, scenario.eta)
