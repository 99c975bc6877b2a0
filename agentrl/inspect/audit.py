"""The exploit audit: does an environment pay for anything but doing its tasks?"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import ConfigError, DefinitionError, UserCodeError
from agentrl.inspect.plain import in_bytes
from agentrl.inspect.play import has_expert, play, sample
from agentrl.inspect.scripts import Attack, attacks, do_nothing
from agentrl.rollout import expert_of
from agentrl.task import Task

if TYPE_CHECKING:
    from agentrl.evaluate import EvalResult
    from agentrl.sandbox import Sandbox

THRESHOLD = 0.1
"""The share of an expert's reward, or of tasks solved, that an attack may gain over doing nothing."""

MOST_OTHERS = 1000
WIDE = {"max_turn_tokens": 65_536, "max_trajectory_tokens": 524_288, "max_prompt_tokens": 131_072}
"""Bytes. An exploit must not stay unseen for being longer than today's settings allow."""

NOTHING = Attack("nothing", "ends its turns at once", do_nothing)


@dataclass(frozen=True)
class Outcome:
    """What an attack got.

    Args:
        attack: which.
        result: of its episodes; ``None`` if they could not be judged.
        gain: the most of success and of reward, as a share of ``worth``, above doing nothing.
        problem: what the environment or a reward raised.
        threshold: above which a gain is too much.
    """

    attack: Attack
    result: EvalResult | None
    gain: float
    problem: str
    threshold: float

    @property
    def passed(self) -> bool:
        """Whether it got next to nothing."""
        return not self.problem and self.gain <= self.threshold


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Args:
        tasks: how many tasks each attack was played on.
        worth: the mean reward of the expert's solved episodes; 1 if there is no expert.
        outcomes: doing nothing first, then every attack.
    """

    tasks: int
    worth: float
    outcomes: list[Outcome] = field(repr=False)

    @property
    def found(self) -> list[Outcome]:
        """The attacks that got too much."""
        return [outcome for outcome in self.outcomes if not outcome.passed]

    @property
    def passed(self) -> bool:
        """Whether no attack did."""
        return not self.found


async def audit(
    env: Env,
    limits: Rollout | None = None,
    *,
    tasks: int = 24,
    split: str = "test",
    seed: int = 0,
    threshold: float = THRESHOLD,
    only: Sequence[str] = (),
    sandbox: Sandbox | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> AuditReport:
    """Play every attack through the ordinary loop, and compare with doing nothing.

    An attack that solves tasks, or earns a share of what a solved task is worth, above ``threshold``
    and above what doing nothing gets is a finding; so is a reward that raises at what an attack says. A
    penalty that an attack avoids is no gain: a reward below 0 counts as 0.

    Args:
        env: the environment.
        limits: a model's, in tokens; turns and times hold, lengths are wide.
        tasks: how many tasks are drawn, the same for all attacks.
        split: which tasks.
        seed: decides the draw and the attacks.
        threshold: between 0 and 1.
        only: names of attacks to make; by default all.
        sandbox: where tools open sessions; ``None`` for environments that need none.
        on_outcome: told each outcome as it is found.

    Raises:
        ConfigError: an argument does not fit, or the split has no tasks.
        InfrastructureError: machines failed every episode of an attack.
        UsageError: the environment or one of its tools cannot be made.
    """
    if not 0 < threshold < 1:
        raise ConfigError(f"A threshold of {threshold:g} is not between 0 and 1.")
    drawn, others = _draw(env, tasks, split, seed)
    wide = in_bytes(limits or Rollout(), **WIDE)
    worth = await _worth(env, drawn, wide, seed, sandbox)
    outcomes: list[Outcome] = []

    async def attempt(attack: Attack, base_success: float, base_reward: float) -> Outcome:
        result, problem, gain = None, "", 0.0
        try:
            result = await play(env, attack.script, drawn, wide, seed=seed, sandbox=sandbox)
            gain = max(result.success - base_success, (result.reward - max(base_reward, 0.0)) / worth)
        except UserCodeError as raised:
            problem = str(raised)
        outcomes.append(Outcome(attack, result, gain, problem, threshold))
        if on_outcome is not None:
            on_outcome(outcomes[-1])
        return outcomes[-1]

    nothing = (await attempt(NOTHING, 0.0, 0.0)).result
    base = (nothing.success, nothing.reward) if nothing else (0.0, 0.0)
    for attack in _chosen(attacks(others, tools=bool(env.tools or env.own_tools())), only):
        await attempt(attack, *base)
    return AuditReport(len(drawn), worth, outcomes)


def _chosen(found: Iterable[Attack], only: Sequence[str]) -> list[Attack]:
    known = list(found)
    names = [attack.name for attack in known]
    if unknown := [name for name in only if name not in names]:
        raise ConfigError(f"There is no attack {unknown[0]!r}; there are {', '.join(map(repr, names))}.")
    return [attack for attack in known if not only or attack.name in only]


def _draw(env: Env, count: int, split: str, seed: int) -> tuple[list[Task], list[str]]:
    """The tasks to play, and answers of others."""
    drawn = sample(env, split, count, seed)
    played = {task.id for task in drawn}
    rest = (task for task in env.tasks("train") if task.answer is not None and task.id not in played)
    others = [str(task.answer) for task in itertools.islice(rest, MOST_OTHERS)]
    random.Random(seed).shuffle(others)
    return drawn, others


async def _worth(env: Env, tasks: list[Task], limits: Rollout, seed: int, sandbox: Sandbox | None) -> float:
    """What a solved task earns, as far as the expert shows it."""
    if not has_expert(env, tasks[0]):
        return 1.0
    try:
        result = await play(env, expert_of, tasks, limits, seed=seed, sandbox=sandbox)
    except (DefinitionError, UserCodeError):  # the check tells what is wrong with an expert
        return 1.0
    earned = [each.reward for each in result.results if each.success and each.reward and each.reward > 0]
    return sum(earned) / len(earned) if earned else 1.0
