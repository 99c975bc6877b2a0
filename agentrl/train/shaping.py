"""How an algorithm puts an episode's rewards together: what is trained on in the place of an environment's.

A shaping makes terms of an environment's terms. They are read off the episode's record when the environment's
own sum is known; held-out episodes are judged by that alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from random import Random
from typing import Any, Literal

from pydantic import Field

from agentrl.algorithms.exploration import base_reward, explored
from agentrl.algorithms.gates import gated
from agentrl.algorithms.preference import pairs
from agentrl.algorithms.tool_schedule import fade
from agentrl.env import Env
from agentrl.errors import ConfigError, NoVerdict
from agentrl.reward import Reward
from agentrl.rewards.endpoint import endpoint_of
from agentrl.rewards.judge import Judge
from agentrl.rewards.pair_judge import better
from agentrl.rewards.pairwise import Compare, win_rate
from agentrl.rollout import succeeded
from agentrl.schedules import schedule
from agentrl.scoring import components_of
from agentrl.terms import Shape, Sum, Term, gate
from agentrl.train.expert_match import ExpertMatch
from agentrl.train.instrumentation import Instrumentation
from agentrl.train.oni import Oni
from agentrl.train.potential import Potential
from agentrl.train.progress import Progress
from agentrl.train.shaping_part import Play, Scope, Shaping, check_known
from agentrl.train.trace_back import TraceBack
from agentrl.trajectory import Trajectory, Turn


class Gated(Shaping):
    """G-RA: ``R = high + 1[high >= threshold] * low``; what is of low priority counts behind the gate."""

    high: list[str] | None = Field(None, min_length=1, description="components; default: what is success")
    low: list[str] | None = Field(None, description="components; default: all others")
    threshold: float = 0.0
    comparator: Literal[">=", ">"] = ">="
    calls: float = Field(
        0.0,
        ge=0,
        description="low too: what a turn earns whose calls all worked; one with a failed call pays it",
    )

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The gated sum, beside what is neither high nor low."""
        pieces = list(_addends(own))
        check_known([*(self.high or ()), *(self.low or ())], own, scope.env)
        known = [component.name for component in components_of(own)]
        high_names = set(self.high or _outcome(pieces, scope.env))
        high, low, beside = [], [], []
        for piece in pieces:
            used = {component.name for component in piece.components()}
            if used & high_names and used - high_names:
                raise ConfigError(
                    f"algorithm.shaping: the reward {piece} of environment {scope.env.name} holds "
                    f"{_listed(used & high_names)} of high priority and {_listed(used - high_names)} of low. "
                    "Only sums can be taken apart; name them all as high, or write the reward as a sum."
                )
            if used <= high_names:  # a number counts with the outcome
                high.append(piece)
            elif self.low is None or used <= set(self.low):
                low.append(piece)
            else:
                beside.append(piece)
        if self.calls:
            low.append(self.calls * _CALL_STEP)
        if not high or not low:
            lacking = "high priority is trained on" if not high else "low priority stands behind the gate"
            raise ConfigError(
                f"algorithm.shaping: no reward of {lacking}. Environment {scope.env.name} has the rewards "
                f"{', '.join(known)}; name them with algorithm.shaping.options.high and .low, or pay turns "
                "for calls with algorithm.shaping.options.calls."
            )
        whole = gated(_summed(high), _summed(low), threshold=self.threshold, comparator=self.comparator)
        return [whole, *beside]


class SpearTools(Shaping):
    """SPEAR: ``min(per_call * n, most)`` for ``n`` turns with calls, fading out along a cosine."""

    per_call: float = Field(0.1, gt=0)
    most: float = Field(1.0, gt=0)
    until: int = Field(200, ge=1, description="step, from 0 on, from which it is 0")

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The environment's, and the bonus."""
        per_call, most, until = self.per_call, self.most, self.until

        def calling(episode: Trajectory) -> float:
            return min(per_call * sum(bool(turn.calls) for turn in episode.turns), most)

        def fading(progress: float) -> float:
            return fade(round(progress * (scope.steps - 1)), steps=until)

        return [*own, Reward(calling, "tool_bonus") * schedule(fading)]


