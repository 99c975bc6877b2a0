"""Questions that other models answer: which one to ask, and is it worth its price? (Router-R1)

The policy thinks, asks models by name with the ``router`` tool, and gives its answer.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from agentrl import ConfigError, Env, Expert, Message, Splits, Task, call, say, split_size
from agentrl.envs.route import questions, towns
from agentrl.envs.route.questions import OnBadRow
from agentrl.envs.route.scripted import POOL, Knowledge, Known, ScriptedModels, ScriptedRouter
from agentrl.rewards.route import WINDOW, CostRange, CostWindow, Quality, RouterR1
from agentrl.tools.router import RoutedModel, Router


class Route(Env):
    """Questions, a pool of models at a price, and Router-R1's reward.

    Args:
        data: instead of made-up questions about towns, a folder, file or hub id with questions and answers.
        question, answer: the columns of ``data``.
        on_bad_row: what to do about a malformed row of ``data``: ``stop`` or ``skip``.
        size: made-up tasks of the train split; the test split has a quarter of it, at most 512.
        seed: of the made-up tasks of the train split.
        models: who can be asked: fields of :class:`agentrl.tools.router.RoutedModel`. By default scripted
            models that run in this process and know the answers as far as their skill goes.
        router: further options of the router, by name: limits, ``instruction``.
        quality: by what an answer is paid: ``exact`` match or ``f1``.
        cost_weight: what cheapness is worth in a right answer, from 0 to 1.
        cost_window: how many costs of the last episodes tell cheap from dear.
        cost_range: instead, two fixed bounds: square roots of an episode's cost.

    Raises:
        ConfigError: an option does not fit.
    """

    prompt = "Think in <think></think>. Ask a model with router. Answer in <answer></answer>."
    long_prompt = (
        "Answer the question. Whenever you have read something new, first think inside <think> and "
        "</think>: what you know, what is missing, and which model is good enough to tell and cheap. Ask "
        "with the router tool, as often as it takes; every token of an answer costs the model's price. When "
        "you know the answer, write it in a few words inside <answer> and </answer>, for example "
        "<answer>Beijing</answer>, once and at the very end."
    )
    success = "exact"

    # What the scripted expert demonstrates. A policy warmed up on it knows the tool and the form, but whom to
    # ask, and that asking pays, is left to training.
    expert_ask_rate = 0.7  # episodes that ask; the others guess
    expert_route_rate = 0.2  # of those, how many ask a model that knows; the others ask any
    expert_guess = "1500"

    def __init__(
        self,
        data: str | None = None,
        question: str = "question",
        answer: str = "answer",
        on_bad_row: OnBadRow = "stop",
        size: int = 2000,
        seed: int = 0,
        models: Sequence[RoutedModel | Mapping[str, Any]] | None = None,
        router: Mapping[str, Any] | None = None,
        quality: Quality = "exact",
        cost_weight: float = 0.0,
        cost_window: int = WINDOW,
        cost_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prompt=self.long_prompt if data or models else None)
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        if not 4 <= size <= towns.MOST_TRAIN:
            raise ConfigError(f"size={size!r} must be from 4 to {towns.MOST_TRAIN}.")
        self.data, self.columns, self.on_bad_row = data, (question, answer), on_bad_row
        self.size, self.seed, self.scripted = size, seed, models is None
        tool = _make_router(models, ScriptedModels(self._knowledge), router or {})
        costs = CostWindow(cost_window) if cost_range is None else _bounds(cost_range)
        self.tools = (tool,)
        self.rewards = RouterR1(tuple(tool.models), quality, cost_weight, costs, tool.name).components()
        self._splits = Splits(self._make)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made or read once; no prompt stands in both.

        Raises:
            ConfigError: the split is unknown.
            DataError: ``data`` cannot be read.
        """
        return self._splits(split)

    def _make(self, split: str, _: set[Hashable]) -> list[Task]:
        if self.data:
            return questions.load(self.data, split, *self.columns, self.on_bad_row)
        return towns.make(split, split_size(split, self.size, towns.MOST_TEST), self.seed)

    def expert(self, task: Task, rng: random.Random) -> Expert | None:
        """Demonstrations with the scripted models; see the rates above. None for other ``models``."""
        return self._demonstrate(task, rng) if self.scripted else None

    def _demonstrate(self, task: Task, rng: random.Random) -> Expert:
        if rng.random() >= self.expert_ask_rate:
            yield _answer("I guess.", self.expert_guess)
            return
        chosen = _who_knows(task.prompt) if rng.random() < self.expert_route_rate else rng.choice(list(POOL))
        [told] = yield _think(call("router", model=chosen, query=task.prompt), f"I ask {chosen}.")
        yield _answer("So it is.", told)

    def _knowledge(self) -> Knowledge:
        """All questions with their answers, for the scripted models."""
        tasks = (task for split in ("train", "test") for task in self.tasks(split))
        return Knowledge(
            {task.prompt: Known(_first(task.answer), task.metadata.get("topic", "")) for task in tasks}
        )


def _who_knows(question: str) -> str:
    """The cheapest scripted model that certainly knows: told by the question's words alone."""
    if question.startswith("When was") and question.endswith(" founded?"):
        return "annalist"
    return "pilot" if question.startswith("How long is the river of") else "sage"


def _make_router(
    models: Sequence[RoutedModel | Mapping[str, Any]] | None,
    scripted: ScriptedModels,
    options: Mapping[str, Any],
) -> Router:
    try:
        if models is None:
            return ScriptedRouter(scripted, **options)
        return Router(models, **options)
    except TypeError as problem:
        raise ConfigError(f"The options of the router do not fit: {problem}.") from problem


def _bounds(given: Sequence[float]) -> CostRange:
    if len(given) != 2 or not 0 <= given[0] < given[1]:
        raise ConfigError(f"cost_range={given!r} must be two numbers from 0 on, the lower one first.")
    return CostRange(*given)


def _first(answer: Any) -> str:
    return str(answer[0] if isinstance(answer, list | tuple) else answer)


def _think(message: Message, thought: str) -> Message:
    return {**message, "content": f"<think>{thought}</think>{message['content']}"}


def _answer(thought: str, answer: str) -> Message:
    return _think(say(f"<answer>{answer}</answer>"), thought)
