"""The math environment: its tasks, its data and its expert."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl import Call, ConfigError, DataError, Observation, Task, Trajectory, Turn
from agentrl.config import load_config
from agentrl.envs.math import Math
from agentrl.envs.math.families import FAMILIES
from agentrl.errors import SandboxUnavailable
from agentrl.registry import find_env, source_folder
from agentrl.rewards.math import correct, math_equal
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import open_sandbox
from agentrl.scoring import score_episode
from agentrl.tool import ToolContext
from agentrl.tools.python import Python

GSM8K = Path(os.environ.get("AGENTRL_SHARED") or Path(__file__).parents[2] / "../shared") / "data/gsm8k"


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(n: int) -> dict[str, str]:
    return {"question": f"What is {n}?", "answer": f"Well.\n#### {n:,}"}


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_splits_are_disjoint_balanced_and_repeatable(difficulty):
    env = Math(families=list(FAMILIES), difficulty=difficulty, size=600)
    train, test = env.tasks("train"), env.tasks("test")
    prompts = [task.prompt for task in train + test]
    assert (len(train), len(test)) == (600, 150) and len(set(prompts)) == len(prompts)
    assert {task.metadata["family"] for task in test} == set(FAMILIES)
    again = Math(families=list(FAMILIES), difficulty=difficulty, size=600)
    assert again.tasks("train") == train and again.tasks("test") == test
    other = Math(families=list(FAMILIES), difficulty=difficulty, size=600, seed=1)
    assert {task.prompt for task in other.tasks("test")} != {task.prompt for task in test}


def test_prompts_are_short():
    env = Math(families=list(FAMILIES), size=600)
    assert max(len(env.prompt or "") + len(task.prompt) for task in env.tasks("train")) < 150


def test_a_family_that_runs_out_is_told():
    with pytest.raises(ConfigError, match=r"'lcm' at difficulty 1 .* lower size"):
        Math(families=["lcm"], difficulty=1, size=9000).tasks("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"families": ["product"]}, "known: basic_arithmetic"),
        ({"families": []}, "empty"),
        ({"difficulty": 9}, "1, 2 or 3"),
        ({"size": 1}, "too small"),
        ({"data": "x", "families": ["lcm"]}, "exclude"),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"dificulty": 1}, "Did you mean 'difficulty'"),
        ({"reward": "tor"}, "'correct' or 'torl'"),
        ({"error_penalty": -0.5}, "0 or more"),
        ({"unfinished_penalty": float("nan")}, "0 or more"),
        ({"answer_column": "solution"}, "data=, which is not given"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.math:Math", options)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Math().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Math())
    config = load_config("math", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.math:Math", config.environment_options)
    assert (folder / "README.md").is_file()


# ---- the expert -------------------------------------------------------------------------------


class Runner:
    """Runs the expert's code: in the sandbox, or in plain processes where there is none."""

    def __init__(self, tool: Python | None) -> None:
        self.tool = tool

    async def __call__(self, code: str) -> str:
        if self.tool is not None:
            return (await self.tool.invoke({"code": code})).text
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
        return done.stdout.strip()


@pytest.fixture
async def run_code():
    try:
        sandbox = open_sandbox()
    except SandboxUnavailable:
        yield Runner(None)
        return
    async with sandbox:
        sessions = EpisodeSessions(sandbox)
        python = Python().spawn(ToolContext(open_session=sessions.open))
        assert isinstance(python, Python)
        yield Runner(python)
        await sessions.close(5)


async def play(env: Math, task, rng, run_code) -> tuple[float, list[str]]:
    """The expert's reward and the code it ran."""
    script = env.expert(task, rng)
    assert script is not None
    message, ran = next(script), []
    while calls := message.get("tool_calls"):
        assert message["content"] == "" and len(calls) == 1
        function = calls[0]["function"]
        assert function["name"] == "python"
        ran.append(function["arguments"]["code"])
        message = script.send([await run_code(ran[-1])])
    with pytest.raises(StopIteration):
        script.send([])
    final = Trajectory(task, "e", turns=[Turn(0, 0, 0, 0, text=message["content"])])
    return await correct.score(final), ran


