"""MiniWoB++: its pages, seeded, started and judged by their own scripts (package ``miniwob``)."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

from agentrl import ConfigError, SessionLost, ToolError, Trajectory
from agentrl.envs.web.miniwob_play import SCRIPTS
from agentrl.envs.web.play import Outcome, Play
from agentrl.envs.web.seen import Seen, Steps
from agentrl.tools.browser import Folder, OpenPage

HIDDEN = ("query", "reward-display", "click-canvas", "sync-task-cover")
"""What its own observations leave out too."""
READY_TRIES = 100

_START = """([seed, hidden, mark]) => {
    window.begunAs = mark;
    Math.seedrandom(seed);
    core.EPISODE_MAX_TIME = 24 * 3600 * 1000;
    if (window.jQuery) jQuery.fx.off = true;
    core.startEpisodeReal();
    for (const id of hidden) document.getElementById(id)?.setAttribute("aria-hidden", "true");
}"""
_READY = "() => WOB_TASK_READY"
_UTTERANCE = "() => { const said = core.getUtterance(); return said.utterance || said; }"
_OUTCOME = """mark => ({
    here: window.begunAs === mark,
    done: window.WOB_DONE_GLOBAL, raw: window.WOB_RAW_REWARD_GLOBAL, reason: window.WOB_REWARD_REASON,
})"""


def pages_folder() -> Path:
    """The folder of MiniWoB's pages.

    Raises:
        ConfigError: the package is not installed.
    """
    found = importlib.util.find_spec("miniwob")  # not imported: it would ask for Selenium
    if found is None or not found.submodule_search_locations:
        raise ConfigError("MiniWoB's pages come from the package miniwob: pip install 'agentrl[web]'.")
    return Path(found.submodule_search_locations[0]) / "html"


class MiniWob(Play):
    """A task of MiniWoB++.

    Raises:
        ConfigError: MiniWoB is not installed.
    """

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self._mark = f"{name} {seed}"  # tells the document that began from one that was opened later
        self.site = Folder(pages_folder(), f"/miniwob/{name}.html")

    async def begin(self, opened: OpenPage) -> str:
        await opened.do(opened.page.evaluate(_START, [str(self.seed), list(HIDDEN), self._mark]))
        for _ in range(READY_TRIES):
            if await opened.do(opened.page.evaluate(_READY)):
                break
        else:
            raise SessionLost(f"The page of {self.name} did not become ready.")
        return " ".join(str(await opened.do(opened.page.evaluate(_UTTERANCE))).split())

    async def outcome(self, opened: OpenPage, episode: Trajectory | None = None) -> Outcome:
        """As the page judges, without its discount for time. One that was left or loaded anew is over, for
        nothing."""
        found: dict[str, Any] = await opened.do(opened.page.evaluate(_OUTCOME, self._mark))
        if not found["here"]:
            return Outcome(True, 0.0, "the page was left")
        done = bool(found["done"])
        return Outcome(done, float(found["raw"]) if done else 0.0, str(found["reason"] or ""))

    async def save(self, opened: OpenPage) -> Any:
        """What was done so far: the state of a page's scripts cannot be taken."""
        return list(opened.done)

    async def load(self, opened: OpenPage, state: Any) -> None:
        """Do it again, from the same seed."""
        await opened.do(opened.page.goto(self.site.start))
        await self.begin(opened)
        opened.done.clear()
        await opened.look()
        for name, arguments in state:
            with contextlib.suppress(ToolError):  # as it may have done then
                await opened.repeat(name, arguments)
            await opened.look()

    def script(self, asked: str, page: Seen) -> Steps:
        return SCRIPTS[self.name](asked, page)
