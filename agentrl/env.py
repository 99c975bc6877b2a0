"""Environments: tasks, the tools an episode may use, and the rewards that judge it."""

from __future__ import annotations

import copy
import functools
import inspect
import random
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, ClassVar, cast

from agentrl.errors import DefinitionError
from agentrl.observation import Observation
from agentrl.reward import Reward
from agentrl.snapshot import Snapshot
from agentrl.task import Task
from agentrl.template import Template
from agentrl.terms import Term
from agentrl.tool import FunctionTool, Tool, ToolContext, ToolSet
from agentrl.trajectory import Message

Expert = Generator[Message, list[str], None]
ToolLike = str | Tool | ToolSet | type[Tool] | Callable[..., Any]


class Env:
    """An environment.

    Subclass it and write methods: those marked ``@tool`` are its tools, those marked ``@reward``
    its rewards. Or make one of parts: ``Env(tasks=..., tools=["python"], rewards=[exact])``.
    One instance serves one episode; :meth:`spawn` makes it.

    Attributes:
        name: by default the class name in snake_case.
        prompt: the system prompt, if any. A template is rendered with the task's ``prompt`` and
            ``metadata``.
        tools: tools beside its own methods: names, classes, instances, or sets of several.
        rewards: components, by name too, and expressions of them; methods that an expression uses count
            there only.
        images: whether its tools or its opening show images. A model that takes text only is refused then,
            before anything starts.
        success: the reward component (a value above 0) that counts as solving the task; by
            default the episode's reward.
        context: what the episode offers, such as a sandbox; there from :meth:`reset` on, for rewards too.
    """

    name: ClassVar[str] = ""
    prompt: str | Template | None = None
    tools: Sequence[ToolLike] = ()
    rewards: Sequence[Any] = ()
    images: bool = False
    success: str | None = None
    context: ToolContext

    def __init__(
        self,
        tasks: Iterable[Task] | None = None,
        tools: Sequence[ToolLike] | None = None,
        rewards: Sequence[Any] | None = None,
        prompt: str | Template | None = None,
    ) -> None:
        self._tasks = None if tasks is None else list(tasks)
        if tools is not None:
            self.tools = tools
        if rewards is not None:
            self.rewards = rewards
        if prompt is not None:
            self.prompt = prompt

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of a split, ``train`` or ``test``; the same on every call.

        An environment made of parts keeps every eighth task for ``test``.
        """
        if getattr(self, "_tasks", None) is None:
            raise DefinitionError(f"Environment {type(self).__name__} has no tasks: define tasks(split).")
        assert self._tasks is not None
        if len(self._tasks) < 8:
            return self._tasks
        return [task for i, task in enumerate(self._tasks) if (i % 8 == 7) == (split == "test")]

    async def reset(self, task: Task) -> None:
        """Set up the episode's state; called before anything else of the episode."""

    async def close(self) -> None:
        """Let go of the episode's state, however it ended."""

    async def snapshot(self) -> Snapshot:
        """The world as it is now, for :meth:`restore`. Close it when it is no longer needed.

        By default deep copies of what :meth:`reset` and the calls put on this instance and on the episode's
        tools, and forks of its sandbox sessions. Override both where the world is kept elsewhere.

        Raises:
            DefinitionError: something cannot be copied, or no episode runs.
            ToolError: what runs in the sandbox cannot be copied.
            InfrastructureError: the sandbox failed.
        """
        return await self.context.the_world().snapshot()

    async def restore(self, snapshot: Snapshot) -> None:
        """Make the world what it was, in this episode or in another one of this environment.

        Raises:
            DefinitionError: the snapshot is of something else, or no episode runs.
            InfrastructureError: the sandbox failed.
        """
        await self.context.the_world().restore(snapshot)

    def messages(self, task: Task) -> list[Message]:
        """The dialogue that opens the episode. Content may be text, or a list of texts and images."""
        prompt = self.prompt
        if isinstance(prompt, Template):
            prompt = prompt.render(prompt=task.prompt, metadata=task.metadata)
        system: list[Message] = [{"role": "system", "content": prompt}] if prompt else []
        return [*system, {"role": "user", "content": task.prompt}]

    def tools_for(self, task: Task) -> Sequence[str] | None:
        """The names of the tools that an episode of the task may use; ``None`` for all.

        By default the list under ``tools`` in the task's metadata, if there is one. The model is told
        of these alone, and calls to others are answered as to tools that do not exist.
        """
        return cast("Sequence[str] | None", task.metadata.get("tools"))

    async def reply(self, text: str) -> str | Observation | None:
        """The user's answer to a turn without tool calls; ``None`` ends the episode."""
        return None

    def expert(self, task: Task, rng: random.Random) -> Expert | None:
        """A scripted policy, for warm-up demonstrations and audits; ``None`` if there is none.

        A generator: it yields assistant messages and is sent the texts of the observations.
        """
        return None

    def spawn(self) -> Env:
        """A fresh instance for one episode."""
        return copy.copy(self)

    def own_tools(self) -> list[FunctionTool]:
        """The ``@tool`` methods, bound to this instance."""
        return [member.bind(self) for member in self._members(FunctionTool)]

    def own_rewards(self) -> list[Term]:
        """What is summed up: the class's own rewards, bound to this instance, and :attr:`rewards`.

        One that stands in :attr:`rewards`, alone or in an expression, counts there only.
        """
        from agentrl.registry import find_reward  # which itself knows environments

        listed = [
            item if isinstance(item, Term) else Reward(item, getattr(item, "__name__", "reward"))
            for item in map(find_reward, self.rewards)
        ]
        used = [component for item in listed for component in item.components()]
        named = {component.name for component in used if component.is_method}  # or an override of it
        methods = [
            member
            for member in self._members(Reward)
            if member.name not in named and member.function not in [component.function for component in used]
        ]
        return [term.bind(self) for term in [*methods, *listed]]

    def _members(self, kind: type[Any]) -> list[Any]:
        return list(_members_of(type(self), kind))  # type: ignore[arg-type]  # classes are hashable


@functools.lru_cache(maxsize=256)
def _members_of(cls: type[Env], kind: type[Any]) -> tuple[Any, ...]:
    """A class's members of a kind, in the order of their definition. Each episode asks, and it takes 1 ms."""
    found = {name: value for name, value in inspect.getmembers_static(cls) if isinstance(value, kind)}
    order = [name for base in reversed(cls.__mro__) for name in vars(base)]
    return tuple(found[name] for name in sorted(found, key=order.index))
