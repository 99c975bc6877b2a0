"""The route environment, played by the real loop with real endpoints."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import socket
from typing import Any

import aiohttp
import pytest
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, DataError, InfrastructureError, Task, Trajectory
from agentrl.config import load_config
from agentrl.envs.route import Route, towns
from agentrl.envs.route.scripted import IGNORANT, POOL, Knowledge, Known, ScriptedModels, reply
from agentrl.registry import find_env, source_folder
from agentrl.rewards.route import CostRange
from agentrl.rollout import ScriptedPolicy, succeeded
from agentrl.tools import router as router_module

ORACLE = "<think>Hm.</think>" + write_call("router", model="oracle", query="?")


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(n):
    return {"question": f"Who is number {n}?", "answer": f"Name {n}"}


async def play(env, policy, tasks, **limits) -> list[Trajectory]:
    runner, _ = make_runner(env, policy, retries=0, **limits)
    return await asyncio.gather(
        *(runner.run(task, episode_id=f"e{i}", seed=i) for i, task in enumerate(tasks))
    )


def router(env) -> Any:
    return env.tools[0]


def ports_open(env) -> bool:
    return router(env).scripted._starting is not None


def asked(episode) -> str:
    """The model that was asked, in an episode of one call."""
    [call] = episode.calls
    return call.arguments["model"]


# ---- episodes ---------------------------------------------------------------------------------


async def test_the_expert_solves_the_tasks_by_asking_whom_it_should():
    env = Route(size=120, cost_weight=0.5, cost_range=[0, 10])
    env.expert_ask_rate = env.expert_route_rate = 1.0
    tasks = env.tasks("test")
    played = await play(env, ScriptedPolicy(make_chat()), tasks)
    assert {episode.status for episode in played} == {"finished"}
    assert all(succeeded(env, episode) for episode in played)
    for episode in played:
        [call] = episode.calls
        told = episode.metadata["cost"]
        price = POOL[asked(episode)].price
        assert told["raw"] == call.observation.metadata["completion_tokens"] * price > 0
        assert episode.reward == 0.5 + 0.5 * CostRange(0, 10).score(told["raw"])
    assert {(episode.task.metadata["topic"], asked(episode)) for episode in played} == {
        ("founding", "annalist"),
        ("river", "pilot"),
        ("trade", "sage"),
    }


async def test_by_default_the_price_is_not_counted_and_the_expert_gets_all():
    env = Route(size=16)
    env.expert_ask_rate = env.expert_route_rate = 1.0
    assert {
        episode.reward for episode in await play(env, ScriptedPolicy(make_chat()), env.tasks("test"))
    } == {1.0}


async def test_demonstrations_leave_something_to_learn():
    env = Route(size=800)
    played = await play(env, ScriptedPolicy(make_chat()), env.tasks("test"))
    solved = sum(succeeded(env, episode) for episode in played) / len(played)
    assert 0.2 < solved < 0.65 and all(episode.rewards["form"] == 0 for episode in played)
    assert {asked(episode) for episode in played if episode.calls} == set(POOL)


@pytest.mark.parametrize(
    ("lines", "reward"),
    [
        ([""], -1.0),
        (["I do not know."], -1.0),
        (["<think>Hm.</think><answer></answer>"], 0.0),
        (["<think>Hm.</think><answer>the</answer>"], 0.0),
        (["<think>Hm.</think><answer>1500</answer>"], 0.0),
        (["<answer>1</answer>" * 900], -1.0),
        ([ORACLE, "<think>So.</think><answer>1</answer>"], -1.0),
        ([write_call("router", model="sage", query="?")], -1.0),  # and again, to the limit of turns
    ],
)  # fmt: skip
async def test_doing_nothing_earns_nothing(lines, reward):
    env = Route(size=32)
    for episode in await play(env, Lines(*lines), env.tasks("test"), max_turns=3):
        assert episode.reward == reward and not succeeded(env, episode)


async def test_an_unknown_model_is_answered_with_the_names():
    env = Route(size=4)
    [episode] = await play(env, Lines(ORACLE, "<answer></answer>"), env.tasks("test"))
    assert episode.calls[0].status == "error"
    assert "There are: sage, annalist, pilot, novice" in episode.calls[0].observation.text
    assert episode.metadata["form_problem"] == "there is no model 'oracle'"


async def test_the_scripted_models_live_as_long_as_the_episodes():
    env = Route(size=64)
    env.expert_ask_rate = 1.0
    policy = ScriptedPolicy(make_chat())
    await play(env, policy, env.tasks("test"))
    assert not ports_open(env)
    await play(env, policy, env.tasks("test"))
    assert not ports_open(env)


def test_an_environment_serves_several_event_loops():
    env = Route(size=64)
    env.expert_ask_rate = env.expert_route_rate = 1.0
    for _ in range(2):
        played = asyncio.run(play(env, ScriptedPolicy(make_chat()), env.tasks("test")))
        assert {episode.reward for episode in played} == {1.0}


async def test_an_endpoint_that_is_gone_voids_the_episode(monkeypatch):
    monkeypatch.setattr(router_module, "FIRST_WAIT_SECONDS", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        env = Route(size=4, models=[{"name": "far", "url": url, "price": 1}], router={"retries": 1})
        [episode] = await play(env, Lines(write_call("router", model="far", query="?")), env.tasks("test"))
    assert episode.status == "void" and episode.reward is None and not episode.rewards
    assert "'far'" in episode.reason and "2 tries" in episode.reason


async def test_an_endpoint_that_hangs_voids_the_episode_and_costs_are_not_learned():
    async def hang(reader, writer):
        await reader.read()  # until the client gives up
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        models = [{"name": "far", "url": url, "price": 1}]
        env = Route(size=4, models=models, router={"retries": 0, "seconds": 0.1})
        [episode] = await play(env, Lines(write_call("router", model="far", query="?")), env.tasks("test"))
    assert episode.status == "void" and "no answer in 0.1 s" in episode.reason


# ---- the scripted models ----------------------------------------------------------------------

KNOWLEDGE = Knowledge({f"Question {n}?": Known(str(n), "river" if n % 2 else "trade") for n in range(300)})


def right(name, questions):
    return sum(reply(name, f"question {n}", KNOWLEDGE) == str(n) for n in questions) / len(questions)


def test_scripted_models_have_the_skill_they_are_said_to_have():
    rivers, trade = range(1, 300, 2), range(0, 300, 2)
    assert right("sage", rivers) == right("sage", trade) == right("pilot", rivers) == 1.0
    assert right("pilot", trade) == 0.0 and reply("pilot", "Question 2?", KNOWLEDGE) == IGNORANT
    assert 0.2 < right("novice", range(300)) < 0.5
    assert {reply("novice", f"Question {n}?", KNOWLEDGE) for n in range(300)} <= set(map(str, range(300)))
    assert all(reply(name, "Anything else?", KNOWLEDGE) == IGNORANT for name in POOL)
    assert reply("novice", "A?", Knowledge({"A?": Known("1")})) in (
        "1",
        IGNORANT,
    )  # there is nothing to bluff with


async def test_the_scripted_endpoint_answers_nonsense_as_real_ones_do():
    models = ScriptedModels(lambda: KNOWLEDGE)
    url = await models.enter()
    try:
        async with aiohttp.ClientSession() as client:
            for body, status in [("{", 400), ("[]", 400), ('{"model": "sage", "messages": []}', 400),
                                 ('{"model": "x", "messages": [{"content": "?"}]}', 404)]:  # fmt: skip
                async with client.post(f"{url}/chat/completions", data=body) as response:
                    assert response.status == status and (await response.json())["error"]["message"]
    finally:
        await models.leave()


async def test_models_that_cannot_be_started_say_so_to_everybody(monkeypatch):
    async def refuse(site):
        raise OSError("no ports left")

    monkeypatch.setattr("aiohttp.web.TCPSite.start", refuse)
    models = ScriptedModels(lambda: KNOWLEDGE)
    for problem in await asyncio.gather(models.enter(), models.enter(), return_exceptions=True):
        assert isinstance(problem, InfrastructureError) and "no ports left" in str(problem)
        await models.leave()
    monkeypatch.undo()
    assert (await models.enter()).startswith("http://127.0.0.1:")
    await models.leave()


# ---- tasks ------------------------------------------------------------------------------------


def test_made_up_splits_are_disjoint_balanced_and_repeatable():
    env = Route(size=600)
    train, test = env.tasks("train"), env.tasks("test")
    names = re.findall(r"town (\d+)", " ".join(task.prompt for task in train + test))
    assert (len(train), len(test)) == (600, 150) and len(set(names)) == len(names)
    assert {task.metadata["topic"] for task in test} == set(towns.TOPICS)
    assert Route(size=600).tasks("train") == train
    other = Route(size=2400, seed=1)
    assert other.tasks("test")[:150] == test and other.tasks("train")[:600] != train
    assert Route(size=towns.MOST_TRAIN).tasks("train")


def test_prompts_are_short():
    env = Route(size=600)
    prompts = [make_chat().prompt(env.messages(task), []) for task in env.tasks("train")]
    assert max(map(len, prompts)) < 256


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 1}, "from 4 to"),
        ({"on_bad_row": "ignore"}, "'stop' or 'skip'"),
        ({"quality": "bleu"}, "'exact' or 'f1'"),
        ({"cost_weight": 2}, "from 0 to 1"),
        ({"cost_window": 0}, "0 costs"),
        ({"cost_range": [2, 1]}, "lower one first"),
        ({"cost_range": [1]}, "two numbers"),
        ({"router": {"second": 1}}, "options of the router do not fit.*'second'"),
        ({"models": [{"name": "a"}]}, "url: Field required"),
        ({"modles": []}, "Did you mean 'models'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.route:Route", options)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Route().tasks("dev")


@pytest.mark.parametrize("words", [["preset=cpu"], ["preset=gpu"], ["preset=cpu", "data=x"]])
def test_train_yaml_fits_the_configuration_and_the_environment(words):
    folder = source_folder(Route())
    config = load_config("route", words, folder=folder)
    env = find_env("agentrl.envs.route:Route", config.environment_options)
    assert router(env).seconds < config.rollout.episode_seconds
    assert (folder / "README.md").is_file()


def test_models_can_be_given_on_the_command_line():
    models = '[{name: a, url: "http://h/v1", price: 1}, {name: b, url: "http://h/v1", price: 2}]'
    config = load_config("route", [f"env_options.models={models}"], folder=source_folder(Route()))
    env = find_env("agentrl.envs.route:Route", config.environment_options)
    assert list(router(env).models) == ["a", "b"] and env.prompt == Route.long_prompt
    assert env.expert(Task("?", answer="1"), random.Random(0)) is None


# ---- data -------------------------------------------------------------------------------------


async def test_a_folder_of_questions_is_played(tmp_path):
    train = [
        {"q": "Who is number 7?", "a": "Seven"},
        {"q": "Who is two?", "a": ["Two", "II"]},
        {"q": "Five?", "a": 5},
    ]
    write(tmp_path / "train.jsonl", *train)
    write(tmp_path / "dev.jsonl", {"q": "Who is number 7?", "a": "Seven"})
    env = Route(data=str(tmp_path), question="q", answer="a")
    assert [task.answer for task in env.tasks("test")] == ["Seven"]
    assert [task.answer for task in env.tasks("train")] == [["Two", "II"], "5"]  # 7 is held out
    env.expert_ask_rate = env.expert_route_rate = 1.0
    played = await play(env, ScriptedPolicy(make_chat()), env.tasks("train"))
    assert [episode.reward for episode in played] == [1.0, 1.0]


def test_a_single_file_keeps_every_eighth_row_for_test(tmp_path):
    env = Route(data=str(write(tmp_path / "rows.jsonl", *(row(n) for n in range(16)))))
    assert [task.answer for task in env.tasks("test")] == ["Name 7", "Name 15"] and len(
        env.tasks("train")
    ) == 14


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row(1), row(2)]), tmp_path / "test.parquet")
    assert [task.answer for task in Route(data=str(tmp_path)).tasks("test")] == ["Name 1", "Name 2"]


BAD_ROWS = [
    ({"question": "", "answer": "x"}, "'question' has to be text"),
    ({"question": 3, "answer": "x"}, "'question' has to be text, not '3'"),
    ({"question": "Why?", "answer": None}, r"'answer' of the question 'Why\?' has to be"),
    ({"question": "Why?", "answer": []}, "has to be text, a number or a list"),
    ({"question": "Why?", "answer": ["x", {}]}, "has to be text, a number or a list"),
    ({"question": "Why?", "answer": "the"}, "no word to compare with: 'the'"),
    ({"question": "Why?"}, "lacks 'answer'"),
    ("{not json", "not valid JSON"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_ROWS)
def test_a_malformed_row_is_named_or_skipped(tmp_path, caplog, bad, words):
    write(tmp_path / "test.jsonl", row(1), bad, row(2))
    with pytest.raises(DataError, match=rf"test\.jsonl.*{words}.*on_bad_row=skip"):
        Route(data=str(tmp_path)).tasks("test")
    with caplog.at_level(logging.WARNING):
        tasks = Route(data=str(tmp_path), on_bad_row="skip").tasks("test")
    assert [task.answer for task in tasks] == ["Name 1", "Name 2"] and len(caplog.records) == 1


async def test_data_that_is_missing_says_what_is_needed_and_stops_an_episode(tmp_path):
    write(tmp_path / "train.jsonl", row(1))
    with pytest.raises(DataError, match=r"needs test\.jsonl or dev\.jsonl"):
        Route(data=str(tmp_path)).tasks("test")
    with pytest.raises(DataError, match="no file or folder"):
        Route(data=str(tmp_path / "nowhere")).tasks("test")
    env = Route(data=str(tmp_path))  # whose models cannot know what is in no file
    with pytest.raises(DataError, match=r"needs test\.jsonl"):
        await play(env, Lines("x"), [Task("?", answer="1")])
    assert not ports_open(env)


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"agentrl-test/absent.*data=<folder>"):
        Route(data="agentrl-test/absent").tasks("test")
