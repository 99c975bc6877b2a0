"""The sql environment: its questions, its data, and episodes of its expert through the real loop."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, DataError, Task, Trajectory
from agentrl.cli.settings import load
from agentrl.config import load_config
from agentrl.envs.sql import Sql, facts
from agentrl.envs.sql.questions import FORMS
from agentrl.registry import find_env, source_folder
from agentrl.rewards.sql import extract_sql
from agentrl.rollout import ScriptedPolicy
from agentrl.sandbox import NamespaceSandbox

SPIDER = Path(os.environ.get("AGENTRL_SHARED") or Path(__file__).parents[2] / "../shared") / "data/spider"
LIMITS = {"tool_seconds": 60.0, "episode_seconds": 110.0, "max_observation_tokens": 3000,
          "max_trajectory_tokens": 20_000, "retries": 0}  # fmt: skip
in_the_sandbox = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder() -> Path:
    return facts.folder()


def final(sql: str) -> str:
    return f"```sql\n{sql}\n```"


# ---- built-in questions -----------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_splits_are_disjoint_and_repeatable(difficulty):
    env = Sql(difficulty=difficulty, size=400)
    train, test = env.tasks("train"), env.tasks("test")
    prompts = [task.prompt for task in train + test]
    assert (len(train), len(test)) == (400, 100) and len(set(prompts)) == len(prompts)
    assert {FORMS[task.metadata["form"]].level for task in train} == {difficulty}
    again = Sql(difficulty=difficulty, size=400)
    assert again.tasks("train") == train and again.tasks("test") == test
    assert {task.prompt for task in Sql(size=400, seed=1).tasks("test")} != {task.prompt for task in test}
    assert max(len(prompt) for prompt in prompts) < 250


def test_the_facts_are_real(folder):
    database = sqlite3.connect(folder / facts.SEEN)
    one = database.execute("SELECT capital, region FROM country WHERE name = 'France'").fetchall()
    assert one == [("Paris", "Europe")]
    spain = "SELECT n.name FROM border b JOIN country n ON n.code = b.neighbour WHERE b.code = 'sp'"
    assert {"France", "Portugal", "Andorra"} <= {name for (name,) in database.execute(spain)}
    assert database.execute("SELECT count(*) > 180 FROM country").fetchone() == (1,)
    dangling = "SELECT count(*) FROM export WHERE partner NOT IN (SELECT code FROM country)"
    assert database.execute(dangling).fetchone() == (0,)
    database.close()


def test_orders_are_by_columns_without_ties(folder):
    """Else a right statement could give another order."""
    databases = sorted((folder / facts.SEEN).parent.glob("*.sqlite"))
    assert len(databases) == 1 + facts.MADE_UP
    for path in databases:
        database = sqlite3.connect(path)
        for column in ("area", "population"):
            total, different = database.execute(
                f"SELECT count(*), count(DISTINCT {column}) FROM country"
            ).fetchone()
            assert total == different, (path.name, column)
        database.close()


def test_databases_are_made_once_and_alike(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = facts.folder()
    assert made.is_relative_to(tmp_path) and made.name == folder.name
    for path in (folder / "factbook").iterdir():
        dumps = [list(sqlite3.connect(base / "factbook" / path.name).iterdump()) for base in (made, folder)]
        assert dumps[0] == dumps[1]
    before = (made / facts.SEEN).stat().st_mtime_ns
    assert facts.folder() == made and (made / facts.SEEN).stat().st_mtime_ns == before
    assert [entry.name for entry in made.parent.iterdir()] == [made.name]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forms": ["facts"]}, "known: above_average"),
        ({"forms": []}, "empty"),
        ({"difficulty": 9}, "1, 2 or 3"),
        ({"size": 1}, "too small"),
        ({"data": "x", "forms": ["fact"]}, "exclude"),
        ({"databases": "x"}, "is for data="),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"dificulty": 1}, "Did you mean 'difficulty'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.sql:Sql", options)


def test_forms_that_run_out_are_told():
    with pytest.raises(ConfigError, match=r"no more than \d+ questions: lower size"):
        Sql(forms=["neighbours"], size=2000).tasks("train")
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Sql().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Sql())
    config = load_config("sql", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.sql:Sql", config.environment_options)
    assert (folder / "README.md").is_file()


# ---- episodes ---------------------------------------------------------------------------------


async def play(env: Sql, policy, sandbox, task: Task) -> Trajectory:
    runner, _ = make_runner(env, policy, sandbox=sandbox, **LIMITS)
    return await runner.run(task, episode_id="a")


@in_the_sandbox
@pytest.mark.parametrize("form", FORMS)
async def test_the_expert_solves_every_form(form, sandbox):
    env = Sql(forms=[form], size=8)
    for task in env.tasks("test"):
        episode = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
        assert (episode.status, episode.reward) == ("finished", 1.0), (task, episode.metadata)
        *looked, tried = (call.observation for call in episode.calls)
        assert len(looked) == (FORMS[form].level > 1)  # the one table of the first level is known by heart
        for schema in looked:
            assert "CREATE TABLE country" in schema.text and "made_up" not in schema.text
        assert tried.metadata["rows"] and episode.metadata["verdict"]["outcome"] == "same"


@in_the_sandbox
async def test_an_expert_that_knows_nothing_answers_with_statements_of_other_questions(sandbox):
    env = Sql(difficulty=1, size=40, expert_rate=0.0)
    known = {task.answer for task in env.tasks("train")}
    episodes = [await play(env, ScriptedPolicy(make_chat()), sandbox, task) for task in env.tasks("test")]
    assert all(not episode.calls for episode in episodes)
    assert {extract_sql(episode.final_text) for episode in episodes} <= known
    assert sum(episode.reward == 1 for episode in episodes) <= 1


@in_the_sandbox
async def test_what_solves_nothing(sandbox):
    env = Sql(difficulty=1, size=200)
    task = next(task for task in env.tasks("test") if task.metadata["form"] == "fact")
    database = sqlite3.connect(env.suite(task)[0])
    [(answer,)] = database.execute(task.answer).fetchall()
    database.close()
    answers = {
        "": 0.0,
        str(answer): 0.0,
        task.answer: 0.0,  # not in a block
        final(""): 0.0,
        final("SELECT 1"): 0.0,
        final(f"SELECT {answer}"): 0.0,  # what was seen, written down
        final(task.prompt): 0.0,
        final(task.answer): 1.0,
        final(task.answer.replace("country WHERE", "country AS c WHERE")): 1.0,
    }
    for text, reward in answers.items():
        episode = await play(env, Lines(text), sandbox, task)
        assert (episode.status, episode.reward) == ("finished", reward), text


@in_the_sandbox
async def test_bad_format_can_cost(sandbox):
    env = Sql(difficulty=1, size=40, bad_format=-1.0)
    task = env.tasks("test")[0]
    for text, reward in (("Paris", -1.0), (final("SELEC"), 0.0), (final(task.answer), 1.0)):
        assert (await play(env, Lines(text), sandbox, task)).reward == reward


@in_the_sandbox
async def test_a_task_reaches_its_own_database_alone(sandbox, tmp_path):
    for name in ("one", "two"):
        make_database(tmp_path, name, f"in_{name}")
    rows = [
        {"question": "How many?", "query": f"SELECT count(*) FROM in_{n}", "db_id": n} for n in ("one", "two")
    ]
    write(tmp_path / "test.jsonl", *rows)
    env = Sql(data=str(tmp_path))
    outside = Task("?", answer="SELECT 1", metadata={"database": "../secret.sqlite"})
    for task, other in zip(env.tasks("test"), ("two", "one"), strict=True):
        steps = write_call("sql"), write_call("sql", query=f"SELECT * FROM in_{other}"), final(task.answer)
        episode = await play(env, Lines(*steps), sandbox, task)
        assert f"in_{task.metadata['db_id']}" in episode.calls[0].observation.text
        assert "no such table" in episode.calls[1].observation.text and episode.reward == 1.0
    (tmp_path / "secret.sqlite").write_bytes(b"secret")
    with pytest.raises(DataError, match="outside of"):
        await play(env, Lines(write_call("sql")), sandbox, outside)


@in_the_sandbox
async def test_a_database_that_dies_voids_the_episode(sandbox, tmp_path):
    database = make_database(tmp_path, "one", "t")
    write(tmp_path / "test.jsonl", {"question": "?", "query": "SELECT count(*) FROM t", "db_id": "one"})
    env = Sql(data=str(tmp_path))
    [task] = env.tasks("test")
    database.write_bytes(b"\0" * 8192)
    episode = await play(env, Lines(final(task.answer)), sandbox, task)
    assert (episode.status, episode.reward) == ("void", None)


# ---- Spider's form ----------------------------------------------------------------------------


def make_database(folder: Path, name: str, table: str) -> Path:
    path = folder / "database" / name / f"{name}.sqlite"
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.executescript(f"CREATE TABLE {table} (a); INSERT INTO {table} VALUES (1), (2);")
    database.close()
    return path


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


GOOD = {"question": "How many?", "query": "SELECT count(*) FROM t WHERE a > = 1", "db_id": "one"}


def test_a_folder_and_a_file(tmp_path):
    make_database(tmp_path, "one", "t")
    write(tmp_path / "train.jsonl", GOOD, {**GOOD, "question": "How few?"})
    path = write(tmp_path / "dev.jsonl", GOOD)
    env = Sql(data=str(tmp_path))
    assert [task.prompt for task in env.tasks("test")] == ["How many?"]
    assert [task.prompt for task in env.tasks("train")] == ["How few?"]  # the other is held out
    assert env.tasks("test")[0].answer == "SELECT count(*) FROM t WHERE a >= 1"
    write(path, *({**GOOD, "question": str(n)} for n in range(16)))
    env = Sql(data=str(path), databases=str(tmp_path / "database"))
    assert [task.prompt for task in env.tasks("test")] == ["7", "15"] and len(env.tasks("train")) == 14


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_the_presets_take_data_instead_of_built_in_questions(tmp_path, preset):
    make_database(tmp_path, "one", "t")
    write(tmp_path / "dev.jsonl", GOOD)
    _, env = load("sql", [f"data={tmp_path}", f"preset={preset}"])
    assert isinstance(env, Sql) and env.expert_rate == 1.0
    assert [task.prompt for task in env.tasks("test")] == ["How many?"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({**GOOD, "db_id": "two"}, "there is no database .*two.sqlite"),
        ({**GOOD, "db_id": "../one"}, "no plain name"),
        ({**GOOD, "query": ""}, "'query' must be text"),
        ({**GOOD, "question": 3}, "'question' must be text"),
        ({"question": "?"}, "lacks 'query', 'db_id'"),
        ("{not json", "not valid JSON"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, bad, words, caplog):
    make_database(tmp_path, "one", "t")
    write(tmp_path / "test.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(DataError, match=rf"test\.jsonl line 3: .*{words}.*on_bad_row=skip"):
        Sql(data=str(tmp_path)).tasks("test")
    with caplog.at_level(logging.WARNING):
        assert len(Sql(data=str(tmp_path), on_bad_row="skip").tasks("test")) == 2
    assert "line 3" in caplog.text


def test_data_that_is_missing_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match="no folder .*database"):
        Sql(data=str(tmp_path))
    with pytest.raises(ConfigError, match="databases="):
        Sql(data="agentrl-test/absent")
    make_database(tmp_path, "one", "t")
    with pytest.raises(DataError, match=r"needs test\.jsonl or dev\.jsonl"):
        Sql(data=str(tmp_path)).tasks("test")
    with pytest.raises(DataError, match="no file or folder"):
        Sql(data=str(tmp_path / "none.jsonl"), databases=str(tmp_path / "database")).tasks("test")


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"agentrl-test/absent.*data=<folder>"):
        Sql(data="agentrl-test/absent", databases=str(tmp_path)).tasks("test")


@in_the_sandbox
@pytest.mark.skipif(not SPIDER.is_dir(), reason="the data set is not here")
async def test_the_expert_solves_spider_as_published(sandbox):
    env = Sql(data=str(SPIDER))
    train, test = env.tasks("train"), env.tasks("test")
    assert len(test) > 50 and len(train) > 300
    for task in [*train[::80], *test[::20]]:
        episode = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
        assert (episode.status, episode.reward) == ("finished", 1.0), (task, episode.metadata)
