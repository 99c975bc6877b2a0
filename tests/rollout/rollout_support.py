"""What the rollout's tests are made of: a tokenizer built in memory, small environments, and players."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from agentrl import Env, Task
from agentrl.chat import Chat
from agentrl.config import Rollout
from agentrl.events import Event
from agentrl.rollout import EpisodeRunner, SimulatedPolicy

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = (
    "system user assistant <tool_call> </tool_call> <tool_response> name arguments one two three the answer"
)


@functools.cache
def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer with ChatML's tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


@functools.cache
def make_chat() -> Chat:
    """The real chat format on that tokenizer, without a listing of tools: prompts stay short."""
    return Chat(make_tokenizer(), "chatml-json", options={"tools_in_prompt": False})


def write_call(name: str, /, **arguments: Any) -> str:
    """A call as a model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def sampled(text: str, *, stop: bool = True) -> list[int]:
    """The tokens of a turn, with the one that ends it."""
    return [*make_chat().encode(text), *([make_chat().stop_token_ids[0]] if stop else [])]


class Lines(SimulatedPolicy):
    """Says one line per turn, the same ones in every episode and attempt; the last one again and again."""

    def __init__(self, *lines: str | list[int], seconds: float = 0.0) -> None:
        self.prompts: dict[str, list[list[int]]] = {}
        self._lines = [sampled(line) if isinstance(line, str) else line for line in lines]
        super().__init__(self._say, seconds=seconds)

    def _say(self, prompt_ids: Sequence[int], episode: str) -> Sequence[int]:
        prompts = self.prompts.setdefault(episode, [])
        prompts.append(list(prompt_ids))
        return self._lines[min(len(prompts), len(self._lines)) - 1]


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def make_limits(**changes: Any) -> Rollout:
    """Wide limits and no waiting between attempts."""
    defaults = {
        "max_prompt_tokens": 2000, "max_trajectory_tokens": 4000, "max_turn_tokens": 1000,
        "retry_seconds": 0.0, "tool_seconds": 10.0, "episode_seconds": 30.0, "max_observation_tokens": 500,
    }  # fmt: skip
    return Rollout(**{**defaults, **changes})


def make_runner(
    env: Env, policy: Any, *, sandbox: Any = None, shape: Any = None, control: Any = None, **limits: Any
) -> tuple[EpisodeRunner, Recorder]:
    """A runner on the in-memory chat format, and what it emits."""
    recorder = Recorder()
    return EpisodeRunner(
        env,
        make_chat(),
        policy,
        make_limits(**limits),
        sandbox=sandbox,
        events=recorder,
        shape=shape,
        control=control,
    ), recorder


TASK = Task("Go.", answer=3, id="task-1")
Make = Callable[[], Env]
