"""What an algorithm does to an episode while it is played (``algorithm.rollout``), by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agentrl.agent import AgentEnv
from agentrl.algorithms.spec import Coefficient
from agentrl.chat.interruption import closing, interruption
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.registry import REWARDS, find
from agentrl.reward import Reward
from agentrl.rollout.context import CompressedContext, Context, Tools
from agentrl.rollout.control_part import Control, Interruption
from agentrl.trajectory import Message

if TYPE_CHECKING:
    from agentrl.chat import Chat


class ForcedFinish(Control):
    """A turn that runs into its token limit is told to come to an end, and goes on.

    Source: ScaleRL, arXiv:2510.13786.

    The text is appended as tokens that were not sampled, then ``</think>`` if the model is still reasoning.
    ``reserve`` tokens may be sampled behind it, beyond ``rollout.max_turn_tokens``; an episode keeps room for
    both. A turn that already holds a call, whole or not, is not interrupted.
    """

    text: str = Field(
        "Okay, time is up. Let me stop thinking and formulate a final answer now.", min_length=1
    )
    reserve: int | None = Field(
        None, ge=1, description="tokens for the answer; by default a third of rollout.max_turn_tokens"
    )

    def answer_tokens(self, limits: Rollout) -> int:
        """Tokens that may be sampled behind the text; ScaleRL's are 4,096 beside 12,288 of thinking."""
        return self.reserve or max(1, limits.max_turn_tokens // 3)

    def reserved(self, chat: Chat, limits: Rollout) -> int:
        """The text, what closes reasoning, and the answer.

        Raises:
            ConfigError: they leave nothing of a trajectory.
        """
        longest = len(interruption(chat, [], [], self.text)) + len(closing(chat))
        held = longest + self.answer_tokens(limits)
        if held >= limits.max_trajectory_tokens:
            raise ConfigError(
                f"algorithm.rollout: forced_finish keeps {held} tokens free (its text takes up to {longest}, "
                f"the answer {self.answer_tokens(limits)}), and rollout.max_trajectory_tokens="
                f"{limits.max_trajectory_tokens} leaves none beside them. Raise that, or lower "
                "algorithm.rollout.options.reserve."
            )
        return held

    def interruption(
        self, chat: Chat, limits: Rollout, prompt: Sequence[int], completion: Sequence[int]
    ) -> Interruption | None:
        """The text, and the tokens reserved for the answer."""
        ids = interruption(chat, prompt, completion, self.text)
        return Interruption(ids, self.answer_tokens(limits))


class CompressContext(Control):
    """Observations but the newest are replaced by a stub in what the policy sees.

    Source: WebAgent-R1, arXiv:2505.16421.
    """

    stub: str = Field("** Simplified html **", description="what stands in place of an old observation")
    keep: int = Field(1, ge=1, description="turns, the newest ones, whose observations stay whole")

    def context(self, chat: Chat, tools: Tools, prompt: list[int], messages: list[Message]) -> Context:
        """One that leaves old observations out."""
        return CompressedContext(chat, tools, prompt, messages, stub=self.stub, keep=self.keep)


class SemiOnline(Control):
    """The policy is played along the trace of the environment's expert, which acts where it strays.

    Source: UI-S1, arXiv:2509.11543.
    """

    patches: int = Field(1, ge=0, description="turns of an episode that the expert may take; then it ends")
    patch: Literal["thought_free", "off_policy"] = Field(
        "thought_free",
        description="what stands in the context: the expert's calls alone, or its whole message",
    )
    same: str | None = Field(
        None,
        description="package.module:name or file.py:name of a function (own message, expert's message) -> "
        "bool; default: the same calls, or the same text where there are none",
    )

    def attempts(self) -> Callable[..., Any]:
        """Episodes with an expert beside them."""
        from agentrl.rollout.guided import guiding  # which needs the loop itself

        return guiding(self, None if self.same is None else find(self.same, REWARDS, Reward))

    def context(self, chat: Chat, tools: Tools, prompt: list[int], messages: list[Message]) -> Context:
        """One in which the expert's words may stand."""
        from agentrl.rollout.guided import PatchedContext

        return PatchedContext(chat, tools, prompt, messages)

    def held_out(self) -> Control:
        """Nothing: there the policy is on its own."""
        return Control()

    def check(self, env: Env) -> None:
        """Refuse an environment without an expert."""
        if type(env).expert is Env.expert:
            raise ConfigError(
                f"Environment {env.name} has no expert, and algorithm.rollout.name=semi_online plays along "
                "its traces: define expert(), or train with algorithm.rollout=null."
            )


class StoredStarts(Control):
    """Some groups begin inside a stored success of their task, the same place for all their episodes.

    What the success did up to there is done again, and stands in the context unsampled.

    Source: Snapshot RL (S3RL): starts from states inside successful trajectories, whose share falls to 0.
    """

    share: Coefficient | None = Field(
        None, description="of groups whose task has a stored success; default: from 0.5 to 0 over the steps"
    )

    def attempts(self) -> Callable[..., Any]:
        """Episodes that may begin behind turns of another one."""
        from agentrl.rollout.started import StartedAttempt  # which needs the loop itself

        return StartedAttempt

    def held_out(self) -> Control:
        """Nothing: those begin where their task does."""
        return Control()


CONTROLS: dict[str, type[Control]] = {
    "forced_finish": ForcedFinish,
    "compress_context": CompressContext,
    "semi_online": SemiOnline,
    "stored_starts": StoredStarts,
}
"""Those that need nothing above the loop, by ``algorithm.rollout.name``."""


def check_control(control: Control, env: Env) -> None:
    """Refuse what an environment cannot be played with.

    Raises:
        ConfigError: its episodes are an agent's own.
    """
    if isinstance(env, AgentEnv) and type(control) is not Control:
        raise ConfigError(
            f"Environment {env.name} has an agent of its own, which makes its contexts and decides what "
            "follows a turn: algorithm.rollout does not apply to it. Train it with algorithm.rollout=null."
        )
    control.check(env)
