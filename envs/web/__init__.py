"""Tasks on web pages, in a real browser: those of MiniWoB++, and those of a small shop."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from agentrl import (
    ConfigError,
    Env,
    Expert,
    InfrastructureError,
    Message,
    Observation,
    SessionLost,
    Snapshot,
    Splits,
    Task,
    ToolError,
    Trajectory,
    call,
    reward,
    say,
    split_size,
)
from agentrl.envs.web.miniwob import MiniWob
from agentrl.envs.web.miniwob_play import SCRIPTS
from agentrl.envs.web.play import Outcome, Play
from agentrl.envs.web.seen import Seen
from agentrl.envs.web.shop import ShopPlay
from agentrl.envs.web.shop_tasks import KINDS
from agentrl.tools.browser import Browser, OpenPage

TEST_SIZE = 256
OVER = "The task is over."
Where = Literal["miniwob", "shop"]
WORLDS: dict[str, tuple[type[Play], tuple[str, ...], tuple[str, ...]]] = {
    "miniwob": (MiniWob, tuple(SCRIPTS), ("click", "type", "select", "scroll", "read")),
    "shop": (ShopPlay, tuple(KINDS), ("goto", "click", "type", "select", "back", "read")),
}
"""How each is played, its tasks, and the actions that are offered on it."""


class Web(Env):
    """Pages of MiniWoB++ or of a shop, used through a browser.

    Args:
        where: ``miniwob`` or ``shop``.
        kinds: names of its tasks; by default all.
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other tasks.
        actions: the browser's tools that are offered; ``screenshot`` is for vision-language models.
        opening: characters of the first page that stand in the prompt; the rest can be read.
        expert_rate: how often the expert does its best; else one of its clicks goes anywhere.
        browser: options of :class:`agentrl.tools.browser.Browser`.

    Raises:
        ConfigError: an option does not fit, or a package is not installed.
    """

    name = "web"
    prompt = "Use the page. Numbers in brackets are ids."
    success = "solved"

    def __init__(
        self,
        where: Where = "miniwob",
        kinds: Sequence[str] | None = None,
        size: int = 2000,
        seed: int = 0,
        actions: Sequence[str] | None = None,
        opening: int = 4000,
        expert_rate: float = 1.0,
        browser: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if where not in WORLDS:
            raise ConfigError(f"where={where!r} must be one of {', '.join(WORLDS)}.")
        self.play_type, known, offered = WORLDS[where]
        self.kinds = _checked(kinds, known)
        if size < 4 or seed < 0 or opening < 0 or not 0 <= expert_rate <= 1:
            raise ConfigError(
                f"size={size} must be at least 4, seed={seed} and opening={opening} at least 0, and "
                f"expert_rate={expert_rate} between 0 and 1."
            )
        self.size, self.seed, self.opening, self.expert_rate = size, seed, opening, expert_rate
        wide = {"width": 500, "height": 320} if where == "miniwob" else {}
        options = {"actions": tuple(actions or offered), "load_seconds": 20.0, **wide, **(browser or {})}
        self.browser = Browser(**options)
        self.tools = (self.browser,)
        self.images = any(tool.name == "screenshot" for tool in self.browser.tools())
        self.opened: OpenPage | None = None
        self.asked, self.shown = "", ""
        self._splits = Splits(self._make, key=lambda task: task.id)

    def tasks(self, split: str) -> list[Task]:
        """Tasks of all kinds in turn, each with a seed of its own; no seed stands in both splits.

        Raises:
            ConfigError: the split is unknown.
        """
        return self._splits(split)

    def _make(self, split: str, _: set[Hashable]) -> list[Task]:
        tasks = []
        for number in range(split_size(split, self.size, TEST_SIZE)):
            kind, seed = self.kinds[number % len(self.kinds)], 2 * (self.seed * self.size + number)
            seed += split == "test"
            tasks.append(
                Task("Do what the page asks for.", id=f"{kind}-{seed}", metadata={"kind": kind, "seed": seed})
            )
        return tasks

    # ---- an episode -----------------------------------------------------------------------------

    async def reset(self, task: Task) -> None:
        """Open the page and begin.

        Raises:
            InfrastructureError: there is no browser to be had.
        """
        self.play = self.play_type(str(task.metadata["kind"]), int(task.metadata["seed"]))
        self.opened = await self.browser.enter(self.context, self.play.site)
        self.asked = await self.play.begin(self.opened)
        try:
            self.shown = (await self.opened.look()).text
        except ToolError as problem:
            raise SessionLost(f"The page of task {task.id} cannot be read: {problem}") from problem
        self.opened.watch = self._watch

    async def close(self) -> None:
        """Let go of the page."""
        if self.opened is not None:
            self.opened = None
            await self.browser.leave(self.context)

    def messages(self, task: Task) -> list[Message]:
        """The prompt; in an episode, what is asked for and the page."""
        if not self.asked:
            return super().messages(task)
        *before, user = super().messages(task)
        shown = self.shown
        if len(shown) > self.opening:
            shown = shown[: self.opening].rpartition("\n")[0] + "\n(more: read)"
        return [*before, {**user, "content": f"{self.asked}\n{shown}".strip()}]

    async def _watch(self) -> Observation | None:
        outcome = await self._outcome()
        return Observation(OVER, done=True) if outcome.done else None

    async def _outcome(self, episode: Trajectory | None = None) -> Outcome:
        if self.opened is None:
            raise InfrastructureError("The episode has no page.")
        return await self.play.outcome(self.opened, episode)

    @reward
    async def score(self, episode: Trajectory) -> float:
        """What the page, or the check of the shop's state, says that the episode is worth."""
        outcome = await self._outcome(episode)
        episode.metadata["outcome"] = {"reward": outcome.reward, "reason": outcome.reason}
        return outcome.reward

    @reward(weight=0)
    async def solved(self, episode: Trajectory) -> float:
        """1 if the score is full, else 0."""
        return float((await self._outcome(episode)).reward >= 1)

    async def snapshot(self) -> Snapshot:
        """The shop's state, the address and the cookies; of MiniWoB, what was done so far."""
        if self.opened is None:
            raise InfrastructureError("The episode has no page.")
        return Snapshot(state=(self.play.name, self.play.seed, await self.play.save(self.opened)))

    async def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot holds, of the same task or another."""
        if self.opened is None:
            raise InfrastructureError("The episode has no page.")
        name, seed, state = snapshot.state
        if (name, seed) != (self.play.name, self.play.seed):
            raise ConfigError(
                f"The snapshot is of task {name}-{seed}, not {self.play.name}-{self.play.seed}."
            )
        await self.play.load(self.opened, state)
        self.shown = (await self.opened.look()).text

    # ---- the expert -----------------------------------------------------------------------------

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Does what the page asks for; or, with ``expert_rate`` below 1, clicks anywhere once."""
        page, script = Seen(self.shown), self.play.script(self.asked, Seen(self.shown))
        slips = rng.random() >= self.expert_rate
        answers: list[str] | None = None
        while True:
            try:
                message = next(script) if answers is None else script.send(answers)
            except StopIteration:
                break
            if slips and page.items:
                message, slips = call("click", id=rng.choice(page.items).id), False
            answers = yield message
            page = Seen(answers[0])
        yield say("Done.")


def _checked(kinds: Sequence[str] | None, known: tuple[str, ...]) -> list[str]:
    if kinds is None:
        return list(known)
    chosen = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    unknown = [kind for kind in chosen if kind not in known]
    if unknown or not chosen:
        what = f"There is no kind {unknown[0]!r}" if unknown else "kinds= is empty"
        raise ConfigError(f"{what}; known: {', '.join(sorted(known))}.")
    return chosen
