"""Which backend is opened for which name, and which never is unasked."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from broken_backends import Wrapper

from agentrl.errors import ConfigError, DefinitionError, NotFound, SandboxUnavailable
from agentrl.sandbox import (
    BACKENDS,
    Availability,
    NamespaceSandbox,
    availability_of,
    backend_names,
    find_backend,
    open_sandbox,
    registry,
    view,
)

_FILE = """
from broken_backends import Wrapper

class Mine(Wrapper):
    def __init__(self, *, colour: str = "red", image: str = "x") -> None:
        super().__init__()
        self.colour = colour
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(_FILE)
    return str(path)


def _nothing_confines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in registry.AUTOMATIC:
        missing = Availability(False, f"no {name}.")
        backend = type(name, (Wrapper,), {"availability": lambda missing=missing: missing})
        monkeypatch.setattr(registry, "BACKENDS", {**registry.BACKENDS, name: f"{__name__}:{name}"})
        monkeypatch.setattr(sys.modules[__name__], name, backend, raising=False)


async def test_auto_takes_the_first_that_isolates(isolation: None) -> None:
    async with open_sandbox() as sandbox, await sandbox.create() as session:
        assert isinstance(sandbox, NamespaceSandbox)
        assert (await session.run_cell("1")).stdout == "1\n"


def test_nothing_unconfined_or_elsewhere_is_ever_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"dangerously_local", "remote"} & set(registry.AUTOMATIC)
    _nothing_confines(monkeypatch)
    with pytest.raises(SandboxUnavailable, match=r"namespace: no namespace\. docker: no docker\."):
        open_sandbox()
    for name in registry.AUTOMATIC:
        with pytest.raises(SandboxUnavailable, match=f"no {name}"):
            open_sandbox(name)


def test_without_bubblewrap_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "find_bwrap", lambda: None)
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        open_sandbox("namespace")


def test_the_unconfined_one_says_so(caplog: pytest.LogCaptureFixture) -> None:
    found = availability_of("dangerously_local")
    assert found.ok and found.isolates == () and "NOTHING IS ISOLATED" in found.weaker[0]
    with caplog.at_level(logging.WARNING):
        open_sandbox("dangerously_local")
    assert "NOTHING IS ISOLATED" in caplog.text


def test_unknown_names_and_options_name_the_nearest(isolation: None) -> None:
    with pytest.raises(NotFound, match="'namespace'"):
        open_sandbox("nampesace")
    with pytest.raises(ConfigError, match="max_sessions"):
        open_sandbox("namespace", max_session=3)
    with pytest.raises(ConfigError, match="auto"):
        open_sandbox(max_sessions=3)
    with pytest.raises(NotFound, match="no file"):
        open_sandbox("./no_such_file.py")
    with pytest.raises(DefinitionError, match="not a class of Sandbox"):
        find_backend("agentrl.sandbox:open_sandbox")


def test_options_reach_the_class(isolation: None, file: str) -> None:
    assert getattr(open_sandbox(file, colour="blue"), "colour", None) == "blue"
    with pytest.raises(ConfigError, match="colour"):
        open_sandbox(file, color="blue")


def test_a_users_own_is_found_by_path_and_by_entry_point(
    isolation: None, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_backend(file).__name__ == find_backend(f"{file}:Mine").__name__ == "Mine"
    assert find_backend("broken_backends:Wrapper") is Wrapper
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[agentrl.sandboxes]\nmine = broken_backends:Wrapper\nbroken = no_such_module_of_mine:X\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert backend_names() == (*BACKENDS, "broken", "mine")
    assert find_backend("mine") is Wrapper
    broken = availability_of("broken")
    assert not broken.ok and "no_such_module_of_mine" in broken.reason


def test_a_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "BACKENDS", {"needy": "needs_more:Needy"})
    assert "'no_such_library', which is not installed" in availability_of("needy").reason
    with pytest.raises(SandboxUnavailable, match="no_such_library"):
        open_sandbox("needy")
