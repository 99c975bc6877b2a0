"""Gymnasium environments that can be played in text: one instance per episode, stepped by a tool."""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agentrl import ConfigError, DefinitionError, Observation, Task, ToolContext, ToolError, tool
from agentrl.envs.stepping import Stepping

_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")


class Gym(Stepping):
    """Plays a Gymnasium environment whose actions and observations can be put into words.

    An action is the text itself in a ``Text`` space, a name or a number in a ``Discrete`` one; for anything
    else override :meth:`to_action`. Each step runs in a thread, one at a time; a step that hangs is told to
    the model as a call that took too long.

    Args:
        id: the environment's id, ``module:Name-v0`` where a module has to be imported first.
        kwargs: further arguments of ``gymnasium.make``.
        actions: what a ``Discrete`` space's actions are called, in their order.
        observe: ``observation``: show what ``step`` returns; ``render``: show the ``ansi`` rendering, in
            which what is coloured stands in brackets.
        instruction: the user's message, before the first observation.
        prompt: the system prompt, a Jinja template or its file.
        max_steps: after so many steps the episode ends; default: the environment's own limit.
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other tasks.

    Raises:
        ConfigError: gymnasium is not installed, or an option does not fit.
    """

    def __init__(
        self,
        id: str,
        kwargs: Mapping[str, Any] | None = None,
        actions: Sequence[str] = (),
        observe: Literal["observation", "render"] = "observation",
        instruction: str | None = None,
        prompt: str | None = None,
        max_steps: int | None = None,
        size: int = 1000,
        seed: int = 0,
    ) -> None:
        if observe not in ("observation", "render"):
            raise ConfigError(f"observe={observe!r} must be 'observation' or 'render'.")
        if isinstance(actions, str):
            raise ConfigError(f"actions={actions!r} must be a list of names.")
        named = f" Actions: {', '.join(actions)}." if actions else ""
        super().__init__(instruction or f"Act with the tool act until it is over.{named}", prompt, size, seed)
        self.id, self.kwargs, self.actions, self.observe = id, dict(kwargs or {}), tuple(actions), observe
        if observe == "render":
            self.kwargs.setdefault("render_mode", "ansi")
        if max_steps is not None:
            self.kwargs["max_episode_steps"] = max_steps
        self._gym: Any = None
        self._busy = threading.Lock()

    async def reset(self, task: Task) -> None:
        """Make this episode's instance and seed it."""
        self._busy = threading.Lock()
        self.opening = await self._beside(self._start, task.metadata["seed"])

    async def close(self) -> None:
        """Close the instance, unless it hangs in a step."""
        if self._gym is not None and self._busy.acquire(blocking=False):
            await self._beside(self._gym.close)

    @tool
    def act(self, action: str) -> Observation:
        """Act and see what comes of it.

        Args:
            action: what to do.
        """
        chosen = self.to_action(action)
        if not self._busy.acquire(blocking=False):
            raise ToolError("The step before has not come to an end, so no further one can be taken.")
        try:
            observation, reward, terminated, truncated, info = self._gym.step(chosen)
            text = self._shown(observation, info)
        finally:
            self._busy.release()
        over = bool(terminated or truncated)
        return Observation(
            text, done=over, metadata={"reward": float(reward), "terminated": bool(terminated)}
        )

    def to_action(self, text: str) -> Any:
        """The action that a text means.

        Raises:
            ToolError: it means none; tells the model which there are.
            DefinitionError: the actions cannot be put into words without overriding this.
        """
        from gymnasium import spaces

        space = self._gym.action_space
        if isinstance(space, spaces.Text):
            if not space.contains(text):
                raise ToolError(
                    f"An action has {space.min_length} to {space.max_length} of the characters "
                    f"{''.join(sorted(space.character_set))!r}; {text[:80]!r} does not fit."
                )
            return text
        if isinstance(space, spaces.Discrete):
            first = int(space.start)
            names = self.actions or tuple(str(first + index) for index in range(int(space.n)))
            return first + _position(text.strip(), names)
        raise DefinitionError(
            f"The actions of {self.id} ({space}) have no words. Write a subclass of Gym with to_action()."
        )

    def to_text(self, observation: Any, info: Mapping[str, Any]) -> str:
        """An observation as the model is shown it."""
        if isinstance(observation, str):
            return observation
        return json.dumps(observation, default=_plain, ensure_ascii=False)

    def _start(self, seed: int) -> str:
        try:
            import gymnasium
        except ImportError as problem:
            raise ConfigError(
                "Gymnasium environments need gymnasium: pip install 'agentrl[gym]'."
            ) from problem
        try:
            self._gym = gymnasium.make(self.id, **self.kwargs)
        except (gymnasium.error.Error, TypeError) as problem:  # TypeError: from its arguments
            raise ConfigError(f"Gymnasium cannot make id={self.id!r}: {problem}") from problem
        return self._shown(*self._gym.reset(seed=seed))

    def _shown(self, observation: Any, info: Mapping[str, Any]) -> str:
        if self.observe == "observation":
            return self.to_text(observation, info)
        picture = self._gym.render()
        if not isinstance(picture, str):
            raise ConfigError(f"{self.id} renders no text; leave out observe=render.")
        return _COLOUR.sub(lambda code: "]" if code[1] in ("", "0") else "[", picture).strip("\n")

    async def _beside(self, function: Callable[..., Any], *args: Any) -> Any:
        context = getattr(self, "context", None) or ToolContext()  # there is none outside of episodes
        return await context.blocking.run(function, *args)


def _position(text: str, names: Sequence[str]) -> int:
    lower = [name.lower() for name in names]
    if text.lower() in lower:
        return lower.index(text.lower())
    close = difflib.get_close_matches(text.lower(), lower, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise ToolError(f"There is no action {text[:80]!r}. {hint}The actions are: {', '.join(names)}.")


def _plain(value: Any) -> Any:
    """NumPy's arrays and numbers as JSON data."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
