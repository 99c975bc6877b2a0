"""The smaller commands: listing, showing, certificates, export and warm-up."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_training import ROOT
from typer.testing import CliRunner

import agentrl
from agentrl.cli.main import app
from agentrl.cli.settings import load
from agentrl.errors import ConfigError, InfrastructureError
from agentrl.store import RunFolder

HEAVY = ("torch", "verl", "ray", "vllm", "transformers", "matplotlib")


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom agentrl.cli.main import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0\nprint(result.output)\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    known = (
        "train",
        "eval",
        "warmup",
        "tools",
        "envs",
        "sandbox",
        "export",
        "doctor",
        "init",
        "simulate",
        "fit",
        "budget",
        "swarm",
        "tune",
    )
    for command in known:
        assert f"\n  {command} " in done.stdout


def test_the_version_is_the_packages() -> None:
    assert call("--version").output.strip() == agentrl.__version__


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with two tools and two environments, one of each broken."""
    (tmp_path / "extras_of_mine.py").write_text(
        "from agentrl import Env, Tool, tool\n"
        "@tool\ndef shout(text: str) -> str:\n    '''Make it loud.\n\n    At length.\n    '''\n"
        "    return text.upper()\n"
        "class Remember(Tool):\n    '''Remembers things.'''\n"
        "    async def call(self, text: str) -> str: return text\n"
        "class Quiet(Env):\n    '''Hush.'''\n"
    )
    info = tmp_path / "extras_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extras-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[agentrl.tools]\nshout = extras_of_mine:shout\n"
        "remember = extras_of_mine:Remember\nlost = not_there:Tool\n"
        "[agentrl.envs]\nquiet = extras_of_mine:Quiet\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")


def test_tools_and_environments_are_listed_with_one_line_each(installed: None) -> None:
    tools = call("tools")
    assert tools.exit_code == 0
    lines = {line.split()[0]: line.rstrip() for line in tools.output.splitlines()}
    assert lines["shout"].endswith("Make it loud.")
    assert lines["remember"].endswith("Remembers things.")
    assert "cannot be loaded: ModuleNotFoundError: No module named 'not_there'" in lines["lost"]
    assert "Hush." in call("envs").output


def test_an_environment_is_shown_as_a_model_meets_it(folder: Path) -> None:
    result = call("envs", "show", "./adding.py")
    assert result.exit_code == 0, result.output
    for expected in (
        "Sums.",
        "Use add.",
        '"name": "add"',
        '"description": "the first."',
        "right  weight 1, per episode",
        "train: what is 0 + 1?",
        "test: what is 2 + 1?",
        "answer: 3",
    ):
        assert expected in result.output, expected
    assert "what is 3 + 1?" not in result.output


def test_showing_an_unknown_environment_or_option_is_a_message(folder: Path) -> None:
    assert call("envs", "show", "./nothing.py").exit_code == 2
    result = call("envs", "show", "./adding.py", "data=rows.jsonl")
    assert result.exit_code == 2
    assert "takes no option 'data'" in result.stderr


def test_options_in_the_environments_own_train_yaml_reach_it(folder: Path) -> None:
    (folder / "sized.py").write_text(
        "from agentrl import Env, Task\nclass Sized(Env):\n"
        "    def __init__(self, size: int = 1):\n        self.size = size\n"
        "    def tasks(self, split):\n        return [Task(str(self.size))]\n"
    )
    (folder / "train.yaml").write_text("all: {env_options: {size: 5}}\ncpu: {steps: 7}\n")
    config, env = load("./sized.py", [])
    assert (env.size, config.steps) == (5, 7)  # type: ignore[attr-defined]
    config, env = load("./sized.py", ["env_options.size=6", "steps=8"])
    assert (env.size, config.steps) == (6, 8)  # type: ignore[attr-defined]


def write_certificate(root: Path, passed: bool) -> RunFolder:
    run = RunFolder.create(root, "math", {})
    checks = [
        {"name": "tokens", "step": 1, "passed": True, "detail": "512 of 512"},
        {"name": "masks", "step": 40, "passed": passed, "detail": "\x1b[31m2 too many"},
    ]
    run.write_json(run.doctor, {"passed": True, "checks": checks})
    return run


