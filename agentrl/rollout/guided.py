"""Episodes along an expert's trace: where the policy strays, the expert acts for it (UI-S1)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentrl.env import Env
from agentrl.errors import DefinitionError
from agentrl.events import NullSink
from agentrl.rollout.attempt import Attempt
from agentrl.rollout.context import Context, Following
from agentrl.rollout.control import SemiOnline
from agentrl.rollout.control_part import Control
from agentrl.rollout.policy import Sampling, Scene
from agentrl.rollout.scripted import ScriptedPolicy, written
from agentrl.rollout.seeds import derive_seed
from agentrl.rollout.setting import Ended, Setting
from agentrl.rollout.toolbox import ToolBox, distinct, user_code
from agentrl.task import Task
from agentrl.trajectory import Guided, Message, Trajectory, Turn

if TYPE_CHECKING:
    from agentrl.chat import ParsedTurn

MOST_TRACES = 512
"""Traces that a runner keeps; the one asked for longest ago gives way."""

Same = Callable[[Message, Message], bool]
"""Whether two assistant messages, the policy's and the expert's, are the same action."""


@dataclass(frozen=True)
class Step:
    """What the expert did in one turn.

    Args:
        turn: as it was played.
        message: the same as a message.
    """

    turn: Turn
    message: Message


class Traces:
    """The expert's traces by task, each played once, by the loop itself, in an environment of its own."""

    def __init__(self) -> None:
        self._played: dict[str, asyncio.Task[list[Step]]] = {}

    async def of(self, setting: Setting, task: Task) -> list[Step]:
        """The expert's turns in a task.

        Raises:
            DefinitionError: there is no expert, or it did not come to an end.
            InfrastructureError: machines failed its episode.
        """
        playing = self._played.pop(task.id, None)
        if playing is None or (playing.done() and (playing.cancelled() or playing.exception() is not None)):
            playing = asyncio.get_running_loop().create_task(_demonstrated(setting, task))
        self._played[task.id] = playing
        if len(self._played) > MOST_TRACES:
            del self._played[next(iter(self._played))]
        return await asyncio.shield(playing)  # one of those that wait may be given up


class _Unjudged(Attempt):
    """An episode whose record alone matters: no judge is asked what an expert deserves."""

    async def _judge(self, env: Env) -> None:
        pass


async def _demonstrated(setting: Setting, task: Task) -> list[Step]:
    own = dataclasses.replace(
        setting, policy=ScriptedPolicy(setting.chat), events=NullSink(), control=Control(), shape=None,
        opening=None,
    )  # fmt: skip
    name = f"expert-{task.id}"
    trajectory = Trajectory(task, name)
    await _Unjudged(own, trajectory, Sampling(), seed=derive_seed(task.id), name=name).run()
    if trajectory.status != "finished":
        raise DefinitionError(
            f"The expert of environment {setting.env.name} did not come to the end of task {task.id}: "
            f"{trajectory.reason}. algorithm.rollout.name=semi_online needs its whole trace: raise the limit."
        )
    said = [message for message in trajectory.messages if message["role"] == "assistant"]
    turns = trajectory.turns
    return [Step(turn, message) for turn, message in zip(turns, said[-len(turns) :], strict=True)]


