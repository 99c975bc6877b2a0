"""The episode loop when nothing breaks: turns, calls, limits, endings and what is recorded."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

import pytest
from rollout_support import TASK, Lines, make_chat, make_runner, sampled, write_call

from agentrl import Env, Image, Observation, Task, Tool, ToolError, reward, tool
from agentrl.env import Expert
from agentrl.errors import DataError, DefinitionError, ModelUnsupported
from agentrl.events import EpisodeFinished, ToolCalled, TurnGenerated
from agentrl.rollout import ScriptedPolicy, episode_seed
from agentrl.rollout.policy import Generation, Sampling


class Counter(Env):
    """Counts to the task's answer."""

    async def reset(self, task: Task) -> None:
        self.n = 0

    @tool
    def increment(self, step: int = 1) -> str:
        """Add to the number.

        Args:
            step: how much.
        """
        self.n += step
        return f"n is {self.n}"

    @tool
    def submit(self) -> Observation:
        """Hand in the number."""
        return Observation(f"submitted {self.n}", done=True, metadata={"n": self.n})

    @reward
    def reached(self, episode: Any) -> float:
        return float(self.n == episode.task.answer)

    def expert(self, task: Task, rng: random.Random) -> Expert | None:
        def play() -> Expert:
            seen = []
            for _ in range(task.answer):
                calls = [{"function": {"name": "increment", "arguments": {}}}]
                seen += yield {"role": "assistant", "content": "one more", "tool_calls": calls}
            yield {"role": "assistant", "content": f"the answer is {task.answer} of {len(seen)}"}

        return play()


async def test_an_expert_plays_through_the_loop_token_by_token() -> None:
    chat = make_chat()
    runner, recorder = make_runner(Counter(), ScriptedPolicy(chat, version=5))
    episode = await runner.run(TASK, episode_id="e", group="g", step=4, split="test", seed=1)

    assert (episode.status, episode.reward, episode.rewards) == ("finished", 1.0, {"reached": 1.0})
    assert (episode.id, episode.group, episode.attempts) == ("e", "g", 1)
    assert episode.final_text == "the answer is 3 of 3"  # it was sent three observations
    assert [call.observation.text for call in episode.calls] == ["n is 1", "n is 2", "n is 3"]
    (segment,) = episode.segments
    written = chat.decode(segment.token_ids)
    assert written == (
        "<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"
        + "".join(
            f'one more\n<tool_call>\n{{"name": "increment", "arguments": {{}}}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\nn is "
            f"{n}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            for n in (1, 2, 3)
        )
        + "the answer is 3 of 3<|im_end|>"
    )
    for turn in episode.turns:
        assert chat.decode(segment.token_ids[turn.start : turn.end]) == turn.raw
        assert all(segment.mask[turn.start : turn.end]) and segment.versions[turn.start] == 5
        assert segment.logprobs[turn.start : turn.end] == [0.0] * (turn.end - turn.start)
        assert turn.stop_reason == "stop"
    assert sum(segment.mask) == sum(turn.end - turn.start for turn in episode.turns)
    roles = [message["role"] for message in episode.messages]
    assert roles == ["user", *["assistant", "tool"] * 3, "assistant"]
    assert chat.prompt(episode.messages[:-1]) == segment.token_ids[: episode.turns[-1].start]

    assert [event.turn for event in recorder.of(TurnGenerated)] == [0, 1, 2, 3]
    assert [(event.tool, event.status) for event in recorder.of(ToolCalled)] == [("increment", "ok")] * 3
    (finished,) = recorder.of(EpisodeFinished)
    assert (finished.success, finished.split, finished.step, finished.turns, finished.calls) == (
        True,
        "test",
        4,
        4,
        3,
    )
    assert finished.tokens == episode.sampled_tokens == sum(segment.mask)


