"""Makes a game: ``python make.py '{"rooms": 3, …}' FOLDER`` writes ``game.z8`` and ``game.json``.

A process of its own, because making one takes all of a processor for a second or two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path


def make(shape: Mapping[str, int], folder: Path) -> None:
    """Write the game of a shape and a seed into a folder.

    Args:
        shape: ``rooms``, ``objects``, ``steps`` (commands that solve it), ``coin`` and ``seed``.
    """
    import textworld
    from textworld.challenges import coin_collector
    from textworld.generator import KnowledgeBase, compile_game, make_game

    options = textworld.GameOptions()
    options.seeds = shape["seed"]
    options.nb_rooms, options.nb_objects = shape["rooms"], shape["objects"]
    options.quest_length = shape["steps"]
    options.path = str(folder / "game.z8")
    if shape["coin"]:
        options.kb = KnowledgeBase.load(coin_collector.KB_PATH)
        options.grammar.allowed_variables_numbering = True  # rooms may be more than there are names for
        game = coin_collector.make_game("simple", options)
    else:
        game = make_game(options)
    compile_game(game, options)
    told = {"objective": game.objective, "walkthrough": list(game.metadata["walkthrough"])}
    (folder / "game.json").write_text(json.dumps(told))


if __name__ == "__main__":
    make(json.loads(sys.argv[1]), Path(sys.argv[2]))
