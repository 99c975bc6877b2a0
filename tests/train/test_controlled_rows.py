"""Interrupted turns and compressed contexts, as verl is given them: the doctor finds each token in place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rollout_support import make_tokenizer, sampled, write_call

from agentrl import Task
from agentrl.config import validate
from agentrl.doctor import Row, examine_step
from agentrl.errors import ConfigError
from agentrl.rollout.control import CompressContext
from agentrl.rollout.control_part import Control
from agentrl.train.agent_loop import EpisodeLoop, EpisodeOutput
from agentrl.train.algorithm import plan
from agentrl.train.failure import read_failure

ENV = """
from agentrl import Env, Trajectory, reward, tool

class Adding(Env):
    @tool
    async def add(self, a: int, b: int) -> int:
        '''Add.'''
        return a + b

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(str(episode.task.answer) in episode.final_text)
"""


class Output:
    def __init__(self, ids: list[int], version: int) -> None:
        self.token_ids, self.log_probs = ids, [-0.1 * (i + 1) for i in range(len(ids))]
        self.stop_reason, self.extra_fields = "completed", {"global_steps": version}


class Client:
    """Says its lines, each cut off where the request says so, and each by a newer policy."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.given = [sampled(line) for line in lines], list[list[int]]()

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Output:
        self.given.append(prompt_ids)
        count = len(self.given)
        return Output(self.lines[count - 1][: sampling_params["max_tokens"]], count)


