"""Is a routed answer right, in the right form, and was it cheap? The rewards of Router-R1.

The gate: a wrong form is -1; otherwise a wrong answer is 0; otherwise a right one is worth
``(1 - cost_weight) * quality + cost_weight * cost``, where ``cost`` is 1 for a cheap episode and 0 for a dear
one, as costs go.

How costs go is told by a window of the last ones, so with ``cost_weight`` above 0 a reward depends on what
was judged before it, and every process has a window of its own, empty when it starts. Each episode's record
holds the bounds that were used, from which its reward can be computed again. A fixed :class:`CostRange` in
the window's place depends on nothing, and :meth:`CostWindow.score_batch` on no order within a batch.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl import Call, ConfigError, DefinitionError, Reward, Trajectory
from agentrl.rewards.words import exact_match, f1

Quality = Literal["exact", "f1"]

WINDOW = 1000
BOUNDS = (5, 95)
"""Percentiles of the window between which costs are told apart."""

# ---- form -------------------------------------------------------------------------------------

_TAG = re.compile(r"<(/?)(think|search|information|answer)>")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def transcript(episode: Trajectory, tool: str = "router") -> str:
    """The episode as Router-R1 writes it.

    What the policy wrote and thought stands as it is. A call of the router becomes
    ``<search>model:query</search><information></information>``; the answer is left out, so that what a routed
    model says neither breaks nor mends the form. A call that nobody could make has nothing between its tags.

    Args:
        tool: the router's name. Good calls of other tools are left out.
    """
    parts = []
    for turn in episode.turns:
        if turn.reasoning is not None:
            parts.append(f"<think>{turn.reasoning}</think>")
        parts.append(turn.text)
        for call in turn.calls:
            if call.status in ("malformed", "unknown", "invalid"):
                parts.append("<search></search><information></information>")
            elif call.name == tool:
                parts.append(f"<search>{_asked(call)}</search><information></information>")
    return "".join(parts)


def _asked(call: Call) -> str:
    arguments = call.arguments or {}
    return f"{arguments.get('model', '')}:{arguments.get('query', '')}"


def form_problem(text: str, models: Collection[str]) -> str | None:
    """What is wrong with the form of a transcript; ``None`` if nothing is.

    Args:
        text: with ``<think>``, ``<search>``, ``<information>`` and ``<answer>``.
        models: names that may be asked.
    """
    text = text.strip()
    if not text.startswith("<think>") or not text.endswith("</answer>"):
        return "it has to start with <think> and end with </answer>"
    found: dict[str, list[str]] = {"think": [], "search": [], "information": [], "answer": []}
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        closes = tag[1] == "/"
        if closes != (opened is not None) or (opened is not None and opened[2] != tag[2]):
            return f"{tag[0]} does not fit the tags before it"
        if opened is not None:
            found[tag[2]].append(text[opened.end() : tag.start()].strip())
        opened = None if closes else tag
    if opened is not None:
        return f"{opened[0]} is never closed"
    if not all(found["think"]):
        return "a <think> is empty"
    if len(found["answer"]) != 1:
        return f"it has {len(found['answer'])} answers instead of one"
    if len(found["search"]) != len(found["information"]):
        return "it has not as many <information> as <search>"
    for search in found["search"]:
        name, _, query = search.partition(":")
        if not name.strip() or not query.strip():
            return "a <search> is not of the form model:query"
        if name.strip() not in models:
            return f"there is no model {name.strip()[:80]!r}"
    return None


def extract_answer(text: str) -> str:
    """What stands in the last ``<answer>``; empty if there is none."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else ""


# ---- cost -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostRange:
    """The bounds between which costs are told apart.

    Args:
        low, high: square roots of costs.
    """

    low: float
    high: float

    def score(self, raw: float) -> float:
        """1 for a cost at the lower bound or below, 0 at the upper one or above; 0.5 where they are the same.

        Args:
            raw: the sum of completion tokens times the price of a million of them.
        """
        if not self.high > self.low:
            return 0.5
        return 1.0 - min(max((math.sqrt(raw) - self.low) / (self.high - self.low), 0.0), 1.0)

    def including(self, raw: float) -> CostRange:
        """These very bounds: they learn nothing."""
        return self


