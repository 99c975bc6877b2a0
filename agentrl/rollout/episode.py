"""Episodes: one coroutine each, retried where machines fail, recorded token by token."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from agentrl.agent import AgentEnv
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import DefinitionError, InfrastructureError, UsageError
from agentrl.events import EpisodeFinished, EpisodeVoided, EventSink, NullSink
from agentrl.registry import nearest
from agentrl.rollout.agents.attempt import AgentAttempt, Agents
from agentrl.rollout.agents.endpoint import Endpoint
from agentrl.rollout.attempt import Attempt, Setting
from agentrl.rollout.policy import Policy, Sampling
from agentrl.task import Task
from agentrl.trajectory import Trajectory

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

    Raises:
        DefinitionError: the environment's ``success`` names no reward of it.
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
    ) -> None:
        components = [component.name for component in env.own_rewards()]
        if env.success is not None and env.success not in components:
            raise DefinitionError(
                f"Environment {env.name} counts success by the reward {env.success!r}, which it does not "
                f"have. {nearest(env.success, components)}"
            )
        self.env, self.limits = env, limits
        self._events = events or NullSink()
        self._setting = Setting(env, chat, policy, limits, sandbox, self._events, clock, keep_characters)
        self._attempt: Callable[..., Attempt] = Attempt
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
    ) -> Trajectory:
        """Play one episode to its end.

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
        number = 0
        while True:
            number += 1
            trajectory = Trajectory(task, episode_id, group, attempts=number)
            # A retry goes by another name, lest a router send it back to the machine that failed.
            name = episode_id if number == 1 else f"{episode_id}~{number}"
            attempt = self._attempt(self._setting, trajectory, sampling, seed=seed, name=name)
            try:
                await attempt.run()
            except UsageError as problem:
                problem.add_note(f"In episode {episode_id} of task {task.id}, environment {self.env.name}.")
                raise
            except InfrastructureError as problem:
                _make_void(trajectory, problem, attempt.elapsed())
                final = number > self.limits.retries
                self._events.emit(
                    EpisodeVoided(episode_id, group, task.id, step, split, trajectory.reason, number, final)
                )
                if final:
                    return trajectory
                await asyncio.sleep(self.limits.retry_seconds * 2 ** (number - 1))
            else:
                self._events.emit(_finished(self.env, trajectory, step, split))
                return trajectory


def succeeded(env: Env, trajectory: Trajectory) -> bool:
    """Whether an episode counts as solved: the component ``env.success``, or else the reward, is above 0."""
    if trajectory.reward is None:
        return False
    if env.success is None:
        return trajectory.reward > 0
    per_turn = [turn.rewards.get(env.success, 0.0) for turn in trajectory.turns]
    return max([trajectory.rewards.get(env.success, 0.0), *per_turn]) > 0


def _make_void(trajectory: Trajectory, problem: InfrastructureError, seconds: float) -> None:
    """Leave nothing in the record that could be taken for a judgement."""
    trajectory.status, trajectory.reason = "void", f"{type(problem).__name__}: {problem}"
    trajectory.seconds = seconds
    trajectory.reward, trajectory.episode_reward = None, 0.0
    trajectory.rewards, trajectory.turn_reward = {}, {}
    for turn in trajectory.turns:
        turn.rewards = {}


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
