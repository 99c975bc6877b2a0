"""Finding tools and environments: by installed name, dotted path and file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl import ConfigError, DefinitionError, Env, Task, Tool, tool
from agentrl.errors import NotFound
from agentrl.registry import ENVS, find_env, find_tool, names, nearest, source_folder

ONE = """
from agentrl import Env, Task, Tool, tool
import helper_beside_it

class Pond(Env):
    def __init__(self, depth: int = 1, data: str | None = None) -> None:
        super().__init__(tasks=[Task(helper_beside_it.WORD)])
        self.depth = depth

@tool
def fish(size: int) -> str:
    '''Fish.'''
    return str(size)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a file that defines one environment and one tool."""
    (tmp_path / "helper_beside_it.py").write_text("WORD = 'ripple'\n")
    (tmp_path / "pond.py").write_text(ONE)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("agentrl_user_") or name == "helper_beside_it":
            del sys.modules[name]


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with entry points."""
    (folder / "lake_package.py").write_text(ONE)
    info = folder / "lake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[agentrl.envs]\nlake = lake_package:Pond\n[agentrl.tools]\nfish = lake_package:fish\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return "lake_package"


# ---- where they are found


def test_by_an_entry_points_name(package: str) -> None:
    assert "lake" in names(ENVS) and "math" in names(ENVS)
    env = find_env("lake", {"depth": 5})
    assert type(env).__name__ == "Pond" and env.depth == 5  # type: ignore[attr-defined]
    assert find_tool("fish").name == "fish"


def test_by_dotted_path(package: str) -> None:
    assert type(find_env("lake_package:Pond")).__name__ == "Pond"
    assert type(find_env("agentrl.envs.math:Math")).name == "math"
    with pytest.raises(NotFound, match="There is no module 'lake_package.deeper'"):
        find_env("lake_package.deeper:Pond")
    with pytest.raises(NotFound, match=r"There is no module 'nowhere\.at_all'"):
        find_env("nowhere.at_all")


def test_a_module_that_misses_something_else_says_what(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "wet").mkdir()
    (folder / "wet" / "needy.py").write_text("import not_installed_here\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        find_env("wet.needy")


@pytest.mark.parametrize("name", ["pond.py", "./pond.py", "pond.py:Pond", "{folder}/pond.py"])
def test_by_file_which_may_import_its_neighbours(folder: Path, name: str) -> None:
    path = list(sys.path)
    env = find_env(name.format(folder=folder))
    assert type(env).__name__ == "Pond"
    assert [task.prompt for task in env.tasks("train")] == ["ripple"]
    assert find_tool("pond.py").name == "fish"
    assert source_folder(env) == folder
    assert sys.path == path


def test_the_same_file_gives_the_same_class(folder: Path) -> None:
    assert type(find_env("pond.py")) is type(find_env(f"{folder}/pond.py:Pond"))


def test_files_of_the_same_name_in_different_folders_are_different(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "pond.py").write_text("from agentrl import Env\nclass Puddle(Env): pass\n")
    assert [type(find_env(name)).__name__ for name in ("pond.py", "other/pond.py")] == ["Pond", "Puddle"]


def test_a_folder_is_its_package_file(folder: Path) -> None:
    (folder / "sea").mkdir()
    (folder / "sea" / "__init__.py").write_text("from agentrl import Env\nclass Sea(Env): pass\n")
    assert type(find_env("./sea")).__name__ == "Sea"


def test_what_a_file_imports_is_not_taken_for_its_own(folder: Path) -> None:
    (folder / "more.py").write_text(
        "from agentrl import Env\nfrom agentrl.envs.math import Math\nclass Mine(Math): pass\n"
    )
    assert type(find_env("more.py")).__name__ == "Mine"


def test_a_ready_made_environment_of_parts_in_a_file(folder: Path) -> None:
    (folder / "parts.py").write_text("from agentrl import Env, Task\nmine = Env(tasks=[Task('Hi')])\n")
    assert [task.prompt for task in find_env("parts.py").tasks("train")] == ["Hi"]
    assert find_env("parts.py:mine") is find_env("parts.py")


# ---- what is said where they are not


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maths", r"There is no env 'maths'\. Did you mean 'math'"),
        ("zzzzzz", r"There is no env 'zzzzzz'\. Known: .*math"),
        ("none.py", r"There is no file 'none\.py'"),
        ("./none", r"There is no file 'none/__init__\.py'|There is no file 'none'"),
        ("pond.py:Pnd", r"the module has no 'Pnd'\. Did you mean 'Pond'"),
        ("helper_beside_it.py", "defines no Env; name one as helper_beside_it.py:NAME"),
    ],
)
def test_an_unknown_name_gets_its_neighbours(folder: Path, name: str, words: str) -> None:
    with pytest.raises(NotFound, match=words):
        find_env(name)
    with pytest.raises(NotFound, match=r"There is no tool 'pyhton'\. Did you mean 'python'"):
        find_tool("pyhton")


