"""The web environment: MiniWoB's pages and the shop, played through the real loop in a real browser."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import psutil
import pytest
from rollout_support import Lines, make_chat, make_runner, write_call
from small_sites import main_processes

from agentrl import ConfigError, Expert, SessionLost, Task, ToolContext, Trajectory, say
from agentrl.config import load_config
from agentrl.envs.web import Web
from agentrl.envs.web.miniwob import pages_folder
from agentrl.envs.web.miniwob_play import SCRIPTS
from agentrl.envs.web.seen import Seen
from agentrl.envs.web.shop import ShopPlay
from agentrl.envs.web.shop_tasks import KINDS
from agentrl.errors import ModelUnsupported
from agentrl.registry import find_env, source_folder
from agentrl.rollout import ScriptedPolicy

LIMITS = {"tool_seconds": 90.0, "episode_seconds": 300.0, "max_observation_tokens": 4000, "max_turns": 40,
          "max_prompt_tokens": 8000, "max_trajectory_tokens": 60_000, "retries": 0}  # fmt: skip
SLOW_MACHINE = {"load_seconds": 60.0}
TOGETHER = 6
METADATA = "() => ({done: WOB_DONE_GLOBAL, env_reward: WOB_REWARD_GLOBAL, raw_reward: WOB_RAW_REWARD_GLOBAL})"


def make(where: str = "miniwob", **options: Any) -> Web:
    return Web(where=where, browser=SLOW_MACHINE, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def miniwob() -> Iterator[Web]:
    env = make()
    yield env
    asyncio.run(env.browser.close())


@pytest.fixture(scope="module")
def shop() -> Iterator[Web]:
    env = make("shop")
    yield env
    asyncio.run(env.browser.close())


async def play(env: Web, policy: Any, task: Task, **limits: Any) -> Trajectory:
    runner, _ = make_runner(env, policy, **{**LIMITS, **limits})
    return await runner.run(task, episode_id=task.id)


def one_of(env: Web, kind: str, number: int = 0) -> Task:
    return [task for task in env.tasks("test") if task.metadata["kind"] == kind][number]


# ---- tasks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["miniwob", "shop"])
def test_splits_are_disjoint_and_repeatable(where):
    env = make(where, size=400)
    train, test = env.tasks("train"), env.tasks("test")
    seeds = [task.metadata["seed"] for task in train + test]
    assert (len(train), len(test)) == (400, 100) and len(set(seeds)) == len(seeds)
    assert {task.metadata["kind"] for task in train} == set(env.kinds)
    assert make(where, size=400).tasks("train") == train
    others = {task.metadata["seed"] for task in make(where, size=400, seed=1).tasks("train")}
    assert not others & set(seeds)


def test_at_least_twenty_tasks_of_miniwob_ship_and_all_have_pages():
    assert len(SCRIPTS) >= 40
    assert all((pages_folder() / "miniwob" / f"{name}.html").is_file() for name in SCRIPTS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": "elsewhere"}, "miniwob, shop"),
        ({"kinds": ["click-tset"]}, "known: choose-list"),
        ({"kinds": []}, "empty"),
        ({"size": 1}, "at least 4"),
        ({"expert_rate": 2}, "between 0 and 1"),
        ({"actions": ["clik"]}, "it has goto, click"),
        ({"kindz": ["product"]}, "Did you mean 'kinds'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.web:Web", options)
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Web().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Web())
    config = load_config("web", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.web:Web", config.environment_options)
    assert (folder / "README.md").is_file()


# ---- MiniWoB ----------------------------------------------------------------------------------


def rewards_of_miniwob() -> ModuleType:
    """Its own module of reward functions, without the rest of the package, which asks for Selenium."""
    spec = importlib.util.spec_from_file_location("miniwob_reward", pages_folder().parent / "reward.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Witness(Web):
    """Notes what the page says of itself when it is judged."""

    said: dict[str, dict[str, Any]]

    async def _outcome(self, episode=None):
        if episode is not None:
            assert self.opened is not None
            self.said[episode.task.id] = await self.opened.do(self.opened.page.evaluate(METADATA))
        return await super()._outcome(episode)


def random_clicks(scene: Any, rng: Random) -> Expert:
    page = Seen(scene.env.shown)
    for _ in range(3):
        if not page.items:
            break
        answers = yield _click(rng.choice(page.items).id)
        page = Seen(answers[0])
    yield say("Done.")


def _click(number: int) -> dict[str, Any]:
    function = {"name": "click", "arguments": {"id": number}}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


@pytest.mark.timeout(900)
async def test_every_task_is_solved_and_miniwobs_own_reward_agrees():
    theirs, env = rewards_of_miniwob(), Witness(browser=SLOW_MACHINE, size=8 * len(SCRIPTS))
    env.said, places = {}, asyncio.Semaphore(TOGETHER)
    tasks = env.tasks("test")[: len(SCRIPTS)]
    assert {task.metadata["kind"] for task in tasks} == set(SCRIPTS)

    async def judged(policy: Any, task: Task) -> Trajectory:
        async with places:
            episode = await play(env, policy, task)
        said = env.said.pop(task.id)
        assert episode.rewards["score"] == theirs.get_raw_reward(said), task.id
        assert (episode.rewards["solved"] == 1) == (theirs.get_binary_reward(said) == 1), task.id
        assert (episode.rewards["score"] > 0) == (theirs.get_original_reward(said) > 0), task.id
        return episode

    experts = await asyncio.gather(*(judged(ScriptedPolicy(make_chat()), task) for task in tasks))
    assert not [
        e.task.id for e in experts if (e.status, e.reward, e.rewards["solved"]) != ("finished", 1.0, 1.0)
    ]
    at_random = ScriptedPolicy(make_chat(), random_clicks)
    others = await asyncio.gather(*(judged(at_random, task) for task in tasks[::5]))
    solved = sum(episode.rewards["solved"] for episode in others)
    assert solved < len(others) / 3 and any(episode.rewards["score"] < 0 for episode in others)
    nothing = await asyncio.gather(*(judged(Lines("Done."), task) for task in tasks[:5]))
    assert {episode.reward for episode in nothing} == {0.0}
    await env.browser.close()


async def test_the_first_page_stands_in_the_prompt_and_ends_with_it(miniwob):
    task = one_of(miniwob, "click-button")
    episode = await play(miniwob, Lines("Done."), task)
    assert (
        episode.messages[1]["content"].startswith('Click on the "')
        and "] button " in episode.messages[1]["content"]
    )
    assert "Last reward" not in episode.messages[1]["content"]  # the page's own display is hidden
    short = make(opening=40)
    short.browser, short.tools = miniwob.browser, miniwob.tools
    episode = await play(short, Lines(write_call("read"), "Done."), task)
    assert episode.messages[1]["content"].endswith("(more: read)")


async def test_an_episode_that_was_judged_is_over(miniwob):
    """MiniWoB offers the next problem at once; its reward would be another's."""
    task = one_of(miniwob, "click-test-2")
    env = make(kinds=["click-test-2"])
    page = Seen("[1] button ONE\n[2] button TWO")
    wrong = write_call("click", id=page.first("button", "TWO").id)
    right = write_call("click", id=page.first("button", "ONE").id)
    episode = await play(env, Lines(wrong + "\n" + right, right), task)
    assert (episode.status, len(episode.turns)) == ("finished", 1)
    assert episode.reward == -1.0 and "Not run" in episode.calls[1].observation.text
    await env.browser.close()


