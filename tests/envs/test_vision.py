"""The vision environment: its pictures, its data, and episodes of its expert through the real loop."""

from __future__ import annotations

import io
import itertools
import json
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import samples
from PIL import Image
from rollout_support import Recorder, make_limits

from agentrl import ConfigError, DataError, Snapshot, Task, Trajectory, call, say, tool
from agentrl.config import load_config
from agentrl.envs.vision import Vision, drawing
from agentrl.envs.vision.puzzles import COLORS, KINDS, SIDES, Showing, mosaic, weave
from agentrl.inspect.plain import plain_chat
from agentrl.registry import find_env, source_folder
from agentrl.rollout import EpisodeRunner, ScriptedPolicy
from agentrl.rollout.scripted import Script
from agentrl.sandbox import NamespaceSandbox
from agentrl.tools.untrusted import Interrupted
from agentrl.tools.vision import Album

SMALL: dict[str, Any] = {"kinds": ["weave"], "tools": ["zoom"], "shown_pixels": 112 * 112}
WIDE = {"max_prompt_tokens": 20_000, "max_trajectory_tokens": 100_000, "max_turn_tokens": 4000,
        "max_observation_tokens": 4000, "episode_seconds": 110.0, "retries": 0}  # fmt: skip
in_the_sandbox = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


# ---- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [["weave"], ["mosaic"], None])
def test_splits_are_disjoint_and_repeatable(kinds):
    env = Vision(kinds=kinds, size=200)
    train, test = env.tasks("train"), env.tasks("test")
    assert (len(train), len(test)) == (200, 50)
    pictures = [json.dumps(env.puzzle(task).picture) for task in train + test]
    assert len(set(pictures)) == len(pictures)
    again = Vision(kinds=kinds, size=200)
    assert again.tasks("train") == train and again.tasks("test") == test
    assert {task.metadata["kind"] for task in train} == set(kinds or ["target", "chart", "table", "video"])
    assert Vision(kinds=kinds, size=200, seed=1).tasks("test") != test


def test_the_shrunk_weave_is_the_same_whatever_its_answer():
    """What cannot be seen in the whole picture cannot be learnt from it."""
    showing = Showing(112 * 112, 4)
    puzzle = weave(random.Random(5), showing)
    seen = set()
    for names in itertools.permutations(COLORS):
        [[kind, box, cell, _]] = puzzle.picture["marks"]
        marks = [[kind, box, cell, [COLORS[name] for name in names]]]
        image = drawing.picture({**puzzle.picture, "marks": marks})
        assert image.size == (448, 448)
        seen.add(image.resize((112, 112), Image.Resampling.BOX).tobytes())
    assert len(seen) == 1


def test_a_weave_lies_in_one_part():
    showing = Showing(112 * 112, 4)
    for seed in range(200):
        [(left, top, right, bottom)] = weave(random.Random(seed), showing).where
        assert left // 112 == (right - 1) // 112 and top // 112 == (bottom - 1) // 112


def test_a_mosaic_says_where_to_look_and_not_what_is_there():
    showing = Showing(56 * 56, 14)
    puzzle = mosaic(random.Random(5), showing)
    seen = set()
    for names in itertools.permutations(COLORS):
        marks = [[*mark[:-1], [COLORS[name] for name in names]] for mark in puzzle.picture["marks"]]
        image = drawing.picture({**puzzle.picture, "marks": marks})
        seen.add(image.resize((56, 56), Image.Resampling.BOX).tobytes())
    assert len(seen) == 1
    asked = int(puzzle.question.split(" part ")[1].split()[0]) - 1
    [where] = puzzle.where
    assert where == (asked % 14 * 56, asked // 14 * 56, (asked % 14 + 1) * 56, (asked // 14 + 1) * 56)
    [there] = [mark for mark in puzzle.picture["marks"] if mark[1] == list(where)]
    assert [COLORS[name] for name in puzzle.answer.split()] == there[-1]


def test_canvases_are_large_and_their_targets_small():
    showing = Showing(200_704, 4)
    for seed in range(20):
        puzzle = KINDS["target"](random.Random(seed), showing)
        width, height = puzzle.picture["size"]
        assert SIDES[0] <= min(width, height) and max(width, height) <= SIDES[1]
        [(left, top, right, bottom)] = puzzle.where
        assert (right - left) * (bottom - top) < 0.001 * width * height
        assert min(left, top) >= 0 and right <= width and bottom <= height


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ["photo"]}, "known: chart, mosaic, table, target, video, weave"),
        ({"kinds": []}, "empty"),
        ({"tools": ["python"]}, "known: crop"),
        ({"size": 3}, "at least 4"),
        ({"grid": 3}, "grid=3 even"),
        ({"shown_pixels": 10}, "shown_pixels=10"),
        ({"expert_rate": 2}, "expert_rate"),
        ({"curiosity": -1}, "curiosity"),
        ({"data": "easy-vqa", "kinds": ["chart"]}, "exclude"),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"kindz": []}, "Did you mean 'kinds'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.vision:Vision", options)


