"""``agentrl init``: a starting file with its test."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from agentrl.errors import ConfigError
from agentrl.store import writing

STARTERS = Path(__file__).parent / "starters"

NEXT = {
    "tool": "call it: agentrl tools call {file} amount=3 unit=miles",
    "env": "look at it: agentrl envs show {file}; play it: agentrl envs play {file}; "
    "train on it: agentrl train {file}",
    "reward": "give it to an environment: rewards = [{name}]",
}

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


def init(kind: str, name: str, folder: Path) -> int:
    """Write ``NAME.py`` and ``test_NAME.py``.

    Args:
        kind: ``tool``, ``env`` or ``reward``.
        name: of the tool, environment or reward.
        folder: where they go; made if need be.

    Raises:
        ConfigError: the name does not fit, a file exists, or the place cannot be written.
    """
    check_name(name)
    files = {
        folder / f"{name}.py": _text(f"my_{kind}.py", kind, name),
        folder / f"test_{name}.py": _text(f"test_my_{kind}.py", kind, name),
    }
    for path in files:
        if path.exists():
            raise ConfigError(f"{str(path)!r} exists already. Choose another name, or another --folder.")
    for path, text in files.items():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    written = " and ".join(str(path) for path in files)
    shown = f"{folder}/{name}.py" if folder.is_absolute() else f"./{folder / name}.py"
    further = NEXT[kind].format(file=shown, name=name)
    Console().print(
        Text(f"Wrote {written}. Test it: pytest {folder / f'test_{name}.py'}; {further}"), soft_wrap=True
    )
    return 0


def check_name(name: str) -> None:
    """Refuse a name that no Python file or function can have, or that hides something else.

    Raises:
        ConfigError: says why.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a Python file: use small letters, digits and _, a letter first, 60 "
            "at most; for example look_up."
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise ConfigError(f"{name!r} is a word of Python's own. Choose another name.")
    if name in sys.stdlib_module_names or name in ("agentrl", "conftest", "pytest"):
        raise ConfigError(
            f"A file {name}.py would hide the module {name!r} from all that import it. Choose another name."
        )
    if name.startswith("test_"):
        raise ConfigError(f"pytest would take {name}.py for a test. Choose a name without test_.")


def _text(starter: str, kind: str, name: str) -> str:
    text = (STARTERS / starter).read_text(encoding="utf-8")
    words = "".join(part.capitalize() for part in name.split("_"))
    return text.replace(f"my_{kind}", name).replace(f"My{kind.capitalize()}", words)
