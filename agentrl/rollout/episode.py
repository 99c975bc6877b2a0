"""Episodes: one coroutine each, retried where machines fail, recorded token by token."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from agentrl.agent import AgentEnv
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import DefinitionError, EpisodeTimeout, InfrastructureError, UsageError
from agentrl.events import EpisodeFinished, EpisodeVoided, EventSink, NullSink
from agentrl.registry import nearest
from agentrl.reward import Reward
from agentrl.rollout.admission import Load
from agentrl.rollout.agents.attempt import AgentAttempt, Agents
from agentrl.rollout.agents.endpoint import Endpoint
from agentrl.rollout.attempt import Attempt
from agentrl.rollout.control import check_control
from agentrl.rollout.control_part import Control
from agentrl.rollout.groups import Groups
from agentrl.rollout.pictures import PictureStore, check_sight
from agentrl.rollout.policy import Policy, Sampling
from agentrl.rollout.setting import Opening, Setting
from agentrl.rollout.toolbox import user_code
from agentrl.rollout.waiting import OutOfTime, within
from agentrl.scoring import components_of, grouped, score_group
from agentrl.task import Task
from agentrl.terms import Shape
from agentrl.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from agentrl.chat import Chat
    from agentrl.sandbox import Sandbox


class EpisodeRunner:
    """Plays episodes of one environment with one policy; any number at once.

    Args:
        env: the environment; every episode gets an instance of its own from ``env.spawn()``.
        chat: the chat format of the policy's model.
        policy: what is sampled from.
        limits: limits and sampling; see :class:`agentrl.config.Rollout`.
        sandbox: where tools open sessions; ``None`` for environments that need none.
        events: where events go.
        clock: seconds, from any start; by default the event loop's time.
        keep_characters: the longest text kept of one observation, as it came in.
        control: what an algorithm does to episodes while they are played; ``None``: nothing.
        shape: makes of the environment's rewards those that are trained on; success stays what it is.
        group_seconds: that rewards per group may take; by default as long as an episode.
        load: counts what its episodes wait for; by default nobody looks at it.

    Raises:
        ConfigError: the control does not go with the environment or the limits.
        DefinitionError: the environment's ``success`` names no reward of it, or one that may be left
            out, or two rewards have the same name.
        ModelUnsupported: the environment shows images, and the model takes text only.
    """

    def __init__(
        self,
        env: Env,
        chat: Chat,
        policy: Policy,
        limits: Rollout,
        *,
        sandbox: Sandbox | None = None,
        events: EventSink | None = None,
        clock: Callable[[], float] | None = None,
        keep_characters: int = 1_000_000,
        control: Control | None = None,
        shape: Shape | None = None,
        group_seconds: float | None = None,
        load: Load | None = None,
    ) -> None:
        self._terms = env.own_rewards()
        self._shaped = None if shape is None else shape(self._terms)
        _check_success(env, components_of(self._terms))
        self.env, self.limits = env, limits
        self._group_seconds = limits.episode_seconds if group_seconds is None else group_seconds
        self._grouped = grouped([*self._terms, *(self._shaped or ())])
        self._groups = Groups(self._judge_group)
        self._events = events or NullSink()
        check_sight(env, chat)
        control = control or Control()
        check_control(control, env)
        control.reserved(chat, limits)
        pictures = PictureStore(chat.vision, limits.max_image_pixels) if chat.vision else None
        self._setting = Setting(
            env, chat, policy, limits, sandbox, self._events, clock, keep_characters, pictures, control,
            shape, load or Load(),
        )  # fmt: skip
        self._attempt: Callable[..., Attempt] = control.attempts() or Attempt
        if isinstance(env, AgentEnv):
            self._attempt = functools.partial(AgentAttempt, agents=Agents(Endpoint(env.host)))

    async def run(
        self,
        task: Task,
        *,
        episode_id: str,
        group: str = "",
        step: int = 0,
        split: str = "train",
        seed: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        progress: float = 1.0,
        max_turns: int | None = None,
        opening: Opening | None = None,
        start: Sequence[Message] = (),
    ) -> Trajectory:
        """Play one episode to its end.

        Rewards per group are still open in it: :meth:`gather` takes it on, or use :meth:`run_in_group`.

        An attempt that infrastructure fails is void and is started afresh, up to ``retries`` times
        with growing waits. The last one's failure gives a trajectory with status ``void`` and no
        reward; its tokens are there to be looked at.

        Args:
            task: what is to be done.
            episode_id: unique name.
            group: name shared by the episodes that are compared.
            step, split: for the events.
            seed: makes sampling repeatable where the engine can.
            temperature, top_p: instead of the limits'.
            progress: the share of the training's steps that are done, for :func:`agentrl.schedule`.
            max_turns: a tighter limit than ``rollout.max_turns``, for this episode alone.
            opening: makes another opening of the environment's. An agent's own dialogues have none.
            start: what is said and done first, unsampled, with ``algorithm.rollout.name=stored_starts``.

        Raises:
            UsageError: the run has to stop: a tool, the environment, a reward or a setting is at fault.
        """
        chat = self._setting.chat
        sampling = Sampling(
            temperature=self.limits.temperature if temperature is None else temperature,
            top_p=self.limits.top_p if top_p is None else top_p,
            stop_token_ids=tuple(chat.stop_token_ids),
            stop_strings=tuple(chat.stop_strings),
        )
        setting, number = self._setting, 0
        if max_turns is not None and max_turns < self.limits.max_turns:
            limits = self.limits.model_copy(update={"max_turns": max_turns})
            setting = dataclasses.replace(setting, limits=limits)
        if opening is not None:
            setting = dataclasses.replace(setting, opening=opening)
        if start:
            setting = dataclasses.replace(setting, start=start)
        while True:
            number += 1
            trajectory = Trajectory(task, episode_id, group, attempts=number, progress=progress)
            # A retry goes by another name, lest a router send it back to the machine that failed.
            name = episode_id if number == 1 else f"{episode_id}~{number}"
            attempt = self._attempt(setting, trajectory, sampling, seed=seed, name=name)
            try:
                await attempt.run()
            except UsageError as problem:
                problem.add_note(f"In episode {episode_id} of task {task.id}, environment {self.env.name}.")
                raise
            except InfrastructureError as problem:
                _make_void(trajectory, problem, attempt.elapsed())
                if number > self.limits.retries:
                    break
                self._events.emit(_voided(trajectory, step, split, final=False))
                await asyncio.sleep(self.limits.retry_seconds * 2 ** (number - 1))
            else:
                break
        self._setting.load.ended(trajectory)
        if not self._grouped:
            self._tell(trajectory, step, split)
        return trajectory

    async def gather(
        self, trajectory: Trajectory, *, size: int, step: int = 0, split: str = "train"
    ) -> list[Trajectory]:
        """Hand in an episode that :meth:`run` returned; returns those whose judgement is complete now.

        Without rewards per group that is the episode itself. With them it is none until the last of the
        group's ``size`` episodes has come, and then all of them.

        Raises:
            UsageError: a reward per group failed.
        """
        if not self._grouped:
            return [trajectory]
        members = await self._groups.add(trajectory, size)
        for member in members:
            self._tell(member, step, split)
        return members

    def set_apart(self, trajectory: Trajectory, *, step: int = 0, split: str = "train") -> Trajectory:
        """Report a void episode that :meth:`run` returned and that its group does without; returns it."""
        if self._grouped:
            self._tell(trajectory, step, split)
        return trajectory

    async def run_in_group(
        self,
        task: Task,
        *,
        size: int,
        group: str,
        step: int = 0,
        split: str = "train",
        slot: AbstractAsyncContextManager[Any] | None = None,
        **how: Any,
    ) -> Trajectory:
        """Play one episode of a group of ``size``; with rewards per group, wait until all are judged.

        Args:
            slot: held while the episode is played, not while it waits for the others.
            how: ``episode_id`` and what else :meth:`run` takes.

        Raises:
            UsageError: the run has to stop, for what this episode or another of its group ran into.
        """
        try:
            async with slot or nullcontext():
                trajectory = await self.run(task, group=group, step=step, split=split, **how)
        except BaseException as problem:
            if self._grouped:
                self._groups.fail(group, size, problem)
            raise
        if self._grouped:
            await self._groups.wait(trajectory, size)
            self._tell(trajectory, step, split)
        return trajectory

    async def _judge_group(self, members: list[Trajectory]) -> None:
        """Fill in the rewards per group; infrastructure that fails in it voids the whole group."""
        counted = [trajectory for trajectory in members if trajectory.status != "void"]
        if not counted:
            return
        seconds = self._group_seconds
        try:
            with user_code(f"Group rewards of environment {self.env.name}"):
                await within(score_group(counted, self._terms, self._shaped), seconds)
        except OutOfTime:
            problem: InfrastructureError = EpisodeTimeout(
                f"The group rewards of environment {self.env.name} took longer than {seconds:g} s "
                "(rollout.episode_seconds)."
            )
        except InfrastructureError as raised:
            problem = raised
        else:
            return
        for trajectory in counted:
            _make_void(trajectory, problem, trajectory.seconds)

    def _tell(self, trajectory: Trajectory, step: int, split: str) -> None:
        """Emit how an episode ended, once nothing can change it any more."""
        if trajectory.status != "void":
            self._events.emit(_finished(self.env, trajectory, step, split))
        else:
            self._events.emit(_voided(trajectory, step, split, final=True))


def succeeded(env: Env, trajectory: Trajectory) -> bool:
    """Whether an episode counts as solved: the component ``env.success``, or else the reward, is above 0.

    It is the environment's reward that counts, whatever an algorithm makes of it. What an expert had a hand
    in does not count.
    """
    if trajectory.reward is None or trajectory.patched:
        return False
    if env.success is None:
        return (trajectory.reward if trajectory.unshaped is None else trajectory.unshaped) > 0
    per_turn = [turn.rewards.get(env.success, 0.0) for turn in trajectory.turns]
    return max([trajectory.rewards.get(env.success, 0.0), *per_turn]) > 0


def _make_void(trajectory: Trajectory, problem: InfrastructureError, seconds: float) -> None:
    """Leave nothing in the record that could be taken for a judgement."""
    trajectory.status, trajectory.reason = "void", f"{type(problem).__name__}: {problem}"
    trajectory.seconds = seconds
    trajectory.reward, trajectory.unshaped, trajectory.episode_reward = None, None, 0.0
    trajectory.rewards, trajectory.turn_reward, trajectory.missing = {}, {}, {}
    for turn in trajectory.turns:
        turn.rewards = {}


def _check_success(env: Env, components: Sequence[Reward]) -> None:
    if env.success is None:
        return
    named = {component.name: component for component in components}
    if env.success not in named:
        raise DefinitionError(
            f"Environment {env.name} counts success by the reward {env.success!r}, which it does not "
            f"have. {nearest(env.success, list(named))}"
        )
    if named[env.success].no_verdict == "leave out":
        raise DefinitionError(
            f"Environment {env.name} counts success by the reward {env.success!r}, which may be left out. "
            "An episode without a verdict would count as a failure: give the reward no_verdict='void'."
        )


def _voided(trajectory: Trajectory, step: int, split: str, *, final: bool) -> EpisodeVoided:
    return EpisodeVoided(
        episode=trajectory.id, group=trajectory.group, task=trajectory.task.id, step=step, split=split,
        reason=trajectory.reason, attempt=trajectory.attempts, final=final,
    )  # fmt: skip


def _finished(env: Env, trajectory: Trajectory, step: int, split: str) -> EpisodeFinished:
    assert trajectory.reward is not None
    turns = trajectory.turns
    return EpisodeFinished(
        episode=trajectory.id, group=trajectory.group, task=trajectory.task.id, step=step, split=split,
        status=trajectory.status, reward=trajectory.reward, success=succeeded(env, trajectory),
        turns=len(turns), calls=len(trajectory.calls), tokens=trajectory.sampled_tokens,
        seconds=trajectory.seconds, generate_seconds=sum(turn.generate_seconds for turn in turns),
        tool_seconds=sum(turn.tool_seconds for turn in turns),
    )  # fmt: skip
