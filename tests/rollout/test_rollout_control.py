"""What an algorithm does to an episode while it is played: told to finish, or shown less of its past."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_support import TASK, make_chat, make_limits, make_tokenizer, sampled, write_call

from agentrl import Env, Task, Trajectory, reward, tool
from agentrl.agent import AgentEnv
from agentrl.algorithms.compression import Exchange, acting_samples, context
from agentrl.chat import Chat, ParsedCall, ParsedTurn
from agentrl.chat.interruption import interruption
from agentrl.errors import ConfigError
from agentrl.rollout import EpisodeRunner, Generation, Sampling
from agentrl.rollout.control import CompressContext, ForcedFinish
from agentrl.rollout.control_part import Control
from agentrl.rollout.policy import StopReason
from agentrl.rollout.toolbox import distinct
from agentrl.trajectory import Call, Turn

TEXT = "Time is up."


class Pages(Env):
    """Pages of numbers."""

    @tool
    def page(self, number: int) -> str:
        """Show a page."""
        return f"page {number}: " + "word " * number

    async def reply(self, text: str) -> str | None:
        return "and then?" if text.endswith("?") else None

    @reward
    def turns(self, episode: Trajectory) -> float:
        return float(len(episode.turns))

    @reward(per="turn")
    def length(self, episode: Trajectory, turn: Any) -> float:
        return float(turn.sampled)


class Player:
    """Says its lines, one per request, and keeps what it was given."""

    def __init__(self, *lines: str | list[int]) -> None:
        self.lines = [sampled(line) if isinstance(line, str) else line for line in lines]
        self.given: list[tuple[list[int], Sampling]] = []
        self.said: list[list[int]] = []

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Any = ()
    ) -> Generation:
        line = self.lines[len(self.given)]
        ids, count = line[: sampling.max_tokens], len(self.given)
        self.given.append((list(prompt_ids), sampling))
        self.said.append(ids)
        reason: StopReason = "stop" if len(ids) == len(line) else "length"
        return Generation(ids, [-0.5 - count] * len(ids), [count] * len(ids), reason)


def play(player: Player, control: Control | None, env: Env | None = None, **limits: Any) -> Trajectory:
    runner = EpisodeRunner(env or Pages(), make_chat(), player, make_limits(**limits), control=control)
    return asyncio.run(runner.run(TASK, episode_id="e", seed=3))


# Forced finish


def test_a_turn_that_runs_into_its_limit_is_told_to_finish_and_answers() -> None:
    player = Player("one two three one two three one two three", "the answer")
    episode = play(player, ForcedFinish(text=TEXT, reserve=12), max_turn_tokens=5)
    (prompt, first), (longer, second) = player.given
    said, answer = player.said
    put_in = make_chat().encode(f"\n{TEXT}\n")
    assert (first.max_tokens, second.max_tokens, len(said)) == (5, 12, 5) and first.seed != second.seed
    assert longer == [*prompt, *said, *put_in]

    [segment], [turn] = episode.segments, episode.turns
    assert segment.token_ids == [*longer, *answer]
    response = [True] * 5 + [False] * len(put_in) + [True] * len(answer)
    assert segment.mask == [False] * len(prompt) + response
    assert segment.versions[len(prompt) :] == [0] * 5 + [-1] * len(put_in) + [1] * len(answer)
    assert (episode.status, turn.stop_reason) == ("finished", "stop")
    assert turn.text.endswith(f"{TEXT}\nthe answer") and turn.raw == make_chat().decode(
        segment.token_ids[turn.start :]
    )
    assert (turn.sampled, episode.sampled_tokens, turn.generations) == (5 + len(answer), 5 + len(answer), 2)

    [row] = episode.samples()
    assert [index for index, own in zip(row.turns, row.mask, strict=True) if own] == [0] * turn.sampled
    assert {index for index, own in zip(row.turns, row.mask, strict=True) if not own} == {-1}
    assert row.rewards[-1] == sum(row.rewards) == 1 + turn.sampled


def test_an_answer_that_does_not_fit_the_reserve_ends_the_episode() -> None:
    player = Player(sampled("one " * 20), sampled("two " * 20))
    episode = play(player, ForcedFinish(text=TEXT, reserve=3), max_turn_tokens=5)
    assert episode.status == "truncated" and "told to finish" in episode.reason
    assert episode.sampled_tokens == 8


def test_a_turn_that_holds_a_call_is_not_interrupted() -> None:
    call = sampled(write_call("page", number=1), stop=False)
    whole = [*call, *sampled(" and a lot more")]
    player = Player(whole, "done")
    episode = play(player, ForcedFinish(text=TEXT, reserve=9), max_turn_tokens=len(call) + 2)
    assert [turn.forced for turn in episode.turns] == [None, None] and episode.calls[0].status == "ok"
    player = Player(call)
    episode = play(player, ForcedFinish(text=TEXT, reserve=9), max_turn_tokens=len(call) - 3)
    assert (episode.status, len(player.given)) == ("truncated", 1)


def test_an_interrupted_turn_may_go_on_with_a_call() -> None:
    call = write_call("page", number=1)
    player = Player("one " * 20, call, "done")
    episode = play(player, ForcedFinish(text=TEXT, reserve=80), max_turn_tokens=5)
    first, second = episode.turns
    assert first.forced is not None and first.calls[0].status == "ok" and second.forced is None
    assert episode.segments[0].token_ids[: second.start] == player.given[2][0]


@settings(max_examples=40, deadline=None)
@given(room=st.integers(1, 60), reserve=st.integers(1, 20))
def test_there_is_room_for_the_answer_however_full_the_episode(room: int, reserve: int) -> None:
    control, chat = ForcedFinish(text=TEXT, reserve=reserve), make_chat()
    limits: dict[str, Any] = {
        "max_trajectory_tokens": 16 + control.reserved(chat, make_limits()) + room,
        "max_turns": 9,
    }
    player = Player(*["hm?", "x " * 90, "y " * 90] * 9)
    episode = play(player, control, **limits)
    last = episode.turns[-1]
    if last.forced is None:  # nothing fits any more after what was shown
        assert "max_trajectory_tokens" in episode.reason
    else:
        assert len(player.said[-1]) == player.given[-1][1].max_tokens == reserve
    [segment] = episode.segments
    assert len(segment.token_ids) - segment.prompt_length <= limits["max_trajectory_tokens"]
    assert sum(len(ids) for ids in player.said) == sum(segment.mask) == episode.sampled_tokens


def test_open_reasoning_is_closed() -> None:
    chat = make_chat()
    ids = interruption(chat, [], chat.encode("<think>one two"), TEXT)
    assert chat.decode(ids) == f"\n{TEXT}\n</think>\n\n"
    assert chat.decode(interruption(chat, [], chat.encode("<think>one</think>two"), TEXT)) == f"\n{TEXT}\n"
    opened = chat.encode("assistant\n<think>\n")  # as some models' prompts end
    assert chat.decode(interruption(chat, opened, chat.encode("one"), TEXT)).endswith("</think>\n\n")
    assert "</think>" not in chat.decode(interruption(chat, opened, chat.encode("one</think>"), TEXT))


def test_reasoning_is_closed_by_the_models_own_token() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.add_tokens(["<think>", "</think>"])
    chat = Chat(tokenizer, "chatml-json")
    opened, closed = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    ids = interruption(chat, [], [opened, *chat.encode("one")], f"{TEXT}</think>")
    assert ids.count(closed) == 1  # what the text spells is no token


def test_a_reserve_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"options\.reserve"):
        play(Player(), ForcedFinish(reserve=50), max_trajectory_tokens=60)
    assert ForcedFinish().answer_tokens(make_limits(max_turn_tokens=96)) == 32


# Compressed contexts


def stretches(episode: Trajectory) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The prompt of an episode of one segment, what was sampled of it, and what was observed between."""
    [segment] = episode.segments
    ids = segment.token_ids
    actions = [ids[turn.start : turn.end] for turn in episode.turns]
    ends = [segment.prompt_length, *(turn.end for turn in episode.turns)]
    between = [ids[end : turn.start] for end, turn in zip(ends, episode.turns, strict=False)]
    return ids[: segment.prompt_length], actions, between