async def test_a_model_cannot_write_its_own_reward(miniwob, shop):
    """No tool runs scripts, and a page that was left or loaded anew is worth nothing."""
    hack = "WOB_RAW_REWARD_GLOBAL=1;WOB_DONE_GLOBAL=true"
    env = make(kinds=["enter-text"], actions=["goto", "type", "click", "read"])
    task = env.tasks("test")[0]
    lines = [
        write_call("goto", url=f"javascript:{hack}"),
        write_call("goto", url=f"data:text/html,<script>opener.{hack}</script>"),
        write_call("type", id=1, text=f"<img src=x onerror='{hack}'>", enter=True),
        write_call("type", id=1, text=f"javascript:{hack}"),
        "Done.",
    ]
    episode = await play(env, Lines(*lines), task)
    assert (episode.status, episode.reward, episode.rewards["solved"]) == ("finished", 0.0, 0.0)
    assert all("Only addresses" in call.observation.text for call in episode.calls[:2])
    for name in ("enter-text", "click-test"):  # anew, or another one: begun by its own START, it would pay
        again = await play(env, Lines(write_call("goto", url=f"/miniwob/{name}.html"), "Done."), task)
        assert (again.reward, again.metadata["outcome"]["reason"]) == (0.0, "the page was left")
        assert len(again.turns) == 1
    await env.browser.close()


# ---- the shop -----------------------------------------------------------------------------------


@pytest.mark.timeout(300)
async def test_every_errand_is_solved_and_nothing_else_is_paid_for(shop):
    for kind in KINDS:
        task = one_of(shop, kind)
        solved = await play(shop, ScriptedPolicy(make_chat()), task)
        assert (solved.status, solved.reward) == ("finished", 1.0), (task.id, solved.metadata)
        assert (await play(shop, Lines("Done."), task)).reward == 0.0