def test_several_in_one_file_must_be_named(folder: Path) -> None:
    (folder / "two.py").write_text("from agentrl import Env\nclass A(Env): pass\nclass B(Env): pass\n")
    with pytest.raises(NotFound, match=r"defines several Envs \(A, B\); name one as two\.py:NAME"):
        find_env("two.py")
    assert type(find_env("two.py:B")).__name__ == "B"


@pytest.mark.parametrize(("code", "words"), [("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError")])
def test_a_file_that_raises_is_named_each_time(folder: Path, code: str, words: str) -> None:
    (folder / "bad.py").write_text(code)
    for _ in range(2):
        with pytest.raises(DefinitionError, match=rf"bad\.py could not be loaded: {words}"):
            find_env("bad.py")
    (folder / "bad.py").write_text("from agentrl import Env\nclass Mended(Env): pass\n")
    assert type(find_env("bad.py")).__name__ == "Mended"


def test_something_of_another_kind_is_not_taken(folder: Path) -> None:
    with pytest.raises(DefinitionError, match=r"'pond\.py:fish' is FunctionTool, not a Env"):
        find_env("pond.py:fish")
    with pytest.raises(DefinitionError, match="not a Tool"):
        find_tool(3)


# ---- options


class Net(Tool):
    """Catch."""

    def __init__(self, mesh: int) -> None:
        self.mesh = mesh

    async def call(self) -> int:
        """Catch."""
        return self.mesh


def test_options_are_the_parameters_of_the_class(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"Env 'pond\.py' takes no option 'dept'\. Did you mean 'depth'"):
        find_env("pond.py", {"dept": 3})
    with pytest.raises(ConfigError, match=r"takes no option 'zzz'\. Known: data, depth"):
        find_env("pond.py", {"depth": 3, "zzz": 4})


def test_an_option_that_is_needed_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"needs the option 'mesh'"):
        find_tool(Net)
    assert find_tool(Net, {"mesh": 3}).mesh == 3  # type: ignore[attr-defined]


def test_what_is_ready_made_takes_no_options(folder: Path) -> None:
    @tool
    def ready() -> str:
        """Ready."""
        return ""

    assert find_tool(ready) is ready
    net = Net(2)
    assert find_tool(net) is net
    with pytest.raises(ConfigError, match=r"ready-made Tool and takes no options \(mesh\)"):
        find_tool(net, {"mesh": 3})


def test_hints_name_the_nearest_or_all() -> None:
    assert nearest("gama", ["gamma", "seed"]) == "Did you mean 'gamma'?"
    assert nearest("x", ["b", "a"]) == "Known: a, b."
    assert nearest("x", []) == "Known: none."


def test_an_environment_in_this_file_is_found_by_its_class() -> None:
    class Here(Env):
        pass

    assert source_folder(Here(tasks=[Task("?")])) == Path(__file__).resolve().parent
