"""Environments that a user's own agent plays: any program that asks a model through a base URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentrl.env import Env, ToolLike
from agentrl.errors import DefinitionError
from agentrl.task import Task

Agent = Callable[[Task, str, str], Any]
"""``(task, base_url, api_key) -> answer``; a coroutine function, or a plain one that may block."""


class AgentEnv(Env):
    """An environment whose episodes are played by an agent that knows nothing of agentrl.

    The agent is given a base URL and a key, with which it asks the policy as it would ask OpenAI's
    or Anthropic's servers. It brings its own prompts, tools and loop; of the environment it uses the
    tasks and the rewards. Define :meth:`agent` or :attr:`command`, or make one of parts:
    ``AgentEnv(tasks=..., rewards=[exact], agent=my_agent)``.

    The agent is the user's code and is trusted as such: it runs with the rights of this process.
    Where it runs what the model wrote, that belongs into :attr:`context`'s sandbox or another.

    Attributes:
        command: a program and its arguments (or one text, split as a shell would), run once per
            episode in a folder of its own.
            ``{prompt}`` in an argument is the task's prompt, which is on standard input too. What it
            prints is its answer. Its environment names the endpoint: ``OPENAI_BASE_URL``,
            ``OPENAI_API_KEY``, ``ANTHROPIC_BASE_URL``, ``ANTHROPIC_API_KEY``.
        host: the address that the endpoint listens at, on a free port. An agent in a container
            needs one that it can reach, such as the bridge's.

    Raises:
        DefinitionError: both an agent and a command are given.
    """

    command: str | Sequence[str] = ()
    host: str = "127.0.0.1"

    def __init__(
        self,
        tasks: Iterable[Task] | None = None,
        tools: Sequence[ToolLike] | None = None,
        rewards: Sequence[Any] | None = None,
        prompt: str | None = None,
        *,
        agent: Agent | None = None,
        command: str | Sequence[str] | None = None,
        host: str | None = None,
    ) -> None:
        super().__init__(tasks, tools, rewards, prompt)
        if agent is not None and command:
            raise DefinitionError("An AgentEnv is played by an agent or by a command, not by both.")
        if agent is not None:
            self.agent = agent  # type: ignore[assignment, method-assign]
        if command is not None:
            self.command = command
        if host is not None:
            self.host = host

    def agent(self, task: Task, base_url: str, api_key: str) -> Any:
        """Do the task, asking the model at ``base_url``.

        A coroutine (``async def``), or a plain method that may block: it has a thread of its own.

        Returns:
            The answer, which rewards see as ``episode.final_text``; ``None`` for the last thing that
            the model said.
        """
        raise DefinitionError(
            f"Environment {self.name} has no agent: define agent(task, base_url, api_key) or command."
        )
