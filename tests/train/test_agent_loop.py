"""verl's agent loop over ours: rows in, training rows out, void and failing episodes absent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from colours import picture
from rollout_support import make_tokenizer, sampled, write_call

from agentrl import Segment, Task, Trajectory, Turn
from agentrl.chat import Chat
from agentrl.chat.vision import Vision, digest_of, positions
from agentrl.config import validate
from agentrl.doctor.rows import fingerprint
from agentrl.train import tiny, tiny_vision
from agentrl.train.agent_loop import EpisodeLoop, EpisodeOutput, to_outputs
from agentrl.train.failure import read_failure
from agentrl.train.policy import LedgerEntry

SUMMARY = {"success": True, "reward": 1.7}


def rewritten() -> Trajectory:
    """Three turns in two segments, with rewards 0.1, 0.2, 0.4 of turns and 1.0 of the episode."""
    first, second = Segment([1, 2]), Segment([5, 6, 7])
    a = first.add_sampled([10, 11], [-1.0, -1.1], [3, 3])
    first.add_context([20])
    b = first.add_sampled([12], [-1.2], [4])
    c = second.add_sampled([13, 14], [-1.3, -1.4], [4, 4])
    second.add_context([21])
    return Trajectory(
        Task("?"), "e", segments=[first, second], turns=[Turn(0, 0, *a), Turn(1, 0, *b), Turn(2, 1, *c)],
        status="finished", reward=1.7, turn_reward={0: 0.1, 1: 0.2, 2: 0.4}, episode_reward=1.0,
    )  # fmt: skip


SPECIAL = [*tiny.SPECIAL_TOKENS, *tiny_vision.TOKENS]
VISION = Vision.of(tiny.make_tokenizer(special=SPECIAL), tiny_vision.make_processor())
LEDGER = [LedgerEntry([i], [i], [0.0]) for i in range(5)]


def test_with_ppo_rewards_stay_where_they_were_earned() -> None:
    first, second = to_outputs(rewritten(), SUMMARY, [], carry=False)
    assert first.token_rewards == [0, 0.1, 0, 0.2]
    assert second.token_rewards == pytest.approx([0, 1.4, 0])


def test_with_grpo_rewards_of_earlier_rows_move_to_the_end_of_the_last() -> None:
    first, second = to_outputs(rewritten(), SUMMARY, [], carry=True)
    assert first.token_rewards == [0, 0, 0, 0]
    assert second.token_rewards == pytest.approx([0, 1.7, 0])
    assert rewritten().samples()[0].rewards == [0, 0.1, 0, 0.2]


def test_one_row_keeps_its_rewards_with_grpo_too() -> None:
    episode = rewritten()
    episode.segments.pop()
    episode.turns.pop()
    (row,) = to_outputs(episode, SUMMARY, [], carry=True)
    assert row.token_rewards == pytest.approx([0, 0.1, 0, 1.2])


def test_a_row_has_verls_columns_and_rewards_per_token() -> None:
    first, second = to_outputs(rewritten(), SUMMARY, LEDGER, carry=False)
    columns = first.as_dict()
    assert columns["prompts"].tolist() == [1, 2]
    assert columns["responses"].tolist() == [10, 11, 20, 12]
    assert columns["response_mask"].tolist() == [1, 1, 0, 1]
    assert columns["turn_ids"].tolist() == [0, 0, -1, 1]
    assert columns["rollout_log_probs"].tolist() == pytest.approx([-1.0, -1.1, 0.0, -1.2])
    assert columns["rm_scores"].tolist() == pytest.approx([0, 0.1, 0, 0.2])
    assert (columns["rm_scores"].dtype, columns["turn_ids"].dtype) == (torch.float32, torch.int64)
    assert columns["num_turns"] == 3
    assert not {"token_rewards", "reward_score", "response_logprobs"} & set(columns)
    extra = columns["extra_fields"]
    assert (extra["min_global_steps"], extra["max_global_steps"]) == (3, 4)
    assert (extra["episode"], extra["reward_extra_info"]) == (SUMMARY, {"acc": 1.0})
    assert second.as_dict()["rm_scores"].tolist() == pytest.approx([0, 1.4, 0])


def test_only_the_last_attempts_part_of_the_ledger_is_kept() -> None:
    for row in to_outputs(rewritten(), SUMMARY, LEDGER, carry=True):
        assert [entry["prompt_ids"] for entry in row.extra_fields["ledger"]] == [[2], [3], [4]]


def test_a_void_episode_has_no_rows() -> None:
    episode = rewritten()
    episode.status = "void"
    assert to_outputs(episode, SUMMARY, LEDGER, carry=True) == []


# ---- images


def test_a_row_brings_its_images_and_a_text_of_placeholders_alone() -> None:
    """Words of a tool may spell a placeholder; verl's processor is not to read them."""
    episode = rewritten()
    seen = [picture(56, 28), picture(28, 28)]
    episode.pictures = {each.sha256: each for each in seen}
    episode.segments[0].images = [each.sha256 for each in seen]
    first, second = to_outputs(episode, SUMMARY, LEDGER, carry=False, vision=VISION)
    assert first.multi_modal_data is not None and second.multi_modal_data == {}
    assert [image.size for image in first.multi_modal_data["images"]] == [(56, 28), (28, 28)]
    assert first.mm_processor_kwargs == {"text": ["<|image_pad|><|image_pad|>"]}
    assert second.mm_processor_kwargs == {"text": ["."]}


