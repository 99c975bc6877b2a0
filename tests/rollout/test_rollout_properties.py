"""Whatever a model says and whatever breaks, the record of an episode is exact."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_support import TASK, make_limits, make_tokenizer, sampled, write_call

from agentrl import Env, Observation, SessionLost, ToolError, Trajectory, Turn, reward, tool
from agentrl.chat import Chat
from agentrl.errors import EngineError
from agentrl.rollout import EpisodeRunner
from agentrl.rollout.control import CompressContext, ForcedFinish
from agentrl.rollout.control_part import Control
from agentrl.rollout.policy import Generation, Sampling


class Anything(Env):
    """Tools that do everything a tool may do."""

    @tool(parallel=True)
    async def say(self, size: int) -> str:
        """Say something."""
        await asyncio.sleep(0)
        return "word <|im_end|> é " * size

    @tool
    def fail(self) -> str:
        """Fail."""
        raise ToolError("no")

    @tool
    def crash(self) -> str:
        """Crash."""
        raise OSError("boom")

    @tool
    def lose(self) -> str:
        """Lose the machine."""
        raise SessionLost("gone")

    @tool
    def finish(self) -> Observation:
        """Finish."""
        return Observation("bye", done=True)

    async def reply(self, text: str) -> str | None:
        return "go on" if "?" in text else None

    @reward
    def length(self, episode: Any) -> float:
        return float(len(episode.turns))

    @reward(per="turn", weight=0.25)
    def calls(self, episode: Any, turn: Any) -> float:
        return len(turn.calls)


class Forgetful(Chat):
    """The real chat format, which at chosen turns cannot prove a continuation; keeps what it gave out."""

    def begin(self, rewrites: frozenset[int]) -> None:
        self.rewrites, self.asked = rewrites, 0
        self.given: list[list[int]] = []

    def extend(self, *args: Any, **rest: Any) -> list[int] | None:
        self.asked += 1
        extended = super().extend(*args, **rest)
        if extended is None or self.asked in self.rewrites:
            return None
        self.given.append(list(extended))
        return extended

    def prompt(self, *args: Any, **rest: Any) -> list[int]:
        prompt = super().prompt(*args, **rest)
        self.given.append(list(prompt))
        return prompt


@functools.cache
def chat() -> Forgetful:
    return Forgetful(make_tokenizer(), "chatml-json", options={"tools_in_prompt": False})


class Recording:
    """Says its lines, fails where told to, and keeps what it saw and said in the last attempt."""

    def __init__(self, lines: Sequence[list[int]], failures: frozenset[int]) -> None:
        self.lines, self.failures, self.count = lines, failures, 0
        self.seen: dict[str, list[tuple[list[int], Generation]]] = {}

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Any = ()
    ) -> Generation:
        self.count += 1
        assert sampling.max_tokens >= 1
        if self.count in self.failures:
            raise EngineError("away")
        seen = self.seen.setdefault(episode, [])
        line = self.lines[len(seen) % len(self.lines)]
        ids = line[: sampling.max_tokens]
        start = 100 * self.count
        generation = Generation(
            ids,
            [-0.001 * (start + i) for i in range(len(ids))],
            [start + i for i in range(len(ids))],
            "stop" if len(ids) == len(line) else "length",
        )
        seen.append((list(prompt_ids), generation))
        return generation


chat()  # loads what it needs now, not inside a strategy
words = st.sampled_from(["hello", "what?", "<|im_end|>", "<tool_call>", "</tool_call>", "é🙂", ""])
calls = st.one_of(
    st.integers(0, 60).map(lambda size: write_call("say", size=size)),
    st.sampled_from([write_call(name) for name in ("fail", "crash", "nothing", "say")]),
    st.just("<tool_call>\n{]\n</tool_call>"),
)
endings = st.sampled_from([write_call("finish"), write_call("lose")])


def turn_of(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[list[int]]:
    return st.tuples(*parts).map(lambda texts: sampled("\n".join(texts)))


going_on = st.one_of(
    turn_of(calls), turn_of(words, calls), turn_of(calls, calls, calls), turn_of(st.just("what?"))
)
ending = st.one_of(turn_of(words), turn_of(calls, endings), st.lists(st.integers(0, 399), max_size=30))
scripts = st.builds(lambda turns, last: [*turns, last], st.lists(going_on, min_size=1, max_size=4), ending)


def mostly(usual: int, rest: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    return st.one_of(st.just(usual), st.just(usual), rest)


@given(
    lines=scripts,
    failures=st.one_of(st.just(frozenset()), st.frozensets(st.integers(1, 9), max_size=2)),
    rewrites=st.one_of(st.just(frozenset()), st.frozensets(st.integers(1, 6), max_size=4)),
    limits=st.fixed_dictionaries(
        {
            "max_turns": mostly(6, st.integers(1, 5)),
            "max_turn_tokens": mostly(150, st.integers(1, 149)),
            "max_trajectory_tokens": mostly(900, st.integers(16, 400)),
            "max_observation_tokens": st.integers(16, 120),
            "retries": st.integers(0, 2),
        }
    ),
    control=st.one_of(
        st.just(Control()),
        st.builds(ForcedFinish, text=st.just("Stop."), reserve=st.integers(1, 40)),
        st.builds(CompressContext, stub=st.sampled_from(["", "old"]), keep=st.integers(1, 3)),
    ),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_record_is_what_the_policy_saw_and_said(
    lines: list[list[int]],
    failures: frozenset[int],
    rewrites: frozenset[int],
    limits: dict[str, int],
    control: Control,
) -> None:
    policy = Recording(lines, failures)
    format_ = chat()
    format_.begin(rewrites)
    extra = control.reserved(format_, make_limits())
    bounds = make_limits(**{**limits, "max_trajectory_tokens": limits["max_trajectory_tokens"] + extra})
    runner = EpisodeRunner(Anything(), format_, policy, bounds, control=control)
    episode = asyncio.run(runner.run(TASK, episode_id="e"))
    seen = policy.seen.get("e" if episode.attempts == 1 else f"e~{episode.attempts}", [])
    if seen and not seen[-1][1].token_ids and len(seen) > sum(turn.generations for turn in episode.turns):
        seen.pop()  # told to finish, the policy said nothing, and the record is as if it had not been told

    assert 1 <= episode.attempts <= bounds.retries + 1
    assert len(episode.turns) <= bounds.max_turns
    spoken = [(turn, *span) for turn in episode.turns for span in spans_of(turn)]
    for (turn, start, end), (prompt, generation) in zip(spoken, seen, strict=True):
        segment, span = episode.segments[turn.segment], slice(start, end)
        assert segment.token_ids[:start] == prompt
        assert prompt in format_.given or start > turn.start
        assert segment.token_ids[span] == generation.token_ids
        assert segment.logprobs[span] == generation.logprobs
        assert segment.versions[span] == generation.versions
        assert end - start <= (bounds.max_turn_tokens if start == turn.start else 40)
    for turn in episode.turns:
        assert turn.raw == format_.decode(episode.segments[turn.segment].token_ids[turn.start : turn.end])
    last = {turn.index: generation for (turn, *_), (_, generation) in zip(spoken, seen, strict=True)}
    assert [turn.stop_reason for turn in episode.turns] == [each.stop_reason for each in last.values()]
    assert [turn.index for turn in episode.turns] == list(range(len(episode.turns)))
    check_segments(episode, bounds.max_trajectory_tokens)
    check_samples(episode)
    for call in episode.calls:
        assert call.observation_tokens <= bounds.max_observation_tokens


def spans_of(turn: Turn) -> list[tuple[int, int]]:
    """What was sampled of a turn."""
    if turn.forced is None:
        return [(turn.start, turn.end)]
    return [(turn.start, turn.forced[0]), (turn.forced[1], turn.end)]


def check_segments(episode: Trajectory, budget: int) -> None:
    """The mask is the union of the turns' spans; all else is marked as context; nothing unseen is kept."""
    for index, segment in enumerate(episode.segments):
        own = [turn for turn in episode.turns if turn.segment == index]
        spans = {position for turn in own for span in spans_of(turn) for position in range(*span)}
        assert sum(turn.sampled for turn in own) == len(spans)
        lists = (segment.token_ids, segment.mask, segment.logprobs, segment.versions)
        assert len({len(values) for values in lists}) == 1
        assert {i for i, sampled in enumerate(segment.mask) if sampled} == spans
        assert {i for i, value in enumerate(segment.logprobs) if not math.isnan(value)} == spans
        assert {i for i, value in enumerate(segment.versions) if value != -1} == spans
        assert len(segment.token_ids) <= episode.segments[0].prompt_length + budget
        if episode.status != "void":
            assert own and len(segment.token_ids) == own[-1].end
            assert segment.prompt_length == own[0].start


def check_samples(episode: Trajectory) -> None:
    """One row per segment, and the rewards add up; none for a void episode."""
    rows = episode.samples()
    if episode.status == "void":
        assert (rows, episode.reward, episode.rewards, episode.turn_reward) == ([], None, {}, {})
        assert episode.reason and not any(turn.rewards for turn in episode.turns)
        return
    assert episode.status in ("finished", "truncated") and episode.reason
    assert episode.reward == len(episode.turns) + 0.25 * len(episode.calls)
    rewarded = [turn for turn in episode.turns if turn.end > turn.start]
    paid = episode.episode_reward + sum(episode.turn_reward[turn.index] for turn in rewarded)
    assert sum(sum(row.rewards) for row in rows) == (paid if rows else 0)
    sampled_ids = [
        token for row in rows for token, own in zip(row.response_ids, row.mask, strict=True) if own
    ]
    assert len(sampled_ids) == episode.sampled_tokens
    for row in rows:
        lists = (row.mask, row.logprobs, row.versions, row.rewards, row.turns)
        assert {len(values) for values in lists} == {len(row.response_ids)}
        assert [turn != -1 for turn in row.turns] == row.mask
        assert all(own or not value for own, value in zip(row.mask, row.rewards, strict=True))