class GuidedAttempt(Attempt):
    """Plays an episode along the expert's trace.

    A turn that does what the expert did is carried out. In the place of another one, the expert's is: its
    tokens stand in the context of later turns and were not sampled, so they are in no loss. The turn that
    strayed stays a turn of the episode, in a training row that ends with it. Once patches are used up, it is
    the last.

    Args:
        setting, trajectory, sampling, seed, name: as :class:`agentrl.rollout.attempt.Attempt`.
        control: how it is guided.
        same: what the same action is; ``None``: the same calls, or the same text where there are none.
        traces: the expert's.
    """

    def __init__(
        self,
        setting: Setting,
        trajectory: Trajectory,
        sampling: Sampling,
        *,
        seed: int | None,
        name: str,
        control: SemiOnline,
        same: Same | None,
        traces: Traces,
    ) -> None:
        super().__init__(setting, trajectory, sampling, seed=seed, name=name)
        self._control, self._same, self._traces = control, same, traces
        self._left, self._steps = control.patches, list[Step]()

    async def _set_up(self) -> tuple[Env, ToolBox]:
        env, tools = await super()._set_up()
        trajectory = self._trajectory
        self._steps = await self._traces.of(self._setting, trajectory.task)
        trajectory.expert_turns = len(self._steps)
        return env, tools

    async def _sample(self, tools: ToolBox) -> tuple[Turn, ParsedTurn]:
        """A turn of the policy, and what is carried out: its own action, or the expert's.

        Raises:
            Ended: it left the trace for good, or the trace is over.
        """
        index = len(self._trajectory.turns)
        if index >= len(self._steps):
            raise Ended("finished", f"the expert's trace is over after {index} turns")
        turn, parsed = await super()._sample(tools)
        expert, own = self._steps[index], self._trajectory.messages[-1]
        found = compared(turn, parsed, expert.turn)
        if self._same is not None:
            with user_code("algorithm.rollout.options.same"):
                found = dataclasses.replace(found, exact=found.form and bool(self._same(own, expert.message)))
        turn.guided = found
        if found.matched:
            return turn, parsed
        if not self._left:
            raise Ended("finished", f"the policy left the expert's trace in turn {index}")
        self._left -= 1
        turn.guided = dataclasses.replace(found, patched=True)
        return turn, self._patch(turn, expert, tools)

    def _patch(self, turn: Turn, expert: Step, tools: ToolBox) -> ParsedTurn:
        """Let the expert act in the turn's place."""
        trajectory, context = self._trajectory, self._context
        assert self._env is not None and isinstance(context, PatchedContext)
        message = dict(expert.message)
        if self._control.patch == "thought_free":
            message.pop("reasoning_content", None)
            if message.get("tool_calls"):
                message["content"] = ""
        before = trajectory.messages[:-1]
        scene = Scene(self._env, trajectory.task, 0, tools.schemas, before)
        ids = written(self._chat, scene, message)
        prompt = trajectory.segments[turn.segment].token_ids[: turn.start]
        parsed = distinct(self._parse(prompt, ids, tools), trajectory)
        trajectory.messages[-1] = self._chat.assistant_message(parsed)
        context.patch = ids
        if turn.stop_reason == "length":
            turn.stop_reason = "stop"  # what cut it off does not end the episode any more
        return parsed


class PatchedContext(Context):
    """A context in which tokens of an expert may stand in the place of a turn.

    Attributes:
        patch: that stand in the place of the newest turn's.
    """

    patch: list[int] | None = None

    def take(self, completion: list[int], said: Message) -> None:
        """The policy took a turn, or the expert did in its place."""
        super().take(completion if self.patch is None else self.patch, said)

    def after(self, answers: list[Message]) -> Following:
        """The context that follows; it begins a segment of its own behind a patch."""
        following = super().after(answers)
        return dataclasses.replace(following, grows=following.grows and self.patch is None)

    def accept(self, following: Following, answers: list[Message]) -> None:
        """The next turn is sampled in this one."""
        super().accept(following, answers)
        self.patch = None


def compared(turn: Turn, parsed: ParsedTurn, expert: Turn) -> Guided:
    """How far a turn does what the expert's did: in its form, in the tools called, in their arguments."""
    form = turn.stop_reason != "length" and all(call.error is None for call in parsed.calls)
    kind = [call.name for call in parsed.calls] == [call.name for call in expert.calls]
    if expert.calls:
        exact = [call.arguments for call in parsed.calls] == [call.arguments for call in expert.calls]
    else:
        exact = parsed.content.split() == expert.text.split()
    return Guided(form, form and kind, form and kind and exact)


def guiding(control: SemiOnline, same: Same | None) -> Callable[..., Attempt]:
    """What plays the episodes of a runner."""
    traces = Traces()

    def attempt(*args: Any, **how: Any) -> Attempt:
        return GuidedAttempt(*args, **how, control=control, same=same, traces=traces)

    return attempt