async def test_more_than_was_asked_for_is_wrong(shop):
    task = one_of(shop, "product")
    store = ShopPlay("product", task.metadata["seed"]).site.store

    def expert_and_more(scene: Any, rng: Random) -> Expert:
        script = scene.env.expert(scene.task, rng)
        answers: list[str] = []
        while True:
            message = script.send(answers) if answers else next(script)
            if "tool_calls" not in message:
                break
            answers = yield message
        other = next(p for p in store.products if p.name not in scene.env.asked)
        call = {"name": "goto", "arguments": {"url": f"/product/{other.id}"}}
        answers = yield {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
        yield _click(Seen(answers[0]).first("button", "Add to cart").id)
        yield say("Done.")

    episode = await play(shop, ScriptedPolicy(make_chat(), expert_and_more), task)
    assert len(episode.calls) > 3 and episode.reward == 0.0
    assert episode.metadata["outcome"]["reason"] == "the shop's state"


async def test_the_account_needs_the_password(shop):
    task = one_of(shop, "cancel")
    lines = [write_call("goto", url="/account"), write_call("type", id=5, text="0000", enter=True), "Done."]
    episode = await play(shop, Lines(*lines), task)
    assert "Cancel order" not in episode.calls[1].observation.text
    assert "password is wrong" in episode.calls[1].observation.text


async def test_what_is_written_is_no_markup(shop):
    task = one_of(shop, "product")
    lines = [write_call("goto", url="/search?q=%3Cscript%3Edocument.title=1%3C/script%3E"), "Done."]
    episode = await play(shop, Lines(*lines), task)
    assert "<script>document.title=1</script>" in episode.calls[0].observation.text


def test_shops_differ_by_their_seeds_and_are_repeatable():
    one, same, other = (ShopPlay("order", seed).site.store for seed in (1, 1, 2))
    assert one == same and one.products != other.products
    assert len({product.name for product in one.products}) == len(one.products)


# ---- snapshots ------------------------------------------------------------------------------------


async def begun(env: Web, task: Task) -> Web:
    """An episode's environment, reset, without the loop."""
    spawned = env.spawn()
    assert isinstance(spawned, Web)
    spawned.context = ToolContext(task)
    await spawned.reset(task)
    return spawned


async def test_the_shop_is_taken_and_restored_with_its_address_and_cookies(shop):
    task = one_of(shop, "move")
    one, other = await begun(shop, task), await begun(shop, task)
    assert one.opened is not None and other.opened is not None
    store = one.play.site.store  # type: ignore[attr-defined]
    page = one.opened.page
    await one.opened.do(page.goto("/account"))
    await one.opened.look()
    await one.opened.do(page.type(5, store.password, enter=True))
    taken = await one.snapshot()
    seen = (await one.opened.look()).text
    assert "Save address" in seen
    store.city = "Nowhere"
    for env in (one, other):
        await env.restore(taken)
        assert (await env.opened.look()).text == seen  # type: ignore[union-attr]
        assert env.play.site.store.city != "Nowhere"  # type: ignore[attr-defined]
        await env.close()


async def test_miniwob_is_played_again_up_to_the_snapshot(miniwob):
    task = one_of(miniwob, "enter-text")
    one, other = await begun(miniwob, task), await begun(miniwob, task)
    assert one.opened is not None and other.opened is not None
    await one.opened.act("type", {"id": 1, "text": "half"}, one.opened.page.type(1, "half"))
    taken = await one.snapshot()
    seen = (await one.opened.look()).text
    assert "half" in seen
    await one.opened.act("type", {"id": 1, "text": "more"}, one.opened.page.type(1, "more"))
    for env in (one, other):
        await env.restore(taken)
        assert (await env.opened.look()).text == seen  # type: ignore[union-attr]
        await env.close()
    different = await begun(miniwob, one_of(miniwob, "enter-text", 1))
    with pytest.raises(ConfigError, match="snapshot is of task"):
        await different.restore(taken)
    await different.close()


def test_screenshots_are_for_models_that_see():
    for env in (make(actions=["click", "screenshot"]), Web(browser={"actions": ["screenshot"]})):
        with pytest.raises(ModelUnsupported, match="shows images"):
            make_runner(env, ScriptedPolicy(make_chat()))
    make_runner(make(actions=["click"]), ScriptedPolicy(make_chat()))


# ---- what breaks ------------------------------------------------------------------------------------


class Killing(Web):
    """Kills its browser at the first call of the first attempt."""

    killed: list[int]

    async def _watch(self):
        if not self.killed:
            main = main_processes()
            self.killed += [process.pid for process in main]
            for process in main:
                process.kill()
            psutil.wait_procs(main, timeout=60)
        return await super()._watch()


async def test_a_browser_that_is_killed_voids_the_attempt_which_is_made_again(miniwob):
    await miniwob.browser.close()  # the only browser is then the one that is killed
    env = Killing(kinds=["enter-text"], browser=SLOW_MACHINE)
    env.killed = []
    task = env.tasks("test")[0]
    episode = await play(env, ScriptedPolicy(make_chat()), task, retries=1)
    assert (episode.status, episode.reward, episode.attempts) == ("finished", 1.0, 2), episode.reason
    env.killed.clear()
    episode = await play(env, ScriptedPolicy(make_chat()), task, retries=0)
    assert (episode.status, episode.reward) == ("void", None)
    await env.browser.close()


async def test_a_page_that_does_not_become_ready_voids_the_attempt(miniwob, monkeypatch):
    monkeypatch.setattr("agentrl.envs.web.miniwob._READY", "() => false")
    spawned = miniwob.spawn()
    assert isinstance(spawned, Web)
    spawned.context = ToolContext()
    with pytest.raises(SessionLost, match="did not become ready"):
        await spawned.reset(one_of(miniwob, "click-test"))
    await spawned.close()