async def test_what_the_model_got_wrong_is_told_to_it_and_the_episode_goes_on() -> None:
    class Picky(Counter):
        @tool
        def fetch(self, page: str) -> str:
            """Fetch a page."""
            raise ToolError(f"no page {page}")

        @tool
        def crash(self) -> str:
            """Crash."""
            return str(1 // 0)

        @tool
        def leave(self) -> str:
            """Leave."""
            raise SystemExit(3)

        @tool
        def run_dry(self) -> str:
            """Run dry."""
            return next(iter([]))

    calls = [
        "<tool_call>\n{not json\n</tool_call>",
        write_call("incremant"),
        write_call("increment", step="many"),
        write_call("fetch", page="7"),
        write_call("crash"),
        write_call("leave"),
        write_call("run_dry"),
        '<tool_call>\n{"name": "\\ud800", "arguments": {}}\n</tool_call>',
        write_call("increment"),
    ]
    runner, recorder = make_runner(Picky(), Lines("\n".join(calls), "done"))
    episode = await runner.run(TASK, episode_id="e")
    texts = {call.name: call.observation.text for call in episode.calls}
    assert [call.status for call in episode.calls] == [
        "malformed", "unknown", "invalid", "error", "raised", "raised", "raised", "unknown", "ok",
    ]  # fmt: skip
    assert "not valid JSON" in texts[None]
    assert "no tool 'incremant'" in texts["incremant"] and "'increment'" in texts["incremant"]
    assert "step" in episode.calls[2].observation.text and "many" in episode.calls[2].observation.text
    assert texts["fetch"] == "no page 7"
    assert texts["crash"] == "crash raised ZeroDivisionError: integer division or modulo by zero"
    assert "SystemExit: 3" in texts["leave"]
    assert "StopIteration" in texts["run_dry"]
    assert texts["increment"] == "n is 1"
    assert all(call.observation.error for call in episode.calls[:-1])
    assert len({call.id for call in episode.calls}) == len(calls)
    shown = make_chat().decode(episode.segments[0].token_ids)
    assert all(call.observation.text in shown for call in episode.calls)
    assert episode.status == "finished" and len(recorder.of(ToolCalled)) == len(calls)


async def test_neighbouring_calls_of_parallel_tools_run_together_and_answers_keep_their_order() -> None:
    log: list[str] = []

    class Parallel(Env):
        @tool(parallel=True)
        async def meet(self, who: str) -> str:
            """Wait for the other."""
            log.append(f"+{who}")
            if len([entry for entry in log if entry.startswith("+")]) % 2:
                await asyncio.sleep(0.02)
            log.append(f"-{who}")
            return who

        @tool
        async def alone(self, who: str) -> str:
            """Work alone."""
            log.append(f"+{who}")
            await asyncio.sleep(0.01)
            log.append(f"-{who}")
            return who

    plan = [("meet", "a"), ("meet", "b"), ("alone", "c"), ("alone", "d"), ("meet", "e"), ("meet", "f")]
    line = "\n".join(write_call(name, who=who) for name, who in plan)
    runner, _ = make_runner(Parallel(), Lines(line, "done"))
    episode = await runner.run(TASK, episode_id="e")
    assert [call.observation.text for call in episode.calls] == list("abcdef")
    assert log == ["+a", "+b", "-b", "-a", "+c", "-c", "+d", "-d", "+e", "+f", "-f", "-e"]


async def test_done_ends_the_episode_and_later_calls_are_not_run() -> None:
    line = "\n".join([write_call("increment", step=3), write_call("submit"), write_call("increment")])
    runner, _ = make_runner(Counter(), Lines(line))
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, episode.reason, episode.reward) == (
        "finished",
        "tool submit ended the episode",
        1.0,
    )
    assert [call.status for call in episode.calls] == ["ok", "ok", "error"]
    assert "Not run" in episode.calls[2].observation.text
    assert episode.calls[1].observation.metadata == {"n": 3}


async def test_the_turn_limit_truncates_after_the_last_calls_took_effect() -> None:
    runner, _ = make_runner(Counter(), Lines(write_call("increment")), max_turns=3)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, len(episode.turns), episode.reward) == ("truncated", 3, 1.0)
    assert "turn limit" in episode.reason and episode.samples()[-1].rewards[-1] == 1.0


class Asking(Env):
    """Asks back until it hears the word."""

    async def reply(self, text: str) -> str | Observation | None:
        if text == "enough":
            return Observation("thank you", done=True)
        return None if text == "stop" else f"you said {text}"


@pytest.mark.parametrize(
    ("lines", "status", "last"),
    [(["a", "stop"], "finished", "stop"), (["a", "b", "enough"], "finished", "thank you")],
)
async def test_the_environment_answers_turns_without_calls(lines: list[str], status: str, last: str) -> None:
    runner, _ = make_runner(Asking(), Lines(*lines))
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, len(episode.turns), episode.messages[-1]["content"]) == (status, len(lines), last)
    assert episode.messages[2] == {"role": "user", "content": "you said a"}


async def test_replies_count_against_the_turn_limit() -> None:
    runner, _ = make_runner(Asking(), Lines("a"), max_turns=2)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, len(episode.turns)) == ("truncated", 2)


class Talker(Env):
    @tool
    def talk(self, size: int) -> str:
        """Talk."""
        return "HEAD " + "word " * size + "TAIL"


