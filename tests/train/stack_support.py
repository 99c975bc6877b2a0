"""Real training runs for tests: a tiny random model, a small environment, and a hard timeout."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from agentrl.config import TrainConfig, load_config
from agentrl.events import DoctorReported, Event, EventReader, StalenessReported
from agentrl.train.apart import RUN_VARIABLE
from agentrl.train.launch import Training

SECONDS = 400.0
"""A run that takes longer is killed with everything it started."""

ENV = '''
import asyncio

from agentrl import Env, InfrastructureError, Task, reward, tool

class Digits(Env):
    """Rewards digits. Every fourth task has a machine that fails on half of what is said to it.

    Args:
        pause: seconds the first answer takes.
    """

    prompt = "Digits."
    success = "digits"

    def __init__(self, pause: float = 0.0):
        super().__init__()
        self.pause = pause

    def tasks(self, split):
        for i in range(32):
            yield Task(f"Say a number above {i}.", answer=i)

    async def reset(self, task):
        self.replies = 0
        self.flaky = task.answer % 4 == 0

    async def reply(self, text):
        self.replies += 1
        if self.flaky and len(text) % 2:
            raise InfrastructureError("this task's machine is down")
        if self.replies > 1:
            return None
        await asyncio.sleep(self.pause)
        return "Again."

    @reward
    def digits(self, episode):
        text = "".join(turn.raw for turn in episode.turns)
        return sum(c.isdigit() for c in text) / max(1, len(text))

    @reward(per="turn", weight=0.5)
    def short(self, episode, turn):
        return 1.0 if turn.end - turn.start < 20 else 0.25
'''


def make_model(folder: Path) -> Path:
    """A random Qwen2 of 0.2M parameters with a byte-level ChatML tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["system user assistant\n Say a number above 0123456789"] * 9, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = (
        "{% for m in messages %}{{'<|im_start|>'+m['role']+'\\n'+m['content']+'<|im_end|>\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{'<|im_start|>assistant\\n'}}{% endif %}"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@dataclass
class Played:
    """How a run went."""

    status: int
    events: list[Event] = field(default_factory=list)
    seconds_after_fault: float = 0.0

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def prepare(folder: Path, model: Path, *words: str, source: str = ENV) -> Training:
    """A run of the digits environment, or another one, in ``folder``, with small batches."""
    folder.mkdir(exist_ok=True)
    env = folder.parent / "digits.py"
    env.write_text(source)
    small = ["algorithm.tasks_per_step=4", "algorithm.group_size=4", "rollout.max_turn_tokens=24",
             "rollout.retry_seconds=0.01", "eval.tasks=8"]  # fmt: skip
    config = load_config(str(env), [*small, *words])
    save(folder, config)
    return Training(config, folder, model)


def save(folder: Path, config: TrainConfig) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))


def play(
    training: Training,
    fault: Callable[[Event], bool] | None = None,
    cause: Callable[[], None] | None = None,
    seconds: float = SECONDS,
    told: Callable[[Event], object] = lambda event: None,
) -> Played:
    """Run to the end, for ``seconds`` at most; at the first event that ``fault`` accepts, do ``cause``.

    Each event is ``told`` when it is read.
    """
    reader, events, caused = EventReader(training.folder / "events"), [], 0.0
    list(reader.poll())
    training.start()
    deadline = time.monotonic() + seconds
    try:
        while (status := training.poll()) is None:
            assert time.monotonic() < deadline, (
                f"the run did not end in {seconds:g} s; {log_tail(training.folder)}"
            )
            for event in reader.poll():
                events.append(event)
                told(event)
                if fault is not None and cause is not None and not caused and fault(event):
                    cause()
                    caused = time.monotonic()
            time.sleep(0.2)
    finally:
        training.kill()
    events.extend(reader.poll())
    return Played(status, events, time.monotonic() - caused if caused else 0.0)


def last_of_each_step(played: Played) -> list[StalenessReported]:
    """What was trained in the end, in order: a run that goes on trains steps after its checkpoint anew."""
    return list({event.step: event for event in played.of(StalenessReported)}.values())


def assert_trained_as_promised(played: Played, steps: int, bound: int, groups: int) -> None:
    """Every step was trained from so many groups; none is repeated, none staler than the bound."""
    reports = sorted(last_of_each_step(played), key=lambda event: event.step)
    assert [event.step for event in reports] == list(range(1, steps + 1))
    trained = [group for event in reports for group in event.groups]
    assert len(set(trained)) == len(trained) == groups * steps
    assert {int(lag) for event in played.of(StalenessReported) for lag in event.tokens} <= set(
        range(bound + 1)
    )
    assert all(event.passed for event in played.of(DoctorReported)), played.of(DoctorReported)


def processes(folder: Path) -> list[psutil.Process]:
    """What still carries the run's variable."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_VARIABLE) == str(folder.resolve()) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


def log_tail(folder: Path) -> str:
    log = folder / "log.txt"
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else "no log"