def test_pictures_that_run_out_are_told():
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Vision().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Vision())
    config = load_config("vision", [f"preset={preset}"], folder=folder)
    env = find_env("agentrl.envs.vision:Vision", config.environment_options)
    assert env.images and (folder / "README.md").is_file()


# ---- episodes ---------------------------------------------------------------------------------


async def play(
    env: Vision, sandbox: NamespaceSandbox, task: Task, script: Script | None = None
) -> Trajectory:
    chat = plain_chat()
    policy = ScriptedPolicy(chat) if script is None else ScriptedPolicy(chat, script)
    runner = EpisodeRunner(env, chat, policy, make_limits(**WIDE), sandbox=sandbox, events=Recorder())
    return await runner.run_in_group(task, size=1, group="g", episode_id="a")


def answering(text: str) -> Script:
    def script(scene, rng):
        yield say(text)

    return script


@in_the_sandbox
@pytest.mark.parametrize("kind", KINDS)
async def test_the_expert_looks_and_solves_every_kind(kind, sandbox):
    options = {**SMALL, "kinds": [kind]} if kind in ("weave", "mosaic") else {"kinds": [kind]}
    env = Vision(**options, size=16)
    for task in env.tasks("test")[:2]:
        episode = await play(env, sandbox, task)
        assert (episode.status, episode.reward) == ("finished", 1.0), episode.messages
        assert episode.calls and all(each.status == "ok" for each in episode.calls)
        assert len(episode.segments[0].images) >= 2  # the task's, and what the expert looked at


@in_the_sandbox
async def test_what_the_model_sees_of_a_weave(sandbox):
    """The whole picture at 112 pixels shows a patch of one colour, the part all four of them."""
    env = Vision(**SMALL, size=16)
    task = env.tasks("test")[0]
    episode = await play(env, sandbox, task)
    whole, part = (episode.pictures[name] for name in episode.segments[0].images)
    assert (whole.width, whole.height) == (part.width, part.height) == (112, 112)
    assert episode.calls[0].observation.text == "Image 2: 112 x 112"
    pixels = [Image.open(io.BytesIO(picture.png)).tobytes() for picture in (whole, part)]
    colors = [{raw[at : at + 3] for at in range(0, len(raw), 3)} for raw in pixels]
    assert [len(found) for found in colors] == [2, 5]


@in_the_sandbox
async def test_what_solves_nothing(sandbox):
    env = Vision(**SMALL, size=16)
    task = env.tasks("test")[0]
    for text in ("", task.answer, f"<answer>{task.answer} or not</answer>", "<answer>red</answer>"):
        assert (await play(env, sandbox, task, answering(text))).reward == 0.0, text
    assert (await play(env, sandbox, task, answering(f"<answer>{task.answer}</answer>"))).reward == 1.0
    blind = Vision(**{**SMALL, "tools": []}, size=16)
    assert blind.tools == [] and (await play(blind, sandbox, task)).calls == []  # its expert can but guess


@in_the_sandbox
async def test_an_expert_that_guesses_is_seldom_right(sandbox):
    env = Vision(**SMALL, size=64, expert_rate=0.0)
    episodes = [await play(env, sandbox, task) for task in env.tasks("test")[:8]]
    assert not any(episode.calls for episode in episodes)
    assert sum(episode.reward or 0.0 for episode in episodes) <= 2


@in_the_sandbox
async def test_curiosity_is_a_reward_of_its_own(sandbox):
    env = Vision(**SMALL, size=16, curiosity=1.0)
    episode = await play(env, sandbox, env.tasks("test")[0])
    assert episode.rewards == {"correct": 1.0, "curiosity": 0.0}  # all of this group looked


@in_the_sandbox
async def test_parts_of_parts_can_be_looked_at(sandbox):
    env = Vision(**SMALL, size=16)
    task = env.tasks("test")[0]

    def script(scene, rng):
        yield call("zoom", part=1)
        yield call("zoom", part=1, image=2)
        yield call("zoom", part=1, image=9)
        yield say("")

    episode = await play(env, sandbox, task, script)
    texts = [each.observation.text for each in episode.calls]
    assert texts == ["Image 2: 112 x 112", "Image 3: 28 x 28", "There is no image 9; they go from 1 to 3."]


@in_the_sandbox
async def test_a_restored_world_has_its_own_album(sandbox):
    """Images made after the snapshot are gone, and the next one takes their number."""
    taken: list[Snapshot] = []

    class Returning(Vision):
        @tool
        async def mark(self) -> str:
            """Remember this moment."""
            taken.append(await self.snapshot())
            return "marked"

        @tool
        async def back(self) -> str:
            """Go back to it."""
            await self.restore(taken[0])
            return "back"

    def script(scene, rng):
        for name, arguments in (("zoom", {"part": 1}), ("mark", {}), ("zoom", {"part": 1}), ("back", {})):
            yield call(name, **arguments)
        yield call("zoom", part=1)
        yield say("")

    env = Returning(**SMALL, size=16)
    episode = await play(env, sandbox, env.tasks("test")[0], script)
    texts = [each.observation.text for each in episode.calls]
    assert texts[0] == "Image 2: 112 x 112" and texts[2] == texts[4] == "Image 3: 112 x 112"
    await taken[0].close()