class Exploration(Shaping):
    """RLSP: right or wrong, less ``length`` over the tokens thought; beside a judge's grade, if any."""

    length: float = Field(1000.0, ge=0, description="C of C / length; 0: the length does not count")
    cap: float = Field(10.0, ge=0, description="the most that is taken away")
    measure: Literal["reasoning", "sampled"] = Field(
        "reasoning",
        description="reasoning: characters of the reasoning / 4, of the text where there is none; "
        "sampled: all tokens sampled",
    )
    judge: float = Field(0.2, ge=0, le=1, description="the grade's share, where there is an endpoint")
    endpoint: dict[str, Any] | None = Field(
        None, description="of the judge, as agentrl.rewards.endpoint.Endpoint takes it; default: no judge"
    )

    @cached_property
    def _effort(self) -> Judge | None:
        if self.endpoint is None:
            return None
        return Judge("effort", EFFORT, endpoint_of(self.endpoint, "shaping"))

    def model_post_init(self, _context: Any) -> None:
        """Make the judge now, so that an endpoint that does not fit is told before anything starts."""
        self._effort  # noqa: B018

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """Correctness with effort, in the place of the environment's sum."""

        def outcome(episode: Trajectory) -> float:
            right = True if succeeded(scope.env, episode) else False if _answered(episode) else None
            return float(base_reward(right, self._thought(episode), constant=self.length, cap=self.cap))

        base, judge = Reward(outcome, "exploration"), self._effort
        if judge is None:
            return [base]

        async def effort(episode: Trajectory) -> float:
            try:
                grade: float = await judge.score(episode)
                return grade
            except NoVerdict:
                return explored(0.0, None, share=1.0)

        return [(1 - self.judge) * base + self.judge * Reward(effort, "exploration_grade")]

    def _thought(self, episode: Trajectory) -> float:
        if self.measure == "sampled":
            return episode.sampled_tokens
        reasons = any(turn.reasoning for turn in episode.turns)
        texts = [(turn.reasoning or "") if reasons else turn.text for turn in episode.turns]
        return sum(len(text) for text in texts) / 4


class WinRate(Shaping):
    """SPO: the share of its group that an episode wins against; by default the higher reward wins."""

    both_orders: bool = Field(True, description="ask the judge both ways, and take the mean")
    endpoint: dict[str, Any] | None = Field(
        None,
        description="of a judge of pairs, as agentrl.rewards.endpoint.Endpoint takes it; default: no judge",
    )
    opponents: int | None = Field(
        None, ge=1, description="of an episode, drawn at random, about so many; default: its whole group"
    )

    @cached_property
    def _compare(self) -> Compare:
        if self.endpoint is None:
            return _higher
        return better(endpoint_of(self.endpoint, "shaping"), both_orders=self.both_orders)

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The share of wins alone."""
        return [win_rate(self._compare, meet=self._pairs)]

    def _pairs(self, episodes: Sequence[Trajectory]) -> list[tuple[int, int]]:
        """Who meets whom: for the same group always the same."""
        if len(episodes) < 2:
            return []
        return pairs(len(episodes), self.opponents, Random(episodes[0].group))


class RouterCost(Shaping):
    """Router-R1: -1 for a wrong form, 0 for a wrong answer, else ``(1 - share) * quality + share * cost``."""

    share: float = Field(0.0, ge=0, le=1)
    quality: Literal["exact", "f1"] = "exact"

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The gated sum of the components ``form``, ``cost`` and ``exact`` or ``f1``."""
        form, cost, quality = _named(own, scope.env, "router_cost", "form", "cost", self.quality)
        right = gate(quality, then=(1 - self.share) * quality + self.share * cost)
        return [gate(form >= 0, then=right, otherwise=-1)]


class Hybrid(Shaping):
    """CRAFT-GUI: a weighted sum of the components ``format``, ``type`` and ``parameters`` (inferred)."""

    format: float = 0.1
    type: float = 0.4
    parameters: float = 0.5
    gate_on_format: bool = Field(False, description="nothing else counts where the format is 0")

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The sum, in the place of the environment's."""
        form, kind, parameters = _named(own, scope.env, "hybrid", "format", "type", "parameters")
        rest = self.type * kind + self.parameters * parameters
        return [self.format * form + (gate(form, then=rest) if self.gate_on_format else rest)]


