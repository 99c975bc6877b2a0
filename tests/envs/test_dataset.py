"""Environments from any dataset: columns, templates, examples, tools per row, malformed rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from rollout_support import Lines, make_runner, write_call

from agentrl import ConfigError, DataError, DefinitionError, Task, read_split
from agentrl.config import load_config
from agentrl.errors import NotFound
from agentrl.registry import find_env, source_folder

MINE = '''
from agentrl import reward, tool

@reward
def exact(episode) -> float:
    return float(episode.final_text == episode.task.answer)

@tool
def twice(number: int) -> int:
    """Twice a number."""
    return 2 * number
'''


def rows(path: Path, *content: Any) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in content))
    return str(path)


def problem(n: int, **more: Any) -> dict[str, Any]:
    return {"problem": f"What is {n}?", "solution": f"It is {n}\n#### {n}", "name": f"p{n}", **more}


COLUMNS = {"prompt_column": "problem", "answer_column": "solution"}


def make(data: str, **options: Any) -> Any:
    return find_env("agentrl.envs.dataset", {**COLUMNS, "data": data, **options})


def test_columns_become_tasks(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl", *(problem(n, level=n % 3) for n in range(16)))
    env = make(data, answer_pattern="#### (.+)", id_column="name", metadata_columns=["level"])
    assert env.tasks("test") == [
        Task("What is 7?", "7", id="p7", metadata={"level": 1}),
        Task("What is 15?", "15", id="p15", metadata={"level": 0}),
    ]
    assert len(env.tasks("train")) == 14
    assert make(data, answer_column=None).tasks("test")[0].answer is None
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        env.tasks("dev")


def test_answers_may_be_any_json_data(tmp_path: Path) -> None:
    data = rows(
        tmp_path / "rows.jsonl", *({"problem": f"{n}", "solution": [n, {"x": None}]} for n in range(8))
    )
    assert make(data).tasks("test")[0].answer == [7, {"x": None}]


def test_a_folder_of_parquet_whose_prompts_do_not_overlap(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    for name, numbers in {"train": range(10), "validation": range(8, 12)}.items():
        parquet.write_table(
            pyarrow.Table.from_pylist([problem(n) for n in numbers]), tmp_path / f"{name}.parquet"
        )
    env = make(str(tmp_path))
    assert [len(env.tasks(split)) for split in ("train", "test")] == [8, 4]


def test_a_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    sets = {"test": [problem(1), problem(2, problem=None)], "train": [problem(n) for n in range(8)]}
    asked = []

    def load(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, config, split))
        return datasets.Dataset.from_list(sets[split])

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["easy", "hard"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: list(sets))
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"some/set \(test\) row 2: 'problem' must be text"):
        make("some/set", config="hard").tasks("test")
    env = make("some/set", config="hard", on_bad_row="skip")
    assert [task.prompt for task in env.tasks("test")] == ["What is 1?"] and len(env.tasks("train")) == 7
    del sets["test"]
    assert [row["name"] for row in read_split("some/set", "test")] == ["p7"]
    assert len(list(read_split("some/set", "train"))) == 7
    assert asked[0] == ("some/set", "hard", "test") and asked[-1] == ("some/set", None, "train")
    for prefer, config in (("hard", "hard"), ("distractor", None)):  # taken only where it is offered
        list(read_split("some/set", "train", prefer=prefer))
        assert asked[-1] == ("some/set", config, "train")


BAD = [
    ("{not json", "not valid JSON"),
    ("[1]", "must be an object"),
    ({"problem": "?"}, "lacks 'solution', 'tools'"),
    (problem(1, problem=" ", tools=None), "'problem' must be text"),
    (problem(1, solution=None, tools=None), "'solution' is empty"),
    (problem(1, solution="one", tools=None), "'solution' does not match '#### "),
    (problem(1, tools="python"), "'tools' must be a list of names"),
]


@pytest.mark.parametrize(("bad", "words"), BAD)
def test_a_malformed_row_is_told_or_left_out(tmp_path: Path, caplog: Any, bad: Any, words: str) -> None:
    data = rows(tmp_path / "test.jsonl", problem(1, tools=[]), bad, problem(2, tools=["python"]))
    options = {"answer_pattern": "#### (.+)", "tools_column": "tools"}
    with pytest.raises(DataError, match=rf"test\.jsonl line 2: .*{words}.*on_bad_row=skip"):
        make(str(tmp_path), **options).tasks("test")
    with caplog.at_level(logging.WARNING):
        tasks = make(str(tmp_path), **options, on_bad_row="skip").tasks("test")
    assert [task.metadata for task in tasks] == [{}, {"tools": ["python"]}]
    assert f"skipped {data} line 2: " in caplog.text


def test_missing_data_says_what_is_needed(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", problem(1))
    with pytest.raises(DataError, match=r"needs test\.jsonl or dev\.jsonl or validation\.jsonl"):
        make(str(tmp_path)).tasks("test")
    with pytest.raises(ConfigError, match="needs the option 'data'"):
        find_env("agentrl.envs.dataset", {})


# ---- prompts and examples


def test_templates_and_examples_open_the_dialogue(tmp_path: Path) -> None:
    (tmp_path / "system.j2").write_text("Think.\n{% if metadata.level %}\nIt is hard.\n{% endif %}\n")
    data = rows(tmp_path / "rows.jsonl", *(problem(n, level=1) for n in range(8)))
    env = make(
        data,
        prompt=str(tmp_path / "system.j2"),
        template="{{ problem }} ({{ name }})",
        examples=[problem(50)],
        example_template="{{ solution }}!",
        metadata_columns=["level"],
        answer_pattern="#### (.+)",
    )
    env_level = make(data, examples=rows(tmp_path / "shots.jsonl", problem(60)), answer_pattern="#### (.+)")
    [task] = env.tasks("test")
    assert [(message["role"], message["content"]) for message in env.messages(task)] == [
        ("system", "Think.\nIt is hard.\n"),
        ("user", "What is 50? (p50)"),
        ("assistant", "It is 50\n#### 50!"),
        ("user", "What is 7? (p7)"),
    ]
    assert [message["content"] for message in env_level.messages(env_level.tasks("test")[0])][1:3] == [
        "What is 60?",
        "60",
    ]


def test_a_template_cannot_give_the_answer_away(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl", *(problem(n) for n in range(8)))
    with pytest.raises(DefinitionError, match="line 1: 'solution' is undefined.* name, problem"):
        make(data, template="{{ solution }}").tasks("test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": "python"}, r"tools='python' must be a list"),
        ({"rewards": "exact"}, "must be a list"),
        ({"answer_pattern": "("}, "no regular expression"),
        ({"answer_pattern": "####"}, "needs one group"),
        ({"examples": [{"problem": "?"}]}, "Example 1 does not fit: it lacks 'solution'"),
        ({"examples": [{"problem": "?"}], "answer_column": None}, "need an example_template"),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"colum": 1}, "takes no option 'colum'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make("rows.jsonl", **options)


# ---- in the loop


async def test_tools_and_rewards_by_name_and_tools_by_row(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    content = [
        {"q": f"Twice {n}?", "a": f"{2 * n}", "may": ["twice"] if n == 7 else ["other"]} for n in range(16)
    ]
    (tmp_path / "others.py").write_text(MINE.replace("twice", "other"))
    env = find_env(
        "agentrl.envs.dataset",
        {
            "data": rows(tmp_path / "rows.jsonl", *content), "prompt_column": "q", "answer_column": "a",
            "tools": [f"{tmp_path}/mine.py", f"{tmp_path}/others.py"], "tools_column": "may",
            "rewards": [f"{tmp_path}/mine.py:exact"], "prompt": "",
        },
    )  # fmt: skip
    runner, _ = make_runner(env, Lines(write_call("twice", number=7), "14"))
    seven, fifteen = [await runner.run(task, episode_id=task.id) for task in env.tasks("test")]
    assert (seven.calls[0].status, seven.calls[0].observation.text, seven.reward) == ("ok", "14", 1.0)
    assert (fifteen.calls[0].status, fifteen.reward) == ("unknown", 0.0)
    assert fifteen.rewards == {"exact": 0.0}


def test_a_reward_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no reward 'exct'"):
        make(rows(tmp_path / "rows.jsonl", problem(1)), rewards=["exct"]).own_rewards()


def test_its_settings_are_read_by_name() -> None:
    env = find_env("agentrl.envs.dataset", {"data": "rows.jsonl"})
    config = load_config(
        "dataset", ["data=rows.jsonl", "env_options.tools=[python]"], folder=source_folder(env)
    )
    assert config.rollout.max_prompt_tokens == 768
    assert config.environment_options == {"data": "rows.jsonl", "tools": ["python"]}
