"""What of this machine is seen inside: the Python that runs us, wherever it is installed."""

from __future__ import annotations

import site
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentrl

PROGRAM = """
import asyncio
from agentrl.sandbox import NamespaceSandbox

async def main():
    async with NamespaceSandbox() as sandbox, await sandbox.create() as session:
        for result in (
            await session.run_cell("import late; late.said"),
            await session.run_script("import late; print(late.said)"),
            await session.exec(["python3", "-c", "import late; print(late.said)"]),
        ):
            print(result.stdout.strip(), result.stderr.strip()[-200:])

asyncio.run(main())
"""


@pytest.fixture
def below_tmp() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_an_environment_below_tmp_is_seen_in_sessions_that_have_a_tmp_of_their_own(below_tmp: Path) -> None:
    venv.create(below_tmp / "venv", with_pip=False, symlinks=True)
    [packages] = (below_tmp / "venv/lib").glob("python3*/site-packages")
    (packages / "late.py").write_text("said = 'here'\n", encoding="utf-8")
    paths = [str(Path(agentrl.__file__).parent.parent), *site.getsitepackages()]
    ours = f"import sys; sys.path += {paths!r}\n{PROGRAM}"
    done = subprocess.run(
        [below_tmp / "venv/bin/python", "-c", ours], capture_output=True, text=True, timeout=100, check=False,
        cwd=below_tmp,
    )  # fmt: skip
    assert done.stdout.split() == ["'here'", "here", "here"], (done.stdout, done.stderr[-2000:], sys.version)