async def play(
    folder: Path, client: Client, algorithm: dict[str, Any], **rollout: Any
) -> list[EpisodeOutput]:
    (folder / "adding.py").write_text(ENV)
    limits = {"renderer": "chatml-json", "retries": 0, **rollout}
    config = validate(
        {"env": str(folder / "adding.py"), "steps": 1, "algorithm": algorithm, "rollout": limits}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    loop = EpisodeLoop(run=str(folder), server_manager=client, tokenizer=make_tokenizer())
    task = Task("2 + 3?", answer=5, id="sum")
    info = {"index": 0, "split": "train", "task": json.dumps(task.to_dict())}
    return await loop.run({"temperature": 1.0}, extra_info=info, uid="g", session_id=0, global_steps=1)


def as_rows(outputs: Sequence[EpisodeOutput]) -> list[Row]:
    """What the doctor reads of rows, with a trainer that agrees with the engine and advantages of 1."""
    return [
        Row(
            key=f"g_0_{index}",
            episode=row.extra_fields["episode"],
            ledger=row.extra_fields["ledger"],
            columns={
                "prompts": np.array(row.prompt_ids),
                "responses": np.array(row.response_ids),
                "response_mask": np.array(row.response_mask),
                "rm_scores": np.array(row.token_rewards, dtype=np.float32),
                "rollout_log_probs": np.array(row.response_logprobs, dtype=np.float32),
                "old_log_probs": np.array(row.response_logprobs, dtype=np.float32),
                "advantages": np.array(row.response_mask, dtype=np.float32),
                "versions": np.array(row.token_versions),
            },
        )
        for index, row in enumerate(outputs)
    ]


def examine(outputs: Sequence[EpisodeOutput], algorithm: dict[str, Any]) -> None:
    settings = validate({"env": "env", "algorithm": algorithm}).algorithm
    report = examine_step(as_rows(outputs), step=9, algorithm=settings, bound=9, recomputed={1, 2, 3, 4, 5})
    wrong = {check.name: check.detail for check in report.checks if not check.passed}
    wrong.pop("no void episode in a baseline", None)  # the advantages above are no algorithm's
    assert not wrong


async def test_the_doctor_finds_both_parts_of_an_interrupted_turn(tmp_path: Path) -> None:
    algorithm = {"name": "scalerl", "rollout": {"options": {"text": "Stop.", "reserve": 40}}}
    client = Client(write_call("add", a=2, b=3), "one two three " * 30, "It is 5")
    outputs = await play(tmp_path, client, algorithm, max_turn_tokens=60)
    [row] = outputs
    assert [len(entry["token_ids"]) for entry in row.extra_fields["ledger"]] == [
        len(client.lines[0]), 60, len(client.lines[2])
    ]  # fmt: skip
    examine(outputs, algorithm)
    episode = row.extra_fields["episode"]
    assert (episode["forced"], episode["turns"], episode["task"], episode["success"]) == (1, 2, "sum", True)
    assert sum(row.response_mask) == episode["tokens"] == 60 + len(client.lines[0]) + len(client.lines[2])
    sampled_turns = [turn for turn, own in zip(row.turn_ids, row.response_mask, strict=True) if own]
    assert sorted(set(sampled_turns)) == [0, 1] and set(row.token_versions) == {-1, 1, 2, 3}


async def test_the_doctor_finds_every_turn_behind_its_compressed_context(tmp_path: Path) -> None:
    algorithm = {"name": "webagent_r1"}
    calls = [write_call("add", a=n, b=3) for n in (1, 2, 3, 4)]
    outputs = await play(tmp_path, client := Client(*calls, "It is 5"), algorithm)
    assert len(outputs) == 4 and sum(sum(row.response_mask) for row in outputs) == sum(map(len, client.lines))
    examine(outputs, algorithm)
    seen = make_tokenizer().decode(client.given[-1])
    assert seen.count("** Simplified html **") == 3 and "<tool_response>\n7\n" in seen
    # each row says whose turn it was, and the reward is there once
    assert [sorted({turn for turn in row.turn_ids if turn >= 0}) for row in outputs] == [
        [0, 1],
        [2],
        [3],
        [4],
    ]
    assert [sum(row.token_rewards) for row in outputs] == [0, 0, 0, 1]


async def test_a_context_that_was_not_the_one_acted_in_is_found(tmp_path: Path) -> None:
    """The examination above would tell."""
    calls = [write_call("add", a=n, b=3) for n in (1, 2, 3)]
    outputs = await play(tmp_path, Client(*calls, "It is 5"), {"name": "webagent_r1"})
    outputs[-1].prompt_ids[-1] += 1
    with pytest.raises(AssertionError, match="stand in no row"):
        examine(outputs, {"name": "webagent_r1"})


async def test_a_reserve_without_room_stops_the_run(tmp_path: Path) -> None:
    algorithm = {"name": "scalerl", "rollout": {"options": {"reserve": 90}}}
    with pytest.raises(ConfigError):
        await play(tmp_path, Client(), algorithm, max_trajectory_tokens=100)
    record = read_failure(tmp_path)
    assert record is not None and "options.reserve" in record["message"]


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ({"name": "forced_finsh"}, "Did you mean 'forced_finish'"),
        (
            {"options": {"txt": "Stop."}},
            "There is no setting algorithm.rollout.options.txt. Did you mean 'text'",
        ),
        ({"options": {"reserve": 0}}, "algorithm.rollout.options.reserve=0"),
        ({"name": "compress_context", "options": {"text": "x"}}, "no setting algorithm.rollout.options.text"),
    ],
)
def test_unknown_controls_and_options_are_told(rollout: dict[str, Any], said: str) -> None:
    settings = validate({"env": "env", "algorithm": {"name": "scalerl", "rollout": rollout}}).algorithm
    with pytest.raises(ConfigError) as caught:
        plan(settings)
    assert said in str(caught.value)


def test_another_control_leaves_the_options_of_the_presets_behind() -> None:
    rollout = {"name": "compress_context", "options": {"keep": 2}}
    settings = validate({"env": "env", "algorithm": {"name": "scalerl", "rollout": rollout}}).algorithm
    assert plan(settings).control == CompressContext(keep=2)
    settings = validate({"env": "env", "algorithm": {"name": "scalerl", "rollout": None}}).algorithm
    assert plan(settings).control == Control()