def test_the_ledger_holds_fingerprints_of_the_pixels_that_the_engine_was_given() -> None:
    red, blue = picture(56, 56), picture(56, 56, (0, 0, 255))
    entry = LedgerEntry([1], [2], [-1.0], (red, blue))
    assert entry.record(VISION)["pixels"] == [VISION.digest(red), VISION.digest(blue)]
    assert VISION.digest(red) != VISION.digest(blue)
    whole = VISION.pixels([red, blue])
    assert digest_of(whole["pixel_values"][16:].numpy()) == VISION.digest(blue)


def test_verl_makes_of_a_row_what_the_model_needs(tmp_path: Path) -> None:
    """verl's own code, on our row: features for every placeholder, and M-RoPE's positions."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
    from verl.utils.tokenizer import hf_processor

    tokenizer = tiny.make_tokenizer(special=SPECIAL)
    tiny_vision.make_model(tokenizer, 0).config.save_pretrained(tmp_path)
    tiny_vision.save_processor(tiny_vision.make_processor(), tokenizer, tmp_path)
    worker = SimpleNamespace(processor=hf_processor(str(tmp_path)), tokenizer=tokenizer)
    assert worker.processor is not None
    seen = [picture(56, 28), picture(112, 112)]
    ids = [20, *[VISION.placeholder] * 2, 21, *[VISION.placeholder] * 16, 22]
    segment = Segment(ids[:3], images=[each.sha256 for each in seen])
    segment.add_context(ids[3:-1])
    turn = Turn(0, 0, *segment.add_sampled(ids[-1:], [-1.0], [0]))
    episode = Trajectory(Task("?"), "e", segments=[segment], turns=[turn], status="finished", reward=1.0)
    episode.pictures = {each.sha256: each for each in seen}
    (row,) = to_outputs(episode, SUMMARY, [], carry=True, vision=VISION)
    tokens = torch.tensor([ids])
    inputs = AgentLoopWorker._compute_multi_modal_inputs(worker, row, tokens)
    places = AgentLoopWorker._compute_position_ids(worker, tokens, torch.ones_like(tokens), inputs, {})
    assert inputs["image_grid_thw"].tolist() == [[1, 2, 4], [1, 8, 8]]
    assert torch.equal(inputs["pixel_values"], VISION.pixels(seen)["pixel_values"])
    assert places[0, 0].tolist() == list(range(len(ids)))
    grids = inputs["image_grid_thw"].tolist()
    assert places[0, 1:].tolist() == positions(ids, grids, VISION).tolist()


# ---- an episode through verl's interface, with a client that plays verl's


ENV = """
from agentrl import Env, Task, Trajectory, Turn, reward, tool

class Adding(Env):
    prompt = "Add."

    @tool
    async def add(self, a: int, b: int) -> int:
        '''Add.'''
        return a + b

    @reward
    def right(self, episode: Trajectory) -> float:
        if episode.task.metadata.get("breaks"):
            raise ZeroDivisionError("in the reward")
        return float(str(episode.task.answer) in episode.final_text)

    @reward(per="turn", weight=0.25)
    def spoke(self, episode: Trajectory, turn: Turn) -> float:
        return episode.task.metadata.get("spoken", 0.0)
