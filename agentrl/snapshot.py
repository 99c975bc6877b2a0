"""Snapshots: the world of an episode at one moment, to go back to or to begin other episodes from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from agentrl.errors import DefinitionError


class Forkable(Protocol):
    """The sandbox sessions of an episode, as far as snapshots need them."""

    async def fork(self) -> Forkable:
        """A copy of every open session.

        Raises:
            ToolError: what runs in one cannot be copied.
            InfrastructureError: one was lost.
        """

    async def take(self, forks: Any) -> None:
        """Close the open sessions and go on with copies of those in ``forks``, which stay as they are."""

    async def close(self, seconds: float) -> None:
        """Close every session."""


@dataclass
class Snapshot:
    """A world as it was; made by :meth:`agentrl.Env.snapshot`. It can be restored any number of times.

    It holds sandbox sessions: close it, or use it in ``async with``.

    Attributes:
        state: for an override of :meth:`agentrl.Env.snapshot`, whatever its ``restore`` takes.
        attributes: copies of what changed on the environment (``""``) and on its tools, by their names.
        sessions: copies of the sandbox sessions, if there were any.
        parts: whose attributes they are; copies that refer to them will refer to those of the episode that
            they are restored in.
    """

    state: Any = None
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sessions: Forkable | None = None
    parts: Mapping[str, object] = field(default_factory=dict, repr=False)

    async def close(self, seconds: float = 10.0) -> None:
        """Let go of the sessions, each in at most ``seconds``."""
        sessions, self.sessions = self.sessions, None
        if sessions is not None:
            await sessions.close(seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class World:
    """What one episode changes: attributes of its environment and tools, and its sandbox sessions.

    Attributes that hold the object they held when their owner was added are the same in all episodes, such as
    options and tables, and are not copied.

    Args:
        context: what the episode offers; parts may refer to it.
        sessions: the episode's; ``None`` outside of one.
    """

    def __init__(self, context: object, sessions: Forkable | None = None) -> None:
        self._context, self._sessions = context, sessions
        self._parts: dict[str, object] = {}
        self._fixed: dict[str, dict[str, Any]] = {}
        self._complete = False
        self._waiting: Snapshot | None = None

    def add(self, name: str, part: object) -> None:
        """Make an object a part, before the episode changes it; the environment's name is ``""``."""
        self._parts[name], self._fixed[name] = part, dict(vars(part))

    async def snapshot(self) -> Snapshot:
        """As it is now.

        Raises:
            DefinitionError: an attribute cannot be copied.
            ToolError: what runs in a sandbox session cannot be copied.
            InfrastructureError: a session was lost.
        """
        known = self._known()
        memo = {id(thing): thing for thing in known.values()}
        attributes = {name: self._copied(name, memo) for name in self._parts}
        sessions = None if self._sessions is None else await self._sessions.fork()
        return Snapshot(attributes=attributes, sessions=sessions, parts=known)

    async def restore(self, snapshot: Snapshot) -> None:
        """Become what ``snapshot`` holds; it stays as it is.

        While the environment is being reset there are no tools yet: theirs is restored by :meth:`complete`.

        Raises:
            DefinitionError: it is of another environment or other tools.
            InfrastructureError: the sandbox failed.
        """
        if not self._complete:
            self._waiting = snapshot
        here = [name for name in snapshot.attributes if self._complete or name in self._parts]
        self._check(snapshot, here)
        if snapshot.sessions is not None and self._sessions is not None:
            await self._sessions.take(snapshot.sessions)
        self._load(snapshot, here)

    def complete(self) -> None:
        """All parts were added and are open."""
        self._complete, waiting = True, self._waiting
        self._waiting = None
        if waiting is not None:
            tools = [name for name in waiting.attributes if name]
            self._check(waiting, tools)
            self._load(waiting, tools)

    def _check(self, snapshot: Snapshot, names: Sequence[str]) -> None:
        for name in names:
            theirs, ours = type(snapshot.parts[name]), type(self._parts.get(name))
            if theirs is not ours:
                here = "nothing" if ours is type(None) else ours.__name__
                raise DefinitionError(
                    f"A snapshot with {theirs.__name__}{name and f' ({name})'} cannot be restored in an "
                    f"episode that has {here} in its place."
                )

    def _load(self, snapshot: Snapshot, names: Sequence[str]) -> None:
        known = self._known()
        memo = {id(part): known[name] for name, part in snapshot.parts.items() if name in known}
        for name in names:
            part = self._parts[name]
            for gone in self._changed(name).keys() - snapshot.attributes[name].keys():
                delattr(part, gone)
            vars(part).update({**self._fixed[name], **copy.deepcopy(dict(snapshot.attributes[name]), memo)})

    def _known(self) -> dict[str, object]:
        return {**self._parts, "context": self._context}

    def _copied(self, name: str, memo: dict[int, Any]) -> dict[str, Any]:
        found = {}
        for attribute, value in self._changed(name).items():
            try:
                found[attribute] = copy.deepcopy(value, memo)
            except Exception as problem:  # whatever its own copying raises
                raise DefinitionError(
                    f"{type(self._parts[name]).__name__}.{attribute} cannot be copied "
                    f"({type(problem).__name__}: {problem}), so there is no snapshot. Keep it in the "
                    "sandbox, or override snapshot() and restore()."
                ) from problem
        return found

    def _changed(self, name: str) -> dict[str, Any]:
        fixed = self._fixed[name]
        return {
            attribute: value
            for attribute, value in vars(self._parts[name]).items()
            if attribute not in fixed or fixed[attribute] is not value
        }
