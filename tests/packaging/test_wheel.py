"""The built distribution holds the whole package, the linked folders included, and nothing beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "runs", "build", "dist", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """A command's standard output; fails the test with all it printed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release builds it: from the source distribution, itself made from a clean copy."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=NOT_SOURCE)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=tree)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target)
    run(*pip, wheel, cwd=target)
    return target


def package_files() -> Iterator[str]:
    """Every file of the package as the source tree has it, through the links."""
    for folder, folders, files in os.walk(ROOT / "agentrl", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            yield (Path(folder) / name).relative_to(ROOT).as_posix()


def test_the_wheel_holds_exactly_the_package(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert shipped == set(package_files())


@pytest.mark.parametrize(
    "module", ["agentrl.tools.python", "agentrl.envs.math", "agentrl.rewards.math", "agentrl.sandbox"]
)
def test_linked_folders_import_from_the_wheel(installed: Path, module: str) -> None:
    code = f"import {module} as module; print(module.__file__)"
    file = run(sys.executable, "-c", code, cwd=installed, PYTHONPATH=str(installed)).strip()
    assert Path(file).is_relative_to(installed)


def test_entry_points_lead_to_something(installed: Path) -> None:
    """verl's and vLLM's are only looked up: loading them takes the training stack."""
    code = """if True:
        from importlib.metadata import distribution
        from importlib.util import find_spec
        for point in distribution("agentrl").entry_points:
            if point.group.startswith(("verl", "vllm")):
                assert find_spec(point.module), point
            else:
                point.load()
            print(point.group)
    """
    groups = run(sys.executable, "-c", code, cwd=installed, PYTHONPATH=str(installed)).split()
    assert {
        "agentrl.envs",
        "agentrl.tools",
        "console_scripts",
        "verl.plugins",
        "vllm.general_plugins",
    } == set(groups)


def test_an_editable_install_shows_only_the_package() -> None:
    """The folders beside agentrl/ are not importable by their bare names from elsewhere."""
    code = """if True:
        import importlib.util
        for name in ("tools", "envs", "rewards", "sandbox", "examples", "benchmarks"):
            spec = importlib.util.find_spec(name)
            print(*(spec.submodule_search_locations or [spec.origin]) if spec else ())
    """
    found = run(sys.executable, "-P", "-c", code, cwd=Path("/"), PYTHONPATH="").split()
    assert not [path for path in found if Path(path).is_relative_to(ROOT) and ".venv" not in path]