@pytest.mark.timeout(60)
async def test_a_long_observation_keeps_head_and_tail_and_is_marked() -> None:
    runner, _ = make_runner(
        Talker(), Lines(write_call("talk", size=20_000_000), "done"), max_observation_tokens=60
    )
    episode = await runner.run(TASK, episode_id="e")
    (call,) = episode.calls
    shown = episode.messages[2]["content"]
    assert call.truncated and 0 < call.observation_tokens <= 60
    assert len(make_chat().encode(shown)) == call.observation_tokens
    assert shown.startswith("HEAD") and shown.endswith("TAIL") and "left out" in shown
    assert len(call.observation.text) < 1_100_000 and "characters left out" in call.observation.text
    assert shown in make_chat().decode(episode.segments[0].token_ids)


async def test_observations_are_cut_to_what_is_left_of_the_trajectory() -> None:
    policy = Lines("\n".join([write_call("talk", size=30), write_call("talk", size=90)]), "done")
    runner, _ = make_runner(Talker(), policy, max_trajectory_tokens=260)
    episode = await runner.run(TASK, episode_id="e")
    (segment,) = episode.segments
    assert len(episode.turns) == 2, "there was room for an answer"
    assert len(segment.token_ids) - segment.prompt_length <= 260
    assert episode.status == "truncated" and "max_trajectory_tokens" in episode.reason
    assert all(call.truncated and call.observation_tokens > 0 for call in episode.calls)
    small, large = (call.observation_tokens for call in episode.calls)
    assert small < large, "each loses its share"


async def test_no_room_after_an_observation_truncates() -> None:
    line = write_call("talk", size=1)
    size = len(sampled(line))
    runner, _ = make_runner(Talker(), Lines(line), max_trajectory_tokens=size + 12)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, len(episode.turns), len(episode.calls)) == ("truncated", 1, 1)
    assert len(episode.segments[0].token_ids) == episode.turns[0].end, "nothing was added that nobody saw"
    assert episode.messages[-1]["role"] == "tool"


class Budgets(Lines):
    def __init__(self, *lines: str | list[int]) -> None:
        super().__init__(*lines)
        self.samplings: list[Sampling] = []

    async def generate(self, prompt_ids: Any, sampling: Sampling, **rest: Any) -> Generation:
        self.samplings.append(sampling)
        return await super().generate(prompt_ids, sampling, **rest)


async def test_a_turns_budget_is_the_smaller_of_its_own_and_what_is_left() -> None:
    policy = Budgets("a", "b" * 500)
    runner, _ = make_runner(Asking(), policy, max_turn_tokens=100, max_trajectory_tokens=120)
    episode = await runner.run(TASK, episode_id="e")
    (segment,) = episode.segments
    _, second = episode.turns
    assert [s.max_tokens for s in policy.samplings] == [100, 120 - (second.start - segment.prompt_length)]
    assert len(segment.token_ids) == segment.prompt_length + 120
    assert (second.stop_reason, episode.status) == ("length", "truncated")
    assert "max_trajectory_tokens" in episode.reason


async def test_a_turn_cut_off_without_a_call_truncates() -> None:
    runner, _ = make_runner(Asking(), Lines("word " * 100), max_turn_tokens=20)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, len(episode.turns), episode.turns[0].end - episode.turns[0].start) == (
        "truncated",
        1,
        20,
    )
    assert "max_turn_tokens" in episode.reason


async def test_a_complete_call_in_a_turn_that_was_cut_off_is_made() -> None:
    line = write_call("increment", step=3)
    cut = sampled(line + " and then" + " more" * 50)
    runner, _ = make_runner(Counter(), Lines(cut, "done"), max_turn_tokens=len(sampled(line)) + 5)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.turns[0].stop_reason, episode.status, episode.reward) == ("length", "finished", 1.0)
    half = sampled(write_call("increment"))[:-8]
    runner, _ = make_runner(Counter(), Lines(half + [5] * 50), max_turn_tokens=len(half))
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, [call.status for call in episode.calls]) == ("truncated", ["malformed"])


async def test_a_prompt_that_is_too_long_stops_the_run_and_names_the_task() -> None:
    runner, _ = make_runner(Counter(), Lines("a"), max_prompt_tokens=20)
    with pytest.raises(DataError, match=r"task big-one.*max_prompt_tokens=20"):
        await runner.run(Task("word " * 100, id="big-one"), episode_id="e")


async def test_an_image_for_a_text_model_stops_the_run() -> None:
    class Camera(Env):
        @tool
        def photo(self) -> Image:
            """Take a photo."""
            return Image(b"png")

    runner, _ = make_runner(Camera(), Lines(write_call("photo")))
    with pytest.raises(ModelUnsupported, match=r"Tool photo returned an image.*chatml-json"):
        await runner.run(TASK, episode_id="e")


async def test_text_that_is_no_valid_unicode_reaches_the_model_repaired() -> None:
    class Bytes(Env):
        @tool
        def read(self) -> str:
            """Read."""
            return "a\udcffb"

    runner, _ = make_runner(Bytes(), Lines(write_call("read"), "done"))
    episode = await runner.run(TASK, episode_id="e")
    assert episode.calls[0].observation.text == "a?b" and episode.status == "finished"


