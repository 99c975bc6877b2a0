"""MiniWoB++: its pages, seeded, started and judged by their own scripts (package ``miniwob``)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl import ConfigError, SessionLost
from agentrl.tools.browser import Folder, OpenPage

WIDTH, HEIGHT = 500, 320
"""Of the window that MiniWoB's own Python interface opens."""
HIDDEN = ("query", "reward-display", "click-canvas", "sync-task-cover")
"""What its own observations leave out too."""
READY_TRIES = 100

_START = """([seed, hidden]) => {
    Math.seedrandom(seed);
    core.EPISODE_MAX_TIME = 24 * 3600 * 1000;
    if (window.jQuery) jQuery.fx.off = true;
    core.startEpisodeReal();
    for (const id of hidden) document.getElementById(id)?.setAttribute("aria-hidden", "true");
}"""
_READY = "() => WOB_TASK_READY"
_UTTERANCE = "() => { const said = core.getUtterance(); return said.utterance || said; }"
_OUTCOME = """() => ({
    started: window.core !== undefined && core.ept0 !== null && core.ept0 !== undefined,
    done: window.WOB_DONE_GLOBAL, raw: window.WOB_RAW_REWARD_GLOBAL, reason: window.WOB_REWARD_REASON,
})"""


@dataclass(frozen=True)
class Outcome:
    """Where an episode stands, as the page itself says.

    Args:
        done: whether the page has judged it.
        reward: between -1 and 1, without MiniWoB's discount for time; 0 until it is done.
        reason: the page's, if it gives one.
    """

    done: bool
    reward: float
    reason: str


def pages_folder() -> Path:
    """The folder of MiniWoB's pages.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec("miniwob")  # not imported: it would ask for Selenium
    if found is None or not found.submodule_search_locations:
        raise ConfigError("MiniWoB's pages come from the package miniwob: pip install 'agentrl[web]'.")
    return Path(found.submodule_search_locations[0]) / "html"


def site(name: str) -> Folder:
    """The site of a task.

    Raises:
        ConfigError: MiniWoB is not installed.
    """
    return Folder(pages_folder(), f"/miniwob/{name}.html")


async def start(opened: OpenPage, seed: int) -> str:
    """Begin an episode; returns what it asks for.

    Raises:
        SessionLost: the page does not become ready.
    """
    await opened.do(opened.page.evaluate(_START, [str(seed), list(HIDDEN)]))
    for _ in range(READY_TRIES):
        if await opened.do(opened.page.evaluate(_READY)):
            break
    else:
        raise SessionLost("A page of MiniWoB did not become ready.")
    return " ".join(str(await opened.do(opened.page.evaluate(_UTTERANCE))).split())


async def outcome(opened: OpenPage) -> Outcome:
    """How the page judges what was done. One that was left or loaded anew is over, for nothing."""
    found: dict[str, Any] = await opened.do(opened.page.evaluate(_OUTCOME))
    if not found["started"]:
        return Outcome(True, 0.0, "the page was left")
    done = bool(found["done"])
    return Outcome(done, float(found["raw"]) if done else 0.0, str(found["reason"] or ""))
