"""Groups that are shown an earlier attempt: what they are shown, who is, and that a run goes on with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from replay_support import Played, asked, lab
from rollout_support import make_tokenizer, write_call
from test_controlled_rows import ENV, Client

from agentrl import Task
from agentrl.agent import AgentEnv
from agentrl.algorithms.spec import Improve
from agentrl.config import load_config, validate
from agentrl.doctor import Row
from agentrl.errors import ConfigError
from agentrl.train.agent_loop import EpisodeLoop
from agentrl.train.algorithm import plan
from agentrl.train.improve import ATTEMPT, Improvements, check_improve
from agentrl.train.metrics import step_metrics
from agentrl.train.swarm_settings import check_shared

WORDS = "You tried:\n{attempt}\nDo better."
IMPROVE = {"share": 1.0, "words": WORDS}


async def play(folder: Path, client: Client, given: str = "", **rollout: Any) -> dict[str, Any]:
    """The summary of an episode of the loop that plays all."""
    (folder / "adding.py").write_text(ENV)
    limits = {"renderer": "chatml-json", "retries": 0, **rollout}
    algorithm = {"groups": {"improve": IMPROVE}}
    config = validate({"env": str(folder / "adding.py"), "algorithm": algorithm, "rollout": limits})
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    loop = EpisodeLoop(run=str(folder), server_manager=client, tokenizer=make_tokenizer())
    info = {"index": 0, "split": "train", "task": json.dumps(Task("2 + 3?", answer=5, id="sum").to_dict())}
    row = {"extra_info": info, "uid": "g", "session_id": 0, "global_steps": 1, ATTEMPT: given}
    *_, last = await loop.run({"temperature": 1.0}, **row)
    summary: dict[str, Any] = last.extra_fields["episode"]
    return summary


async def test_what_was_said_and_seen_is_what_a_later_group_is_shown(tmp_path: Path) -> None:
    first = await play(tmp_path, Client(write_call("add", a=2, b=2), "It is 4."), max_prompt_tokens=1024)
    expected = 'You called add: {"a": 2, "b": 2}\nResult: 4\nYou: It is 4.'
    assert first[ATTEMPT] == WORDS.replace("{attempt}", expected) and not first["improves"]
    (tmp_path / "again").mkdir()
    client = Client("It is 5.")
    again = await play(tmp_path / "again", client, first[ATTEMPT], max_prompt_tokens=1024)
    prompt = make_tokenizer().decode(client.given[0])
    assert f"2 + 3?\n\n{first[ATTEMPT]}" in prompt and again["improves"] and again["success"]
    # What it leaves is its own attempt, not the one before in it.
    assert again[ATTEMPT] == WORDS.replace("{attempt}", "You: It is 5.")


async def test_an_attempt_is_shortened_to_what_prompts_may_take(tmp_path: Path) -> None:
    long = "word " * 400
    rollout: dict[str, Any] = {"max_turn_tokens": 900, "max_trajectory_tokens": 1000}
    told = await play(tmp_path, Client(long), max_prompt_tokens=400, **rollout)
    assert len(make_tokenizer().encode(told[ATTEMPT])) < 400 and "word word" in told[ATTEMPT]
    (tmp_path / "again").mkdir()
    again = await play(tmp_path / "again", Client(long), told[ATTEMPT], max_prompt_tokens=400, **rollout)
    assert again["improves"], "it fits into the prompt"
    (tmp_path / "tight").mkdir()
    tight = await play(tmp_path / "tight", Client("It is 5."), max_prompt_tokens=340, **rollout)
    assert tight[ATTEMPT] == "", "no room is left for an attempt"


def test_a_share_of_the_groups_that_have_an_attempt_is_shown_it() -> None:
    made = Improvements(Improve(share=0.5), seed=0)
    made.add("a", ["one", "other"], 0)
    drawn = [made.draw("a", place, 1) for place in range(2000)]
    assert set(drawn) <= {"", "one", "other"} and len(set(drawn)) == 2
    assert sum(map(bool, drawn)) / 2000 == pytest.approx(0.5, abs=0.04)
    assert drawn == [made.draw("a", place, 1) for place in range(2000)]
    assert made.draw("unknown", 0, 1) == ""
    made.add("a", ["", ""], 1)
    assert len(made) == 1, "without room the one before is kept"
    assert Improvements.of(None, seed=0) is None


SETTINGS = ("algorithm.name=dapo", "algorithm.groups.improve.share=1")


def test_a_steps_attempts_are_shown_to_later_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = lab(monkeypatch, *SETTINGS, tasks=2, size=2)

    def step(*, improves: bool) -> dict[str, float]:
        a, b = {ATTEMPT: "tried", "improves": improves}, {ATTEMPT: "", "improves": False}
        groups = {task: [Played(1.0, more=of), Played(0.0, more=of)] for task, of in (("a", a), ("b", b))}
        made.step(groups)
        return made.trainer._experience.take_told()[0]

    assert step(improves=False) == {"improve/episodes": 0.0, "improve/stored": 1.0}
    assert asked(made, ATTEMPT, "a", "b") == ["tried", ""]
    made.trainer._experience.save(tmp_path)
    told = step(improves=True)
    assert (told["improve/episodes"], told["improve/success"]) == (2.0, 0.5)
    resumed = lab(monkeypatch, *SETTINGS, tasks=2, size=2)
    resumed.trainer._experience.load(tmp_path)
    assert asked(resumed, ATTEMPT, "a", "b") == ["tried", ""]


def test_success_is_of_episodes_that_began_as_held_out_ones_do() -> None:
    nothing = ("reward", "calls", "call_errors", "turns", "tokens", "generate_seconds", "tool_seconds")
    more = ("interrupted", "prompt_tokens", "cached_tokens", "row_tokens")
    common = {**dict.fromkeys([*nothing, *more], 0.0), "rewards": {}, "status": "finished"}
    rows = [
        Row("a_0_0", {**common, "success": False, "improves": False}),
        Row("a_1_0", {**common, "success": True, "improves": True}),
    ]
    assert step_metrics(rows, {}, {}, expected=2)["success/mean"] == 0.0


def test_what_does_not_go_with_it_is_told() -> None:
    config = load_config("env", ["algorithm.groups.improve.share=0.5", "algorithm.name=sapo_swarm"])
    carried_out = plan(config.algorithm)
    agent = object.__new__(AgentEnv)
    with pytest.raises(ConfigError, match="algorithm.groups.improve=null"):
        check_improve(carried_out.algorithm, agent)
    with pytest.raises(ConfigError, match="It wants algorithm.groups.improve=null"):
        check_shared(carried_out, config, agent)
    with pytest.raises(ConfigError):
        plan(load_config("env", ["algorithm.groups.improve.words=again"]).algorithm)
