"""Playing an episode that is shown a failed attempt at its task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.rollout import Admission, EpisodeRunner
from agentrl.train.attempts import room_beside, shown, with_words
from agentrl.train.policy import VerlPolicy
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.chat import Chat

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
        room = room_beside(self._chat, self._limits, root.segments[0].prompt_length, words)
        if not room:
            return None
        added = shown(self._chat, failed, words, room)
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