SHAPINGS: Mapping[str, type[Shaping]] = {
    "gated": Gated,
    "spear_tools": SpearTools,
    "exploration": Exploration,
    "win_rate": WinRate,
    "router_cost": RouterCost,
    "hybrid": Hybrid,
    "instrumentation": Instrumentation,
    "progress": Progress,
    "trace_back": TraceBack,
    "expert_match": ExpertMatch,
    "oni": Oni,
    "potential": Potential,
}
"""What training carries out, by name."""

EFFORT = (
    "Grade how hard the work on this task was tried, and not at all whether it came out right. High: several "
    "different approaches, depth, something new, going on after a failure. Low: a bare answer, or the same "
    "again and again.\n\nTask:\n{task}\n\nWork:\n{dialogue}"
)


def shape_of(
    shaping: Shaping | None, env: Env, steps: int, *, play: Play | None = None, seconds: float | None = None
) -> Shape | None:
    """What makes the terms of training episodes; see :class:`agentrl.train.shaping_part.Scope`.

    Raises:
        ConfigError: the environment's rewards do not fit.
        DefinitionError: a component of the shaping has the name of another one of the environment's.
    """
    if shaping is None:
        return None
    scope = Scope(env, steps, play, seconds)

    def shape(own: Sequence[Term]) -> list[Term]:
        return shaping.terms(own, scope)

    own = env.own_rewards()
    components_of([*own, *shape(own)])
    return shape


def _named(own: Sequence[Term], env: Env, shaping: str, *names: str) -> list[Reward]:
    """Components of an environment by name.

    Raises:
        ConfigError: it lacks one.
    """
    known = {component.name: component for component in components_of(own)}
    lacking = [name for name in names if name not in known]
    if lacking:
        raise ConfigError(
            f"algorithm.shaping.name={shaping} is made of the rewards {', '.join(names)}, and environment "
            f"{env.name} has no {', '.join(lacking)}. algorithm.shaping=null trains on the environment's own "
            "reward."
        )
    return [_plain(known[name]) for name in names]


def _call_step(episode: Trajectory, turn: Turn) -> float:
    """1 for a turn whose calls all worked, -1 with one that failed, 0 without calls."""
    if not turn.calls:
        return 0.0
    return -1.0 if any(call.status != "ok" or call.observation.error for call in turn.calls) else 1.0


_CALL_STEP = Reward(_call_step, "call_step", per="turn")


def _higher(first: Trajectory, second: Trajectory) -> float | None:
    """1 if the first has the higher reward by the environment, 0 if the second has; ``None``: a tie."""
    one, other = first.unshaped or 0.0, second.unshaped or 0.0
    return None if math.isclose(one, other) else float(one > other)


def _answered(episode: Trajectory) -> bool:
    return episode.status == "finished" and bool(episode.final_text.strip())


def _outcome(pieces: Sequence[Term], env: Env) -> set[str]:
    """What counts as success, if it is trained on; else the first reward that is."""
    trained = [[component.name for component in piece.components()] for piece in pieces]
    if env.success is not None and any(env.success in names for names in trained):
        return {env.success}
    return set(next((names for names in trained if names), []))


def _addends(terms: Sequence[Term]) -> Iterator[Term]:
    """Terms with their sums taken apart; what only is logged is left out."""
    for item in terms:
        if isinstance(item, Sum):
            yield from _addends(item.parts())
        elif isinstance(item, Reward):
            if item.weight:
                yield _plain(item) if item.weight == 1 else item.weight * _plain(item)
        else:
            yield item


def _plain(reward: Reward) -> Reward:
    """A component without a weight of its own, as expressions take it."""
    return Reward(reward.function, reward.name, per=reward.per, no_verdict=reward.no_verdict)


def _summed(terms: Sequence[Term]) -> Term:
    return reduce(lambda one, other: one + other, terms)


def _listed(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names))