def in_place_of(kinds: Sequence[str], stub: str) -> list[list[int]]:
    """The tokens that stand for an observation that is left out, by whether a tool or a user made it."""
    chat = make_chat()
    start, last = [1, 2, 3], sampled("x")
    made = []
    for kind in kinds:
        message: dict[str, Any] = {"role": kind, "content": stub}
        if kind == "tool":
            message |= {"tool_call_id": "c", "name": "page"}
        longer = chat.extend(start, last, [message])
        assert longer is not None
        made.append(longer[len(start) + len(last) :])
    return made


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["tool", "user"]), min_size=1, max_size=5),
    stub=st.sampled_from(["** page **", "-", ""]),
    keep=st.integers(1, 3),
)
def test_each_turn_is_sampled_in_the_compressed_past_and_trained_once(
    kinds: list[str], stub: str, keep: int
) -> None:
    lines = [write_call("page", number=n) if kind == "tool" else f"say {n}?" for n, kind in enumerate(kinds)]
    head, actions, between = stretches(play(Player(*lines, "done"), None))
    episode = play(player := Player(*lines, "done"), CompressContext(stub=stub, keep=keep))
    stubs = in_place_of(kinds, stub)
    for turn, (prompt, _) in enumerate(player.given):
        expected = list(head)
        for past in range(turn):
            whole = past >= turn - keep
            expected += [*actions[past], *(between[past + 1] if whole else stubs[past])]
        assert prompt == expected

    assert [call.observation.text for call in episode.calls] == [
        f"page {n}: " + "word " * n for n, kind in enumerate(kinds) if kind == "tool"
    ]
    rows = episode.samples()
    trained = []
    for row in rows:
        tokens, start = [*row.prompt_ids, *row.response_ids], len(row.prompt_ids)
        for index in dict.fromkeys(turn for turn in row.turns if turn >= 0):
            places = [start + i for i, turn in enumerate(row.turns) if turn == index]
            prompt, said = player.given[index][0], player.said[index]
            assert tokens[: places[0]] == prompt  # behind the very context that the policy was given
            assert [tokens[place] for place in places] == said
            trained.append(index)
    assert trained == list(range(len(actions)))
    assert sum(sum(row.rewards) for row in rows) == len(actions) + episode.sampled_tokens


