"""One attempt at an episode that an agent plays: the agent is started, accompanied and ended."""

from __future__ import annotations

import asyncio
import inspect
import shlex
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agentrl.agent import AgentEnv
from agentrl.errors import ConfigError, InfrastructureError, UsageError, UserCodeError
from agentrl.observation import Observation
from agentrl.rollout.agents.command import run_command, variables
from agentrl.rollout.agents.endpoint import Endpoint
from agentrl.rollout.agents.served import ServedAttempt
from agentrl.rollout.policy import Sampling
from agentrl.rollout.setting import Ended, Setting
from agentrl.rollout.toolbox import kept
from agentrl.rollout.waiting import OutOfTime, StrayExit, all_of, within
from agentrl.tool import BlockingCalls
from agentrl.trajectory import Trajectory

FAILURES = 20
"""After so many episodes, in all of which the agent failed, it is taken to be broken."""

ENDS = (Ended, InfrastructureError, UsageError)
"""What ends an episode by itself, whatever the agent makes of it."""

THREADS = 1024
"""Agents that are no coroutines, at once in a process."""


@dataclass
class Agents:
    """What the agents of a runner share.

    Args:
        endpoint: what they are served by.
        threads: where those that block run.
        failed: how many episodes the agent failed in, until it first worked.
        worked: whether it ever did.
    """

    endpoint: Endpoint
    threads: BlockingCalls = field(default_factory=lambda: BlockingCalls(THREADS))
    failed: int = 0
    worked: bool = False


class AgentAttempt(ServedAttempt):
    """Plays an episode of an :class:`agentrl.AgentEnv` once: starts the agent and serves it.

    Args:
        agents: what it shares with the other episodes.
        setting, trajectory, sampling, seed, name: as :class:`agentrl.rollout.attempt.Attempt`.
    """

    def __init__(
        self,
        setting: Setting,
        trajectory: Trajectory,
        sampling: Sampling,
        *,
        seed: int | None,
        name: str,
        agents: Agents,
    ) -> None:
        super().__init__(setting, trajectory, sampling, seed=seed, name=name)
        self._agents = agents

    async def _play(self) -> None:
        env, _ = self._spawn()
        assert isinstance(env, AgentEnv)
        await self._users(f"Environment {env.name}: reset()", env.reset(self._trajectory.task))
        self._trajectory.answer = ""  # until the agent hands one in
        self._introduce(env, self._tools_shown, self._messages_shown)
        try:
            async with self._agents.endpoint.serve(self) as (base_url, api_key):
                try:
                    self._trajectory.answer = await self._accompany(env, base_url, api_key)
                finally:
                    await self._hang_up()
        except OSError as problem:
            raise ConfigError(f"The endpoint cannot listen at {env.host!r}: {problem}.") from problem
        self._agents.worked = True
        if self._limit is not None:
            raise Ended("truncated", self._limit)
        raise Ended("finished", "the agent gave its answer")

    async def _accompany(self, env: AgentEnv, base_url: str, api_key: str) -> str | None:
        """The agent's answer, unless something ends the episode before."""

        async def agent() -> str | None:
            answer = await within(self._run_agent(env, base_url, api_key), self.left())
            self._settle(None)
            return answer

        async def watch() -> None:
            await asyncio.wait({self._over})
            self._over.result()

        try:
            answer, _ = await all_of(
                [agent(), watch()], rank=lambda problem: int(not isinstance(problem, ENDS))
            )
            return answer
        except OutOfTime:
            self._out_of_time("while the agent was at work")
        except ENDS:
            raise
        except Exception as problem:
            if self._over.done() and (ours := self._over.exception()) is not None:
                raise ours from None  # what came of it in the agent does not matter
            self._failed(problem)

    async def _run_agent(self, env: AgentEnv, base_url: str, api_key: str) -> str | None:
        task = self._trajectory.task
        if env.command:
            argv = shlex.split(env.command) if isinstance(env.command, str) else env.command
            answer: Any = await run_command(argv, task, variables(base_url, api_key, env.host))
        elif inspect.iscoroutinefunction(env.agent):
            answer = await env.agent(task, base_url, api_key)
        else:
            answer = await self._agents.threads.run(env.agent, task, base_url, api_key)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None:
            return None
        if not isinstance(answer, str):
            raise UserCodeError(
                f"The agent of environment {env.name} returned {type(answer).__name__}; an answer is text, "
                "or None for the last thing that the model said."
            )
        return kept(Observation(answer), self._setting.keep_characters)[0].text

    def _failed(self, problem: Exception) -> NoReturn:
        """The agent raised. If the model has spoken, it may have tripped over what that said."""
        agents, limits = self._agents, self._limits
        if self._limit is not None:
            raise Ended("truncated", self._limit) from problem
        what = str(problem) if isinstance(problem, StrayExit) else f"{type(problem).__name__}: {problem}"
        agents.failed += 1
        if limits.tool_exceptions == "stop" or (not agents.worked and agents.failed >= FAILURES):
            raise UserCodeError(
                f"The agent of environment {self._setting.env.name} failed in {agents.failed} episodes; the "
                f"last time: {what}."
            ) from problem
        if not self._trajectory.turns:
            raise InfrastructureError(f"The agent failed before the model had spoken: {what}.") from problem
        raise Ended("finished", f"the agent failed: {what}") from problem