async def test_a_rewritten_context_begins_a_new_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = make_chat()
    monkeypatch.setattr(chat, "extend", lambda *_: None)
    runner, _ = make_runner(Counter(), Lines(write_call("increment"), write_call("increment"), "done"))
    episode = await runner.run(TASK, episode_id="e")
    assert [(turn.segment, turn.index) for turn in episode.turns] == [(0, 0), (1, 1), (2, 2)]
    for turn, segment in zip(episode.turns, episode.segments, strict=True):
        assert segment.prompt_length == turn.start and len(segment.token_ids) == turn.end
    assert episode.segments[2].token_ids[: episode.turns[2].start] == chat.prompt(episode.messages[:-1])
    rows = episode.samples()
    assert len(rows) == 3 and [turn for row in rows for turn in set(row.turns)] == [0, 1, 2]
    assert all(all(row.mask) for row in rows)


async def test_rewards_land_on_the_last_sampled_token_and_on_each_turns_last_token() -> None:
    class Scored(Counter):
        success = "calls"

        @reward(per="turn", weight=0.5)
        def calls(self, episode: Any, turn: Any) -> float:
            return len(turn.calls)

    runner, recorder = make_runner(Scored(), Lines(write_call("increment", step=3), "done"))
    episode = await runner.run(TASK, episode_id="e")
    (row,) = episode.samples()
    ends = [turn.end - 1 - episode.segments[0].prompt_length for turn in episode.turns]
    assert {i: r for i, r in enumerate(row.rewards) if r} == {ends[0]: 0.5, ends[1]: 1.0}
    assert episode.reward == 1.5 and recorder.of(EpisodeFinished)[0].success
    assert all(
        math.isnan(p) != m
        for p, m in zip(episode.segments[0].logprobs, episode.segments[0].mask, strict=True)
    )


async def test_seeds_depend_on_run_task_index_and_turn_only() -> None:
    assert episode_seed(0, "t", 1) == episode_seed(0, "t", 1)
    assert len({episode_seed(r, t, i) for r in range(3) for t in ("a", "b") for i in range(3)}) == 18
    draws = []
    for episode_id, seed in (("x", 3), ("y", 3), ("z", 4), ("w", None)):
        policy = Budgets("a", "stop")
        runner, _ = make_runner(Asking(), policy)
        await runner.run(TASK, episode_id=episode_id, seed=seed, temperature=0.5, top_p=0.9)
        assert {(s.temperature, s.top_p) for s in policy.samplings} == {(0.5, 0.9)}
        draws.append([s.seed for s in policy.samplings])
    assert draws[0] == draws[1] != draws[2] and draws[3] == [None, None]
    assert len(set(draws[0] + draws[2])) == 4


async def test_tools_of_an_environment_of_parts_are_its_own_per_episode() -> None:
    class Notebook(Tool):
        """Remembers."""

        async def open(self) -> None:
            self.pages: list[str] = []

        async def call(self, text: str) -> str:
            """Write a page."""
            self.pages.append(text)
            return " ".join(self.pages)

    line = write_call("notebook", text="a")
    runner, _ = make_runner(Env(tasks=[TASK], tools=[Notebook]), Lines(line, line, "done"))
    episodes = await asyncio.gather(*(runner.run(TASK, episode_id=name) for name in "pq"))
    for episode in episodes:
        assert [call.observation.text for call in episode.calls] == ["a", "a a"]


async def test_mistakes_in_an_environment_are_named() -> None:
    with pytest.raises(DefinitionError, match=r"'reachd'.*'reached'"):
        make_runner(type("Typo", (Counter,), {"success": "reachd"})(), Lines("a"))

    @tool
    def increment() -> str:
        """Another of that name."""
        return ""

    runner, _ = make_runner(type("Twice", (Counter,), {"tools": (increment,)})(), Lines("a"))
    with pytest.raises(DefinitionError, match="increment"):
        await runner.run(TASK, episode_id="e")
    runner, _ = make_runner(Asking(), ScriptedPolicy(make_chat()))
    with pytest.raises(DefinitionError, match="no expert"):
        await runner.run(TASK, episode_id="e")


async def test_an_expert_that_ends_too_early_is_named() -> None:
    class Short(Counter):
        def expert(self, task: Task, rng: random.Random) -> Expert | None:
            def play() -> Expert:
                yield {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "increment", "arguments": {}}}],
                }

            return play()

    runner, _ = make_runner(Short(), ScriptedPolicy(make_chat()))
    with pytest.raises(DefinitionError, match=r"expert of environment short ended while task task-1"):
        await runner.run(TASK, episode_id="e")