class CostWindow:
    """The costs of the last episodes, from which the bounds are made. It is meant for one event loop.

    Args:
        size: how many costs are remembered; the oldest go first.
        raws: costs to begin with, oldest first: another window's :attr:`raws` makes a copy of it.

    Raises:
        ConfigError: there is no room for a cost.
    """

    def __init__(self, size: int = WINDOW, raws: Iterable[float] = ()) -> None:
        if size < 1:
            raise ConfigError(f"A window of {size} costs tells nothing; give it room for 1 at least.")
        self._raws = deque(raws, maxlen=size)

    @property
    def raws(self) -> tuple[float, ...]:
        """The costs, oldest first."""
        return tuple(self._raws)

    def range(self) -> CostRange:
        """The bounds now; equal ones if nothing is remembered."""
        if not self._raws:
            return CostRange(0.0, 0.0)
        low, high = np.percentile(np.sqrt(self._raws), BOUNDS)
        return CostRange(float(low), float(high))

    def including(self, raw: float) -> CostRange:
        """Remember a cost; returns the bounds with it."""
        self._raws.append(raw)
        return self.range()

    def score_batch(self, raws: Sequence[float]) -> list[float]:
        """Remember the costs of a batch, then score each by the same bounds, whatever their order."""
        self._raws.extend(raws)
        bounds = self.range()
        return [bounds.score(raw) for raw in raws]


def raw_cost(episode: Trajectory, tool: str = "router") -> float:
    """The sum of what the episode's routed calls cost. One that was stopped tells no cost and adds none."""
    return math.fsum(call.observation.metadata.get("cost", 0.0) for call in _routed(episode, tool))


def _routed(episode: Trajectory, tool: str) -> Iterator[Call]:
    return (call for call in episode.calls if call.name == tool)


# ---- the sum ----------------------------------------------------------------------------------


def gated(form: float, quality: float, cost: float, cost_weight: float) -> float:
    """Router-R1's reward, of its parts.

    Args:
        form: -1 or 0.
        quality: exact match or F1 of the answer.
        cost: from 0 (dear) to 1 (cheap).
        cost_weight: from 0 to 1: what cheapness is worth in a right answer.
    """
    if form < 0:
        return form
    return (1.0 - cost_weight) * quality + cost_weight * cost if quality > 0 else 0.0


class RouterR1:
    """The reward components of Router-R1.

    Args:
        models: names that may be asked.
        quality: by what the answer is paid: ``exact`` match or ``f1``.
        cost_weight: what cheapness is worth in a right answer, from 0 to 1.
        costs: what costs are compared with: a window that every judged episode joins, or a fixed range.
        tool: the router's name.

    ``task.answer`` is the wanted answer, or a list of them.

    Raises:
        ConfigError: an option does not fit.
    """

    def __init__(
        self,
        models: Collection[str],
        quality: Quality = "exact",
        cost_weight: float = 0.0,
        costs: CostWindow | CostRange | None = None,
        tool: str = "router",
    ) -> None:
        if quality not in ("exact", "f1"):
            raise ConfigError(f"quality={quality!r} must be 'exact' or 'f1'.")
        if not 0 <= cost_weight <= 1:
            raise ConfigError(f"cost_weight={cost_weight!r} must be from 0 to 1.")
        self.models, self.quality, self.cost_weight, self.tool = models, quality, cost_weight, tool
        self.costs = CostWindow() if costs is None else costs

    def components(self) -> tuple[Reward, ...]:
        """``exact``, ``f1``, ``form`` and ``cost``, which are logged, and ``route``, which is trained on.

        Their order counts: ``route`` is made of the values of the others.
        """
        logged = [Reward(getattr(self, name), name, weight=0.0) for name in ("exact", "f1", "form", "cost")]
        return (*logged, Reward(self.route, "route"))

    def exact(self, episode: Trajectory) -> float:
        """1 if the answer is a wanted one, else 0."""
        return exact_match(extract_answer(episode.final_text), _wanted(episode))

    def f1(self, episode: Trajectory) -> float:
        """How many words the answer shares with a wanted one."""
        return f1(extract_answer(episode.final_text), _wanted(episode))

    def form(self, episode: Trajectory) -> float:
        """0 if the episode has Router-R1's form, else -1; why not is in the episode's metadata."""
        problem = form_problem(transcript(episode, self.tool), self.models)
        if problem is not None:
            episode.metadata["form_problem"] = problem
        return 0.0 if problem is None else -1.0

    def cost(self, episode: Trajectory) -> float:
        """From 0 (dear) to 1 (cheap); cost and bounds are in the episode's metadata."""
        raw = raw_cost(episode, self.tool)
        bounds = self.costs.including(raw)
        episode.metadata["cost"] = {"raw": raw, "low": bounds.low, "high": bounds.high}
        return bounds.score(raw)

    def route(self, episode: Trajectory) -> float:
        """The gated sum."""
        values = episode.rewards
        return gated(values["form"], values[self.quality], values["cost"], self.cost_weight)


def _wanted(episode: Trajectory) -> list[str]:
    answer = episode.task.answer
    wanted = [str(text) for text in (answer if isinstance(answer, list | tuple) else [answer])]
    if answer is None or not wanted:
        raise DefinitionError(
            f"Routed answers are compared with task.answer, and task {episode.task.id} has none; give it one."
        )
    return wanted