@pytest.mark.parametrize("difficulty", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_expert_is_right_when_it_calls_the_tool(family, difficulty, run_code):
    env = Math(families=[family], difficulty=difficulty, size=32 if run_code.tool is None else 100)
    env.expert_tool_rate, env.expert_slip_rate = 1.0, 0.0
    rng = random.Random(0)
    rewards = [(await play(env, task, rng, run_code))[0] for task in env.tasks("test")]
    assert sum(rewards) / len(rewards) >= 0.99


async def test_demonstrations_show_both_habits_at_the_documented_rates(run_code):
    env, rng = Math(size=2000), random.Random(1)
    env.expert_slip_rate = 0.5
    outcomes = []
    for task in env.tasks("test")[: 48 if run_code.tool is None else 400]:
        reward, ran = await play(env, task, rng, run_code)
        outcomes.append((bool(ran), reward))
    with_tool = [reward for used, reward in outcomes if used]
    without = [reward for used, reward in outcomes if not used]
    assert 0.15 < len(with_tool) / len(outcomes) < 0.55
    assert 0.25 < sum(with_tool) / len(with_tool) < 0.75
    assert sum(without) / len(without) < 0.3


def test_the_tool_call_uses_the_prompt_alone():
    env = Math(size=200)
    env.expert_tool_rate, env.expert_slip_rate = 1.0, 0.0
    for task in env.tasks("train"):
        hidden = type(task)(task.prompt, answer="", metadata=task.metadata)
        assert next(env.expert(hidden, random.Random(0)))["tool_calls"]  # type: ignore


async def test_rewards_by_option():
    wrong = Call("python", {}, "c", observation=Observation("NameError", error=True))
    made = Trajectory(Task("?", answer="5"), "e", status="truncated", turns=[
        Turn(0, 0, 0, 0, calls=[wrong]), Turn(1, 0, 0, 0, text=r"\boxed{5}"),
    ])  # fmt: skip
    for options, expected, names in (
        ({}, 1.0, ["correct"]),
        ({"reward": "torl"}, 1.0, ["correct"]),
        ({"error_penalty": 0.5}, 0.5, ["correct", "failed_call"]),
        (
            {"reward": "torl", "error_penalty": 0.5, "unfinished_penalty": 0.25},
            0.25,
            ["correct", "failed_call", "unfinished"],
        ),
    ):
        made.rewards = {}
        await score_episode(made, find_env("agentrl.envs.math:Math", options).own_rewards())
        assert (made.reward, sorted(made.rewards)) == (expected, names)
    made.turns[-1].text = ""
    await score_episode(made, Math(reward="torl", error_penalty=0.5).own_rewards())
    assert made.reward == -1.5


def test_questions_do_not_change_when_families_are_added():
    """The seeds of the warmed-up policy's demonstrations hang on a family's place."""
    assert list(FAMILIES)[:6] == [
        "basic_arithmetic", "chain_sum", "gcd", "lcm", "products", "simple_equations",
    ]  # fmt: skip
    prompts = "".join(task.prompt for split in ("train", "test") for task in Math().tasks(split))
    assert hashlib.sha256(prompts.encode()).hexdigest()[:16] == "73b5853b067695bc"


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_slip_is_nearly_always_wrong(family, run_code):
    tasks = Math(families=[family], size=200).tasks("test")
    printed = await run_code("\n".join(FAMILIES[family].slip(task.prompt) for task in tasks))
    pairs = zip(printed.split(), tasks, strict=True)
    assert sum(math_equal(line, task.answer) for line, task in pairs) <= 0.25 * len(tasks)


# ---- other data ------------------------------------------------------------------------------


def test_any_data_by_the_names_of_its_columns(tmp_path):
    rows = [
        {"problem": "a?", "solution": r"So $x$ is \boxed{\frac{1}{2}}."},
        {"problem": "b?", "solution": "Thus.\n#### 1,200"},
        {"problem": "c?", "solution": r"\sqrt{2}"},
        {"problem": "d?", "solution": 7},
        {"problem": "e?", "solution": 2.5},
    ]
    write(tmp_path / "train.jsonl", {"problem": "z?", "solution": 1})
    write(tmp_path / "test.jsonl", *rows)
    options = {"data": str(tmp_path), "question_column": "problem", "answer_column": "solution"}
    env = find_env("agentrl.envs.math:Math", options)
    golds = [r"\frac{1}{2}", "1,200", r"\sqrt{2}", "7", "2.5"]
    assert [(task.prompt, task.answer) for task in env.tasks("test")] == list(
        zip(["a?", "b?", "c?", "d?", "e?"], golds, strict=True)
    )
    assert [task.answer for task in env.tasks("train")] == ["1"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"q": "?", "answer": "x" * 201}, "201 characters"),
        ({"q": "?", "answer": None}, "'answer' must be text"),
        ({"q": "?", "answer": " "}, "'answer' must be text"),
        ({"q": 3, "answer": "5"}, "'q' must be text"),
        ({"question": "?", "answer": "5"}, "lacks 'q'"),
        ('{"q": "?", "answer": NaN}', "'answer' must be text"),
        ({"q": "?", "answer": True}, "'answer' must be text"),
        ({"q": "?", "answer": 10**400}, "401 characters"),
    ],
)
def test_malformed_rows_of_other_data_are_named_too(tmp_path, bad, words):
    write(tmp_path / "test.jsonl", {"q": "?", "answer": "5"}, bad)
    with pytest.raises(DataError, match=rf"test\.jsonl line 2: .*{words}"):
        Math(data=str(tmp_path), question_column="q").tasks("test")