def test_contexts_are_those_of_the_pure_functions() -> None:
    """With one kind of observation and one whole, as WebAgent-R1 has it."""
    lines = [write_call("page", number=n) for n in (5, 1, 3)]
    head, actions, between = stretches(play(Player(*lines, "done"), None))
    episode = play(player := Player(*lines, "done"), CompressContext(stub="** page **"))
    [stub] = in_place_of(["tool"], "** page **")
    # The prompt stays; each later action follows the observation before it.
    exchanges = [Exchange(seen, said) for seen, said in zip(between[1:], actions[1:], strict=True)]
    start = [*head, *actions[0]]
    assert [given for given, _ in player.given[1:]] == [
        context(start, exchanges[:turn], exchanges[turn].observation, stub) for turn in range(3)
    ]
    rows = episode.samples()
    pure = acting_samples(start, exchanges, stub)
    assert [[*row.prompt_ids, *row.response_ids] for row in rows] == [list(sample.ids) for sample in pure]
    assert len(rows) == 3  # the first two turns share one: nothing is left out before the third


def test_a_format_that_cannot_go_on_renders_the_compressed_dialogue_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Chat, "extend", lambda *_args: None)
    lines = [write_call("page", number=n) for n in (5, 1, 3)]
    play(player := Player(*lines, "done"), CompressContext(stub="(old)"))
    texts = [make_chat().decode(prompt) for prompt, _ in player.given]
    assert [text.count("(old)") for text in texts] == [0, 0, 1, 2]
    assert ["page 3: word" in text for text in texts] == [False, False, False, True]
    assert "page 5" not in texts[2] and "page 1" not in texts[3]


def test_calls_of_contexts_of_equal_length_have_different_names() -> None:
    """A call is named by the length of its context, and compressed ones do not always grow."""
    episode = Trajectory(TASK, "e", turns=[Turn(0, 0, 0, 1, calls=[Call("page", {}, "call_9_0")])])
    call = ParsedCall("page", {}, "", None, "call_9_0")
    [renamed] = distinct(ParsedTurn("", None, (call,)), episode).calls
    assert renamed.id not in ("call_9_0", "") and renamed.name == "page"
    other = ParsedTurn("", None, (ParsedCall("page", {}, "", None, "call_10_0"),))
    assert distinct(other, episode) == other


def test_an_agent_of_its_own_is_not_controlled() -> None:
    class Own(AgentEnv):
        async def agent(self, task: Task, base_url: str, api_key: str) -> str:
            return "x"

    for control in (ForcedFinish(reserve=1), CompressContext()):
        with pytest.raises(ConfigError, match="agent of its own"):
            EpisodeRunner(Own(), make_chat(), Player(), make_limits(), control=control)
    EpisodeRunner(Own(), make_chat(), Player(), make_limits(), control=Control())
