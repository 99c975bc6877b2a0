"""What the episode loop itself costs: 1,024 and 10,000 episodes at once in one process, in real time.

    python -m benchmarks.rollout_loop                       # ours, at both sizes
    python -m benchmarks.rollout_loop --peers               # beside verl's ToolAgentLoop
    python -m benchmarks.rollout_loop --peers --verifiers PYTHON    # and verifiers, where PYTHON has it
    python -m benchmarks.rollout_loop --json                # the last line is a JSON object

Every episode has three turns: two call a tool, the third answers. A fake engine answers a turn
after a log-normal time (mean 5 s, to 20 s), the tool after 1 s (log-normal, to 5 s), drawn from a
seed. The ideal is the episode that takes longest by these draws alone. Each size is measured in
a process of its own; CPU is of that process, memory its growth while all episodes are under way.
Tokenizing, parsing and extending the stream are real, on a ChatML tokenizer made in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

TURNS = 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"day": 17}}\n</tool_call>'
THOUGHT = "The price is not known to me yet, so I had better look it up for the day in question. " * 3
ANSWER = "The price on that day was 412."
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "What was the price on day 17?"


def seconds_of(episode: int, turn: int, kind: str) -> float:
    """How long the engine or the tool takes."""
    mean, sigma, most = (5.0, 0.5, 20.0) if kind == "engine" else (1.0, 0.8, 5.0)
    rng = random.Random(f"{episode} {turn} {kind}")
    return min(most, mean * math.exp(rng.gauss(-sigma * sigma / 2, sigma)))


def ideal_seconds(episodes: int) -> float:
    """Of the longest episode."""
    return max(
        sum(seconds_of(e, turn, "engine") for turn in range(TURNS))
        + sum(seconds_of(e, turn, "tool") for turn in range(TURNS - 1))
        for e in range(episodes)
    )


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def tokenizer() -> Any:
    """A byte-level BPE tokenizer with ChatML's tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        [THOUGHT, CALL, ANSWER, QUESTION] * 20,
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = TEMPLATE
    return made


class Engine:
    """Answers turns of any episode after their time."""

    def __init__(self, encode: Callable[[str], list[int]], stop: int) -> None:
        self.call, self.answer = [*encode(THOUGHT + CALL), stop], [*encode(ANSWER), stop]
        self.turns: dict[int, int] = {}

    async def next(self, episode: int) -> list[int]:
        """The tokens of the episode's next turn."""
        turn = self.turns[episode] = self.turns.get(episode, -1) + 1
        await asyncio.sleep(seconds_of(episode, turn, "engine"))
        return self.answer if turn == TURNS - 1 else self.call


def ours(episodes: int) -> Callable[[], Awaitable[None]]:
    """Our loop."""
    from agentrl import Env, Task, tool
    from agentrl.chat import Chat
    from agentrl.config import Rollout
    from agentrl.rollout import EpisodeRunner, Generation, Job, run_episodes

    chat = Chat(tokenizer(), "chatml-json", options={"tools_in_prompt": False})
    engine = Engine(chat.encode, chat.stop_token_ids[0])

    class Prices(Env):
        calls = 0

        @tool
        async def look_up(self, day: int) -> str:
            """Look up the price on a day."""
            self.calls += 1
            await asyncio.sleep(seconds_of(int(self.context.episode_id), self.calls - 1, "tool"))
            return "412"

    class Policy:
        async def generate(
            self, prompt_ids: Sequence[int], sampling: Any, *, episode: str, images: Any = ()
        ) -> Any:
            ids = list(await engine.next(int(episode)))
            return Generation(ids, [-1.0] * len(ids), [0] * len(ids))

    runner = EpisodeRunner(Prices(), chat, Policy(), Rollout())

    async def play() -> None:
        ended = []
        jobs = (Job(Task(QUESTION, id=str(n)), str(n)) for n in range(episodes))
        await run_episodes(
            runner, jobs, concurrency=episodes, on_result=lambda _, episode: ended.append(len(episode.turns))
        )
        assert ended == [TURNS] * episodes

    return play


async def measured(play: Callable[[], Awaitable[None]], episodes: int) -> dict[str, float]:
    """Run one loop once."""
    gc.collect()
    ideal, before, peak = ideal_seconds(episodes), resident(), resident()

    async def watch() -> None:
        nonlocal peak
        while True:
            await asyncio.sleep(0.5)
            peak = max(peak, resident())

    watching = asyncio.ensure_future(watch())
    started, cpu = time.perf_counter(), time.process_time()
    await play()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    watching.cancel()
    return {
        "episodes": episodes,
        "seconds": seconds,
        "ideal_seconds": ideal,
        "share_of_ideal": ideal / seconds,
        "cpu_us_per_turn": cpu / (episodes * TURNS) * 1e6,
        "kib_per_episode": (peak - before) / episodes / 1024,
    }


def measure(episodes: int = 1024, loop: str = "ours", python: str = sys.executable) -> dict[str, float]:
    """The share of the ideal time, CPU a turn and memory an episode, from a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    words = [python, "-m", "benchmarks.rollout_loop", "--here", loop, "--episodes", str(episodes)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The loop with {episodes} episodes failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, nargs="+", default=[1024, 10_000])
    parser.add_argument("--here", metavar="LOOP", help="measure one loop at the first size in this process")
    parser.add_argument("--peers", action="store_true", help="other loops, too")
    parser.add_argument("--verifiers", metavar="PYTHON", help="an interpreter with verifiers==0.1.9")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.here:
        [episodes, *_] = options.episodes
        play = (
            ours if options.here == "ours" else import_module("benchmarks.rollout_peers").LOOPS[options.here]
        )
        print(json.dumps(asyncio.run(measured(play(episodes), episodes))))
        return
    found: dict[str, dict[str, float]] = {}
    loops = {"ours": sys.executable} | ({"verl": sys.executable} if options.peers else {})
    if options.peers and options.verifiers:
        loops["verifiers"] = options.verifiers
    for episodes, (loop, python) in itertools.product(options.episodes, loops.items()):
        result = found[f"{loop}/{episodes}"] = measure(episodes, loop, python)
        print(
            f"{loop:9} {episodes:6} episodes: {100 * result['share_of_ideal']:5.1f}% of the ideal "
            f"({result['seconds']:.1f} s for {result['ideal_seconds']:.1f} s), "
            f"{result['cpu_us_per_turn']:.0f} µs CPU a turn, {result['kib_per_episode']:.0f} KiB each",
            flush=True,
        )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