"""


@dataclass
class Output:
    token_ids: list[int]
    log_probs: list[float]
    stop_reason: str = "completed"
    extra_fields: dict[str, Any] = field(default_factory=dict)


class Client:
    """Says its lines to every attempt; the first ``failures`` requests fail."""

    def __init__(self, *lines: str, failures: int = 0) -> None:
        self._lines, self._failures = [sampled(line) for line in lines], failures
        self.said: dict[str, int] = {}
        self.parameters: list[dict[str, Any]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Output:
        self.parameters.append(sampling_params)
        number = self.said.get(request_id, 0)
        self.said[request_id] = number + 1
        if self._failures and number == len(self._lines) - 1:
            self._failures -= 1
            raise RuntimeError("the replica died")
        ids = self._lines[number]
        return Output(ids, [-0.5] * len(ids), extra_fields={"global_steps": 1})


LINES = (write_call("add", a=2, b=3), "It is 5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with its settings."""
    (tmp_path / "adding.py").write_text(ENV)
    config = validate(
        {
            "env": str(tmp_path / "adding.py"),
            "steps": 3,
            "algorithm": {"name": "grpo"},
            "rollout": {"renderer": "chatml-json", "retries": 1, "retry_seconds": 0, "seeded": True},
        }
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return tmp_path


async def play(
    folder: Path,
    client: Client,
    *,
    step: int = 1,
    split: str = "train",
    uid: str = "group",
    session: int = 2,
    columns: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> list[EpisodeOutput]:
    """One row, as verl hands it over, with further columns; every row has an instance of its own."""
    task = Task("2 + 3?", answer=5, metadata=metadata)
    loop = EpisodeLoop(
        run=str(folder), server_manager=client, tokenizer=make_tokenizer(), trainer_config=None
    )
    return await loop.run(
        {"temperature": 0.5},
        extra_info={"index": 0, "split": split, "task": json.dumps(task.to_dict())},
        uid=uid, session_id=session, global_steps=step, **(columns or {}),
    )  # fmt: skip


async def test_a_row_is_played_and_judged_and_its_tokens_are_the_engines(folder: Path) -> None:
    client = Client(*LINES)
    (row,) = await play(folder, client)
    drawn = [token for token, mask in zip(row.response_ids, row.response_mask, strict=True) if mask]
    assert drawn == sampled(LINES[0]) + sampled(LINES[1])
    assert (row.reward_score, sum(row.token_rewards), row.num_turns) == (1.0, 1.0, 2)
    episode = row.extra_fields["episode"]
    assert (episode["calls"], episode["call_errors"], episode["success"], episode["status"]) == (
        1,
        0,
        True,
        "finished",
    )
    assert episode["tokens"] == len(drawn) and episode["rewards"] == {"right": 1.0, "spoke": 0.0}
    assert [entry["token_ids"] for entry in row.extra_fields["ledger"]] == [sampled(line) for line in LINES]
    assert client.parameters[0]["temperature"] == 0.5
    seeds = [parameters["seed"] for parameters in client.parameters]
    assert len(set(seeds)) == 2
    await play(folder, again := Client(*LINES))
    assert [parameters["seed"] for parameters in again.parameters] == seeds


async def test_a_row_says_how_many_turns_its_episode_may_take_and_how_many_episodes_its_task_has(
    folder: Path,
) -> None:
    (row,) = await play(folder, Client(*LINES), columns={"turn_limit": 1, "group_size": 3})
    episode = row.extra_fields["episode"]
    assert (episode["status"], episode["turns"], episode["asked"]) == ("truncated", 1, 3)
    (row,) = await play(folder, Client(*LINES), columns={"turn_limit": 100})
    assert (row.extra_fields["episode"]["turns"], row.extra_fields["episode"]["asked"]) == (2, 8)


class Held(Client):
    """An engine that answers nobody for a while."""

    def __init__(self) -> None:
        super().__init__(*LINES)
        self.asked, self.answers = 0, asyncio.Event()

    async def generate(self, *request: Any, **rest: Any) -> Output:
        self.asked += 1
        await self.answers.wait()
        return await super().generate(*request, **rest)


async def test_an_engine_that_does_not_answer_holds_back_further_episodes(folder: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["rollout"]["engine_episodes"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    client = Held()
    playing = [asyncio.ensure_future(play(folder, client, uid=f"group{n}")) for n in range(6)]
    while client.asked < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert client.asked == 2
    client.answers.set()
    assert [row.reward_score for (row,) in await asyncio.gather(*playing)] == [1.0] * 6


async def test_training_is_on_shaped_rewards_and_held_out_episodes_are_judged_plainly(folder: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["algorithm"] |= {"shaping": {"name": "spear_tools", "options": {"until": 4}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    client, rewards = Client(*LINES), []
    for step, split in ((1, "train"), (3, "train"), (3, "test")):
        client.said.clear()
        (row,) = await play(folder, client, step=step, split=split)
        assert row.extra_fields["episode"]["success"]
        rewards.append((row.reward_score, row.extra_fields["episode"].get("unshaped")))
    assert rewards == [(pytest.approx(1.1), 1.0), (pytest.approx(1.05), 1.0), (1.0, None)]


async def test_rows_have_a_fingerprint_where_they_may_be_trained_on_again(folder: Path) -> None:
    (row,) = await play(folder, Client(*LINES))
    assert "fingerprint" not in row.extra_fields
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["algorithm"]["name"] = "trpo_traj"
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (row,) = await play(folder, Client(*LINES))
    columns = row.as_dict()
    names = ("prompts", "responses", "response_mask", "rollout_log_probs", "versions", "rm_scores")
    assert row.extra_fields["fingerprint"] == fingerprint(*(columns[name].numpy() for name in names))


async def test_the_ledger_travels_with_the_first_and_the_last_step_of_training(folder: Path) -> None:
    client = Client(*LINES)
    kept = {}
    for step, split in ((2, "train"), (2, "test"), (1, "train"), (3, "train"), (3, "test")):
        client.said.clear()
        (row,) = await play(folder, client, step=step, split=split)
        kept[step, split] = len(row.extra_fields["ledger"])
    assert kept == {(2, "train"): 2, (2, "test"): 0, (1, "train"): 0, (3, "train"): 2, (3, "test"): 0}


@pytest.mark.parametrize(("algorithm", "earlier", "last"), [("grpo", 0.0, 1.5), ("ppo", 0.25, 1.25)])
async def test_the_algorithm_decides_where_rewards_of_a_rewritten_context_lie(
    folder: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, earlier: float, last: float
) -> None:
    monkeypatch.setattr(Chat, "extend", lambda *_args: None)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["algorithm"]["name"] = algorithm
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = await play(folder, Client(*LINES), spoken=1.0)
    assert [sum(row.token_rewards) for row in rows] == [earlier, last]
    assert [row.reward_score for row in rows] == [1.5, 1.5]


async def test_a_retried_episode_brings_the_ledger_of_the_attempt_that_counts(folder: Path) -> None:
    (row,) = await play(folder, Client(*LINES, failures=1))
    assert [entry["token_ids"] for entry in row.extra_fields["ledger"]] == [sampled(line) for line in LINES]
    assert read_failure(folder) is None


async def test_an_episode_that_infrastructure_failed_has_no_rows(folder: Path) -> None:
    assert await play(folder, Client(*LINES, failures=2)) == []
    assert read_failure(folder) is None


GROUP_ENV = """
from agentrl import Env, reward, schedule

@reward
def spoke(episode):
    return 1.0

@reward(per="group")
def size(episodes):
    return [len(episodes)] * len(episodes)

class Groups(Env):
    rewards = (schedule(0, 10) * spoke + size,)
"""


async def test_the_sessions_of_a_row_are_judged_together_and_by_the_runs_progress(folder: Path) -> None:
    (folder / "adding.py").write_text(GROUP_ENV)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["algorithm"]["group_size"], settings["eval"]["samples"] = 3, 2
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    client = Client("It is 5")

    async def group(uid: str, size: int, step: int, split: str) -> list[float | None]:
        client.said.clear()
        rows = await asyncio.gather(
            *(play(folder, client, step=step, split=split, uid=uid, session=n) for n in range(size))
        )
        return [row.reward_score for [row] in rows]

    assert await group("a", 3, 1, "train") == [3.0] * 3
    assert await group("b", 3, 2, "train") == [8.0] * 3
    assert await group("c", 3, 3, "train") == [13.0] * 3
    assert await group("d", 2, 1, "test") == [12.0] * 2  # held-out episodes are judged as at the end


async def test_a_users_mistake_is_written_down_and_stops_the_run(folder: Path) -> None:
    assert await play(folder, Client(*LINES), breaks=True) == []
    record = read_failure(folder)
    assert record is not None and record["kind"] == "UserCodeError"
    assert "Reward 'right' raised ZeroDivisionError" in record["message"]