# ---- GSM8K ------------------------------------------------------------------------------------


def test_a_folder_of_gsm8k(tmp_path):
    write(tmp_path / "train.jsonl", row(1), row(1234), row(5))
    write(tmp_path / "dev.jsonl", row(5), row(-6))
    env = Math(data=str(tmp_path))
    assert [task.answer for task in env.tasks("test")] == ["5", "-6"]
    assert [task.answer for task in env.tasks("train")] == ["1", "1234"]  # 5 is held out
    assert "python" in (env.prompt or "") and env.expert(env.tasks("test")[0], random.Random(0)) is None


def test_a_single_file_keeps_every_eighth_row_for_test(tmp_path):
    env = Math(data=str(write(tmp_path / "rows.jsonl", *(row(n) for n in range(16)))))
    assert [task.answer for task in env.tasks("test")] == ["7", "15"] and len(env.tasks("train")) == 14


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    bad = {"question": "?", "answer": "none"}
    parquet.write_table(pyarrow.Table.from_pylist([row(1), bad]), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet line 2: .*'####'"):
        Math(data=str(tmp_path)).tasks("test")


BAD_ROWS = [
    ({"question": "?", "answer": "five"}, "no '####'"),
    ({"question": "?", "answer": "#### five"}, "'five', which is no number"),
    ({"question": "", "answer": "#### 5"}, "'question' must be text"),
    ({"question": 3, "answer": "#### 5"}, "'question' must be text"),
    ({"question": "?"}, "lacks 'answer'"),
    ("{not json", "not valid JSON"),
    ("[1]", "must be an object"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_ROWS)
def test_a_malformed_row_is_named_by_its_line(tmp_path, bad, words):
    write(tmp_path / "test.jsonl", row(1), "", bad, row(2))
    with pytest.raises(DataError, match=rf"test\.jsonl line 3: .*{words}.*on_bad_row=skip"):
        Math(data=str(tmp_path)).tasks("test")


def test_malformed_rows_can_be_skipped_each_with_its_own_line(tmp_path, caplog):
    bad = {"question": "?", "answer": "five"}
    write(tmp_path / "test.jsonl", bad, row(1), "{", bad, row(2))
    with caplog.at_level(logging.WARNING):
        tasks = Math(data=str(tmp_path), on_bad_row="skip").tasks("test")
    assert [task.answer for task in tasks] == ["1", "2"]
    told = " ".join(record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 3 and all(f"line {n}:" in told for n in (1, 3, 4))


def test_data_that_is_missing_says_what_is_needed(tmp_path):
    write(tmp_path / "train.jsonl", row(1))
    with pytest.raises(DataError, match=r"needs test\.jsonl or dev\.jsonl"):
        Math(data=str(tmp_path)).tasks("test")
    with pytest.raises(DataError, match="no file or folder"):
        Math(data=str(tmp_path / "nowhere")).tasks("test")


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"agentrl-test/absent.*data=<folder>"):
        Math(data="agentrl-test/absent").tasks("test")


@pytest.mark.skipif(not (GSM8K).is_dir(), reason="the data set is not here")
def test_gsm8k_as_published():
    env = Math(data=str(GSM8K))
    assert len(env.tasks("test")) > 500 and len(env.tasks("train")) > 7000
    assert all(task.answer.lstrip("-").replace(".", "", 1).isdigit() for task in env.tasks("train"))
