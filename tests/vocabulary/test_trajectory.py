"""Trajectories: tokens as sampled, rows with rewards in their places, and a record that is JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import Call, Image, Observation, Segment, Task, Trajectory, Turn


def segment(prompt: list[int], *pieces: list[int]) -> tuple[Segment, list[tuple[int, int]]]:
    """Pieces alternate between sampled and observed tokens; log-prob -t/10 and version 3 for token t."""
    made, spans = Segment(list(prompt)), []
    for index, piece in enumerate(pieces):
        if index % 2:
            made.add_context(piece)
        else:
            spans.append(made.add_sampled(piece, [-t / 10 for t in piece], [3] * len(piece)))
    return made, spans


def two_segments() -> Trajectory:
    """Turns 0 and 1 in the first segment, turn 2 in the second, whose context was rewritten."""
    first, (a, b) = segment([1, 2], [10, 11], [20], [12])
    second, (c,) = segment([5, 6, 7], [13, 14], [21])
    turns = [Turn(0, 0, *a), Turn(1, 0, *b), Turn(2, 1, *c)]
    return Trajectory(Task("?"), "e", segments=[first, second], turns=turns, status="finished")


# ---- segments


def test_a_segment_keeps_what_the_engine_said_of_each_token() -> None:
    made, spans = segment([1, 2], [10, 11], [20])
    assert (made.token_ids, made.prompt_length, spans) == ([1, 2, 10, 11, 20], 2, [(2, 4)])
    assert made.mask == [False, False, True, True, False]
    assert made.versions == [-1, -1, 3, 3, -1]
    assert [round(x, 6) if x == x else None for x in made.logprobs] == [None, None, -1.0, -1.1, None]


@pytest.mark.parametrize(
    ("logprobs", "versions"), [([-1.0], [0, 0]), ([-1.0, -1.0], [0]), ([], []), ([-1.0] * 3, [0] * 3)]
)
def test_an_engine_that_returns_lists_of_other_lengths_changes_nothing(
    logprobs: list[float], versions: list[int]
) -> None:
    made, _ = segment([1], [10])
    with pytest.raises(ValueError, match="2 tokens"):
        made.add_sampled([11, 12], logprobs, versions)
    assert len(made.token_ids) == len(made.mask) == len(made.logprobs) == len(made.versions) == 2


def test_a_segment_does_not_take_its_callers_list() -> None:
    prompt = [1, 2]
    made = Segment(prompt)
    made.add_context([3])
    assert prompt == [1, 2] and made.prompt_length == 2


# ---- rows


def test_one_row_with_rewards_on_the_last_tokens() -> None:
    made, (a, b) = segment([1, 2], [10, 11], [20, 21], [12])
    episode = Trajectory(Task("?"), "e", segments=[made], turns=[Turn(0, 0, *a), Turn(1, 0, *b)])
    episode.turn_reward, episode.episode_reward = {0: 0.25, 1: 0.5}, 1.0
    (row,) = episode.samples()
    assert (row.prompt_ids, row.response_ids) == ([1, 2], [10, 11, 20, 21, 12])
    assert row.mask == [True, True, False, False, True]
    assert row.rewards == [0, 0.25, 0, 0, 1.5]
    assert row.turns == [0, 0, -1, -1, 1]
    assert row.versions == [3, 3, -1, -1, 3]
    assert row.logprobs == [-1.0, -1.1, 0.0, 0.0, -1.2]


def test_the_episodes_reward_lies_before_an_observation_that_nothing_follows() -> None:
    made, (a,) = segment([1], [10, 11], [20, 21])
    episode = Trajectory(Task("?"), "e", segments=[made], turns=[Turn(0, 0, *a)], episode_reward=2.0)
    assert episode.samples()[0].rewards == [0, 2.0, 0, 0]


def test_a_rewritten_context_gives_a_row_per_segment_and_the_episodes_reward_to_the_last() -> None:
    episode = two_segments()
    episode.turn_reward, episode.episode_reward = {0: 0.1, 1: 0.2, 2: 0.4}, 1.0
    first, second = episode.samples()
    assert (first.response_ids, first.rewards, first.turns) == (
        [10, 11, 20, 12],
        [0, 0.1, 0, 0.2],
        [0, 0, -1, 1],
    )
    assert (second.prompt_ids, second.rewards, second.turns) == ([5, 6, 7], [0, 1.4, 0], [2, 2, -1])


def test_a_segment_in_which_nothing_was_sampled_is_no_row() -> None:
    episode = two_segments()
    episode.segments.append(Segment([8, 9]))
    episode.episode_reward = 1.0
    rows = episode.samples()
    assert [row.prompt_ids for row in rows] == [[1, 2], [5, 6, 7]]
    assert rows[-1].rewards == [0, 1.0, 0]


def test_a_void_episode_has_no_rows() -> None:
    episode = two_segments()
    assert len(episode.samples()) == 2
    episode.status = "void"
    assert episode.samples() == []


def test_rows_are_made_anew_each_time() -> None:
    episode = two_segments()
    episode.episode_reward = 1.0
    episode.samples()[0].response_ids.clear()
    assert episode.samples()[1].rewards == [0, 1.0, 0]
    assert episode.samples()[0].response_ids == [10, 11, 20, 12]


tokens = st.lists(st.integers(0, 99), min_size=1, max_size=4)
observed = st.lists(st.integers(0, 99), max_size=3)
streams = st.lists(
    st.tuples(observed, st.lists(st.tuples(tokens, observed), max_size=3)), min_size=1, max_size=3
)
values = st.integers(-3, 3).map(float)


@given(streams, st.data())
def test_rows_hold_every_sampled_token_once_and_all_of_the_reward(
    drawn: list[tuple[list[int], list[tuple[list[int], list[int]]]]], data: st.DataObject
) -> None:
    episode = Trajectory(Task("?"), "e", status="finished")
    said: list[list[int]] = []
    for number, (prompt, turns) in enumerate(drawn):
        stream = Segment(list(prompt))
        for sampled, seen in turns:
            index = len(said)
            start, end = stream.add_sampled(sampled, [-1.0 - index] * len(sampled), [index] * len(sampled))
            stream.add_context(seen)
            episode.turns.append(Turn(index, number, start, end))
            episode.turn_reward[index] = data.draw(values)
            said.append(sampled)
        episode.segments.append(stream)
    episode.episode_reward = data.draw(values)

    rows = episode.samples()
    read: dict[int, list[int]] = {}
    for row in rows:
        lengths = {
            len(x) for x in (row.response_ids, row.mask, row.logprobs, row.versions, row.rewards, row.turns)
        }
        assert len(lengths) == 1
        assert row.mask[0], "a response begins with a sampled token"
        columns = zip(
            row.response_ids, row.mask, row.logprobs, row.versions, row.rewards, row.turns, strict=True
        )
        for token, sampled_here, logprob, version, reward, turn in columns:
            assert sampled_here == (turn >= 0)
            assert version == turn
            assert logprob == (-1.0 - turn if sampled_here else 0.0)
            assert sampled_here or reward == 0.0
            if sampled_here:
                read.setdefault(turn, []).append(token)
    assert [read[turn] for turn in sorted(read)] == said
    assert episode.sampled_tokens == sum(map(len, said))
    expected = sum(episode.turn_reward.values()) + episode.episode_reward if said else 0.0
    assert sum(sum(row.rewards) for row in rows) == pytest.approx(expected)
    for row in rows:
        for position, turn in enumerate(row.turns):
            ends = turn >= 0 and row.turns[position + 1 : position + 2] != [turn]
            last = row is rows[-1] and turn == len(said) - 1
            due = episode.turn_reward.get(turn, 0.0) + (episode.episode_reward if last else 0.0)
            assert row.rewards[position] == pytest.approx(due if ends else 0.0)


# ---- the record


def test_the_record_is_json_without_nan_or_images() -> None:
    episode = two_segments()
    answer = Observation("x" * 30_000, images=(Image(b"png"),), error=True, metadata={"secret": object()})
    episode.turns[0].calls.append(Call("look", {"at": 1}, "c0", "error", answer, seconds=0.5, truncated=True))
    episode.metadata["note"] = "kept"
    data = json.loads(json.dumps(episode.to_dict(), allow_nan=False))
    assert data["segments"][0]["logprobs"] == [None, None, -1.0, -1.1, None, -1.2]
    assert data["segments"][1]["token_ids"] == [5, 6, 7, 13, 14, 21]
    call = data["turns"][0]["calls"][0]
    assert call["observation"] == {"text": "x" * 20_000, "images": 1, "error": True}
    assert (call["name"], call["arguments"], call["seconds"], call["truncated"]) == (
        "look",
        {"at": 1},
        0.5,
        True,
    )
    assert (data["metadata"], data["task"], data["reward"]) == (
        {"note": "kept"},
        episode.task.to_dict(),
        None,
    )
    assert math.isnan(episode.segments[0].logprobs[0]), "the episode itself is left as it was"


def test_short_views_of_an_episode() -> None:
    empty = Trajectory(Task("?"), "e")
    assert (empty.final_text, empty.calls, empty.sampled_tokens, empty.samples()) == ("", [], 0, [])
    episode = two_segments()
    episode.turns[0].calls = [Call("a", {}, "0"), Call("b", {}, "1")]
    episode.turns[2].calls = [Call("c", {}, "2")]
    episode.turns[2].text = "the end"
    assert [call.name for call in episode.calls] == ["a", "b", "c"]
    assert (episode.final_text, episode.sampled_tokens) == ("the end", 5)


def test_a_task_is_named_by_its_content_and_travels_as_json() -> None:
    task = Task("Hi", answer=[1, 2], metadata={"a": 1, "b": 2})
    assert Task(**json.loads(json.dumps(task.to_dict()))) == task
    assert Task("Hi", answer=[1, 2], metadata={"b": 2, "a": 1}).id == task.id
    assert len({task.id, Task("Ho", answer=[1, 2]).id, Task("Hi").id, Task("Hi", answer=[1, 2]).id}) == 4
    assert Task("Hi", id="mine").id == "mine"
