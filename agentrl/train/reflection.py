"""Playing an episode that is shown a failed attempt at its task."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.rollout import Admission, EpisodeRunner
from agentrl.train.policy import VerlPolicy
from agentrl.trajectory import Message, Trajectory, words_of

if TYPE_CHECKING:
    from agentrl.chat import Chat

MARGIN = 32
"""Tokens for what a chat format puts around a message, and for words that meet at seams."""

LEAST = 32
"""Tokens of an attempt that are worth being shown."""

Seed = Callable[[Trajectory, str], int | None]


class Reflector:
    """Plays reflections with the policy that is trained.

    Args:
        runner: that judges by the environment's own rewards.
        chat: its chat format.
        policy: its policy.
        limits: its limits.
        admission: where episodes get their places.
        seed: by the root and the reflection's name, what makes its sampling repeatable; ``None``: nothing.
    """

    def __init__(
        self,
        runner: EpisodeRunner,
        chat: Chat,
        policy: VerlPolicy,
        limits: Rollout,
        admission: Admission,
        seed: Seed,
    ) -> None:
        self._runner, self._chat, self._policy = runner, chat, policy
        self._limits, self._admission, self._seed = limits, admission, seed

    async def play(self, root: Trajectory, failed: Trajectory, number: int, words: str) -> Trajectory | None:
        """An episode of the root's task whose opening shows the failed attempt.

        Args:
            root: the episode that is trained on.
            failed: the attempt: the root, or a reflection on it.
            number: of the reflection among those on this attempt.
            words: with ``{attempt}`` where the attempt stands.

        Returns:
            The judged episode; ``None`` where machines failed it, or the prompt has no room for the attempt.
        """
        room = self._limits.max_prompt_tokens - root.segments[0].prompt_length - MARGIN
        room -= len(self._chat.encode(words))
        if room < LEAST:
            return None
        shown, _ = self._chat.truncate(attempt_of(failed), room)
        added = words.replace("{attempt}", shown)
        name = f"{failed.id}-r{number}"
        try:
            child = await self._runner.run_in_group(
                root.task,
                size=1,
                group=name,
                episode_id=name,
                progress=root.progress,
                seed=self._seed(root, name),
                opening=lambda messages: with_words(messages, added),
                slot=self._admission.place(),
            )
        finally:
            self._policy.take_ledger(name)  # it is not trained, so nobody compares it
        return None if child.status == "void" else child


def attempt_of(episode: Trajectory) -> str:
    """What an episode's policy said and saw, as text."""
    first = next((i for i, each in enumerate(episode.messages) if each["role"] == "assistant"), None)
    lines: list[str] = []
    for message in [] if first is None else episode.messages[first:]:
        who = {"assistant": "You", "user": "User"}.get(message["role"], "Result")
        text = words_of(message)
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        if text or not calls:
            lines.append(f"{who}: {text}")
        lines += [f"{who} called {call['name']}: {_plain(call['arguments'])}" for call in calls]
    return "\n".join(lines)


def with_words(messages: Sequence[Message], words: str) -> list[Message]:
    """An opening whose last message of the user goes on with these words."""
    *before, last = messages
    content = last.get("content")
    if last["role"] != "user" or not isinstance(content, str | list):
        return [*messages, {"role": "user", "content": words}]
    if isinstance(content, str):
        return [*before, {**last, "content": f"{content}\n\n{words}"}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": f"\n\n{words}"}]}]


def _plain(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
