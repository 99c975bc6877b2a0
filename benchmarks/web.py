"""Episodes of MiniWoB in many browser pages at once, beside Playwright called directly.

    python -m benchmarks.web [--episodes 64] [--rounds 3] [--json]

Both play ``click-test-2`` with the same Chromium, headless, as many episodes at once as asked: open a context
and the page, seed and start it, read it, click the right button, read the reward, close. Ours is the web
environment with its tools: confined browsers of 16 pages each, each episode on a site of its own behind the
gate, the accessibility tree as text. Playwright's way is one browser without confinement or gate, one
server for all, ``aria_snapshot`` and a locator. Memory is the sum of the proportional set sizes of all
browser processes (and Playwright's drivers) while all pages are open, by episode. Rounds take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from playwright.async_api import Browser, async_playwright

from agentrl import Task, ToolContext
from agentrl.envs.web import Web
from agentrl.envs.web.miniwob import pages_folder
from agentrl.envs.web.seen import Seen
from agentrl.tools.browser.confine import find_browser
from benchmarks.tables import Table, held_mb, run

KIND = "click-test-2"
START = "seed => { Math.seedrandom(seed); core.EPISODE_MAX_TIME = 8.64e7; core.startEpisodeReal(); }"
REWARD = "() => WOB_RAW_REWARD_GLOBAL"
Episode = Callable[[int, asyncio.Barrier], Awaitable[float]]


def ours(env: Web) -> Episode:
    """An episode of the environment, without a model."""

    async def play(seed: int, all_open: asyncio.Barrier) -> float:
        task = Task("?", metadata={"kind": KIND, "seed": seed})
        episode = env.spawn()
        assert isinstance(episode, Web)
        episode.context = ToolContext(task)
        await episode.reset(task)
        try:
            await all_open.wait()
            opened, button = episode.opened, Seen(episode.shown).first("button", "ONE")
            assert opened is not None
            await opened.act("click", {"id": button.id}, opened.page.click(button.id))
            return (await episode.play.outcome(opened)).reward
        finally:
            await episode.close()

    return play


def directly(browser: Browser, url: str) -> Episode:
    """The same with Playwright alone."""

    async def play(seed: int, all_open: asyncio.Barrier) -> float:
        context = await browser.new_context(viewport={"width": 500, "height": 320})
        try:
            page = await context.new_page()
            await page.goto(f"{url}/miniwob/{KIND}.html", timeout=0)
            await page.evaluate(START, str(seed))
            await page.locator("#area").aria_snapshot(timeout=0)
            await all_open.wait()
            # Its click would wait until nothing covers the button, which on some pages is never.
            await page.get_by_role("button", name="ONE", exact=True).dispatch_event("click", timeout=0)
            await page.locator("body").aria_snapshot(timeout=0)
            return float(await page.evaluate(REWARD))
        finally:
            await context.close()

    return play


async def round_of(play: Episode, episodes: int) -> tuple[float, float]:
    """Episodes per second, and MiB with all of them open."""
    all_open = asyncio.Barrier(episodes + 1)  # the last one is who measures the memory

    async def one(seed: int) -> float:
        try:
            return await play(seed, all_open)
        except BaseException:
            await all_open.abort()  # else the others would wait for ever
            raise

    started = time.perf_counter()
    playing = [asyncio.ensure_future(one(seed)) for seed in range(episodes)]
    while all_open.n_waiting < episodes and not all_open.broken:
        await asyncio.sleep(0.01)
    size = held_mb(with_this=False)
    if not all_open.broken:
        await all_open.wait()
    rewards = await asyncio.gather(*playing)
    assert set(rewards) == {1.0}, rewards
    return episodes / (time.perf_counter() - started), size


async def measure(episodes: int, rounds: int) -> Table:
    """Medians over the rounds, and the ratios of ours to Playwright's."""
    app = web.Application()
    app.router.add_static("/", pages_folder())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found: dict[str, list[tuple[float, float]]] = {"agentrl": [], "playwright": []}
    for _ in range(rounds):
        env = Web(
            kinds=[KIND],
            browser={
                "most_pages": episodes,
                "load_seconds": 300.0,
                "start_seconds": 300.0,
                "wait_seconds": 600.0,
            },
        )
        await warm(env, episodes)
        found["agentrl"].append(await round_of(ours(env), episodes))
        await env.browser.close()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=find_browser(), headless=True)
            found["playwright"].append(await round_of(directly(browser, url), episodes))
            await browser.close()
    await runner.cleanup()
    table: Table = {
        name: {
            "episodes_per_second": statistics.median(rate for rate, _ in rows),
            "mb_per_episode": statistics.median(size for _, size in rows) / episodes,
        }
        for name, rows in found.items()
    }
    table["ratio"] = {key: table["agentrl"][key] / table["playwright"][key] for key in table["agentrl"]}
    return table


async def warm(env: Web, episodes: int) -> None:
    """Have the browsers started: Playwright's is, too, before its clock runs."""
    contexts = [ToolContext() for _ in range(episodes)]
    site = env.play_type(KIND, 0).site
    await asyncio.gather(*(env.browser.enter(context, site) for context in contexts))
    await asyncio.gather(*(env.browser.leave(context) for context in contexts))


if __name__ == "__main__":
    run(
        measure,
        __doc__,
        numbers={"episodes": (64, "at once"), "rounds": (3, "of each")},
        columns={"episodes_per_second": ("episodes/s", ".2f"), "mb_per_episode": ("MiB/episode", ".1f")},
    )
