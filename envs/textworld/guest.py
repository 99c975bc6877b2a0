"""The game itself: runs inside the sandbox session of an episode, which plays its story file there.

Its text becomes the session's first cell; ``begin`` and ``act`` are the later ones. Each answers with JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

WON, LOST = "*** The End ***", "*** You lost! ***"

game: Any = None


def begin(seed: int) -> None:
    """Start the story in the working folder and tell its first room."""
    import jericho

    global game  # the cells of a session share it
    warnings.simplefilter("ignore")  # jericho knows no walkthrough for games of ours
    game = jericho.FrotzEnv("game.z8", seed=seed)
    text, _ = game.reset()
    tell(text[max(0, text.find("-= ")) :], won=False, over=False)


def act(command: str) -> None:
    """Give the story a command and tell what comes of it."""
    text, _, halted, _ = game.step(command)
    won, lost = WON in text, LOST in text
    tell(text, won=won, over=won or lost or bool(halted))


def tell(text: str, *, won: bool, over: bool) -> None:
    """Answer the host."""
    sys.stdout.write(json.dumps({"text": cleaned(text), "won": won, "over": over}))


def cleaned(text: str) -> str:
    """Without the prompt, the status line after it, and what follows a story's end."""
    text = text.split("\n>")[0].split("Would you like to RESTART")[0]
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line)