# ---- rows -------------------------------------------------------------------------------------


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


GOOD = {"image": "a.png", "question": "What is it?", "answer": "noise"}


@in_the_sandbox
async def test_easy_vqa(sandbox):
    env = Vision(data="easy-vqa")
    train, test = env.tasks("train"), env.tasks("test")
    assert (len(train), len(test)) == (38575, 9673)
    for task in test[:2]:
        episode = await play(env, sandbox, task)
        assert (episode.status, episode.reward) == ("finished", 1.0)


def test_easy_vqa_has_to_be_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"agentrl\[vision\]"):
        Vision(data="easy-vqa").tasks("test")


@in_the_sandbox
async def test_rows_of_ones_own(tmp_path, sandbox):
    (tmp_path / "a.png").write_bytes(samples.image("PNG"))
    (tmp_path / "b.jpg").write_bytes(samples.image("JPEG"))
    write(tmp_path / "test.jsonl", GOOD)
    write(tmp_path / "train.jsonl", GOOD, {**GOOD, "image": "b.jpg", "answer": 3})
    env = Vision(data=str(tmp_path))
    assert [task.answer for task in env.tasks("train")] == ["3"]  # the other image is held out
    assert (await play(env, sandbox, env.tasks("test")[0])).reward == 1.0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({**GOOD, "image": "b.png"}, "there is no image .*b.png"),
        ({**GOOD, "image": "../a.png"}, "lies outside"),
        ({**GOOD, "image": "/etc/passwd"}, "lies outside"),
        ({**GOOD, "image": "test.jsonl"}, "none of .png"),
        ({**GOOD, "question": ""}, "must be text"),
        ({**GOOD, "answer": None}, "'answer' must be"),
        ({"image": "a.png"}, "lacks 'question', 'answer'"),
        ("{not json", "not valid JSON"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, bad, words, caplog):
    (tmp_path / "a.png").write_bytes(samples.image("PNG"))
    write(tmp_path / "test.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(DataError, match=rf"test\.jsonl line 3: .*{words}"):
        Vision(data=str(tmp_path)).tasks("test")
    with caplog.at_level(logging.WARNING):
        assert len(Vision(data=str(tmp_path), on_bad_row="skip").tasks("test")) == 2
    assert "line 3" in caplog.text


def test_data_that_is_missing_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match="data=easy-vqa, a folder with"):
        Vision(data=str(tmp_path / "none")).tasks("test")
    with pytest.raises(DataError, match="test"):
        Vision(data=str(tmp_path)).tasks("test")


@in_the_sandbox
@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", samples.png_that_claims(20_000, 10_000), "too large; it may have 24000000 pixels"),
        ("a.png", samples.image("PNG", (200, 200))[:-3000], "truncated"),
        ("a.jpg", samples.image("PNG"), "named as JPEG, but its content is PNG"),
    ],
)
async def test_an_image_that_cannot_be_used_stops_the_run_or_voids_the_episode(
    tmp_path, sandbox, name, data, words
):
    (tmp_path / name).write_bytes(data)
    write(tmp_path / "test.jsonl", {**GOOD, "image": name})
    env = Vision(data=str(tmp_path))
    with pytest.raises(DataError, match=rf"{name}' cannot be used: .*{words}.*on_bad_row=skip"):
        await play(env, sandbox, env.tasks("test")[0])
    env = Vision(data=str(tmp_path), on_bad_row="skip")
    episode = await play(env, sandbox, env.tasks("test")[0])
    assert (episode.status, episode.reward) == ("void", None) and words in episode.reason


@in_the_sandbox
async def test_an_image_that_a_crowded_machine_does_not_decode_in_time_voids(tmp_path, sandbox, monkeypatch):
    async def slow(*_: object) -> None:
        raise Interrupted("Stopped: it took longer than 71 s.")

    monkeypatch.setattr(Album, "add", slow)
    (tmp_path / "a.png").write_bytes(samples.image("PNG"))
    write(tmp_path / "test.jsonl", GOOD)
    env = Vision(data=str(tmp_path))
    assert (await play(env, sandbox, env.tasks("test")[0])).status == "void"


@in_the_sandbox
async def test_a_sandbox_that_cannot_draw_voids_the_episode(sandbox, monkeypatch):
    env = Vision(**SMALL, size=16)
    broken = replace(weave(random.Random(0), env.showing), picture={"size": [0, -1]})
    monkeypatch.setattr(Vision, "puzzle", lambda self, task: broken)
    episode = await play(env, sandbox, Task("?", answer="x", metadata={"kind": "weave", "seed": "0"}))
    assert episode.status == "void" and "could not be drawn" in episode.reason