def test_the_certificate_is_printed_and_decides_the_exit_code(folder: Path) -> None:
    write_certificate(folder / "runs", passed=True)
    good = call("doctor", "last")
    assert good.exit_code == 0
    assert "✓  tokens  step 1   512 of 512" in good.output
    run = write_certificate(folder / "elsewhere", passed=False)
    bad = call("doctor", str(run.path))
    assert bad.exit_code == 1
    assert "✗  masks   step 40" in bad.output
    assert "FAIL  2 checks" in bad.output
    assert "\x1b[31m2" not in bad.output


def test_a_run_without_certificate_has_not_passed(folder: Path) -> None:
    RunFolder.create("runs", "math", {})
    result = call("doctor", "last")
    assert result.exit_code == 2
    assert "has no certificate" in result.stderr


def test_export_writes_where_there_is_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[RunFolder, Path]] = []
    module: Any = ModuleType("agentrl.train.export")
    module.export = lambda run, out, step: written.append((run, out))
    monkeypatch.setitem(sys.modules, "agentrl.train.export", module)
    run = RunFolder.create("runs", "math", {})
    assert call("export", run.name, "model").exit_code == 0
    assert [(each.name, out) for each, out in written] == [(run.name, Path("model"))]
    taken = call("export", "last", ".")
    assert taken.exit_code == 2
    assert "exists and is not empty" in taken.stderr


@pytest.fixture
def fake_warmup(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Makes the fitting a record of its arguments."""
    asked: list[dict[str, Any]] = []

    def warmup(env: Any, out: Path, *, progress: Any, **settings: Any) -> Any:
        asked.append({"env": env, "out": out, **settings})
        for stage, loss in (("demonstrations", None), ("training", 0.5)):
            progress(SimpleNamespace(stage=stage, done=3, total=3, loss=loss))
        return SimpleNamespace(parameters=1_000_000, demonstrations=3, expert_success=1.0, loss=0.125)

    monkeypatch.setattr("agentrl.train.warmup.warmup", warmup)
    runtime: Any = ModuleType("agentrl.train.runtime")
    runtime.open_sandbox_if_any = lambda config: None
    monkeypatch.setitem(sys.modules, "agentrl.train.runtime", runtime)
    return asked


def test_warmup_passes_its_settings_on_and_reports(folder: Path, fake_warmup: list[dict[str, Any]]) -> None:
    result = call("warmup", "./adding.py", "out=warm", "steps=50", "learning_rate=1e-3", "seed=4")
    assert result.exit_code == 0, result.output
    [asked] = fake_warmup
    assert (asked["out"], asked["steps"], asked["learning_rate"], asked["seed"]) == (
        Path("warm"),
        50,
        1e-3,
        4,
    )
    assert (asked["start"], asked["demonstrations"], asked["env"].name) == (None, 8000, "adding")
    assert "1,000,000 parameters, loss 0.125 nats per token, from 3 demonstrations" in result.output
    assert "agentrl train ./adding.py model=warm" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=warm", "demonstration=5"], "no setting demonstration. Did you mean 'demonstrations'"),
        (["out=warm", "steps=0"], "steps=0"),
        (["out=warm", "algorithm.group_size=4"], "agentrl warmup has no setting algorithm."),
    ],
)
def test_warmup_refuses_settings_that_would_do_nothing(
    folder: Path, fake_warmup: list[dict[str, Any]], words: list[str], message: str
) -> None:
    result = call("warmup", "./adding.py", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not fake_warmup


def test_machines_that_fail_exit_1_and_mistakes_exit_2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(problem: BaseException) -> Any:
        def export(run: RunFolder, out: Path, step: int | None) -> None:
            raise problem

        return export

    module: Any = ModuleType("agentrl.train.export")
    monkeypatch.setitem(sys.modules, "agentrl.train.export", module)
    RunFolder.create("runs", "math", {})
    module.export = raising(InfrastructureError("the disk went away"))
    assert call("export", "last", "out").exit_code == 1
    module.export = raising(KeyboardInterrupt())
    assert call("export", "last", "out").exit_code == 130
    module.export = raising(ConfigError("no checkpoint"))
    mistake = call("export", "last", "out")
    assert (mistake.exit_code, mistake.stderr) == (2, "Error: no checkpoint\n")


def test_the_summary_names_the_versions_that_ran(folder: Path) -> None:
    from agentrl.view.summary import versions

    assert versions()["numpy"] == version("numpy")
    assert json.dumps(versions())
