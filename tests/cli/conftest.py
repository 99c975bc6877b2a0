from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_training import FakeTraining

ENV = '''
from agentrl import Env, Task, reward, tool

class Adding(Env):
    """Sums."""
    prompt = "Use add."
    def tasks(self, split):
        for n in range(20):
            yield Task(f"{split}: what is {n} + 1?", answer=n + 1)
    @tool
    def add(self, a: int, b: int) -> str:
        """Add two numbers.

        Args:
            a: the first.
        """
        return str(a + b)
    @reward
    def right(self, episode):
        return 1.0
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with an environment in ``adding.py``."""
    (tmp_path / "adding.py").write_text(ENV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def fake_launch(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    """Makes ``agentrl train`` start the fake; returns a class of it that a test may change."""
    fake = type("FakeTraining", (FakeTraining,), {})
    module: Any = ModuleType("agentrl.train.launch")
    module.Training = fake
    monkeypatch.setitem(sys.modules, "agentrl.train.launch", module)
    models: Any = ModuleType("agentrl.train.models")
    models.find_model = lambda config, env, progress: Path("model")
    monkeypatch.setitem(sys.modules, "agentrl.train.models", models)
    return fake
