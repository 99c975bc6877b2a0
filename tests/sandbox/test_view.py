"""What of this machine is seen inside: the Python that runs us, wherever it is installed."""

from __future__ import annotations

import site
import subprocess
import sys
import venv
from pathlib import Path

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


def test_an_environment_below_tmp_is_seen_in_sessions_that_have_a_tmp_of_their_own(tmp_path: Path) -> None:
    assert tmp_path.is_relative_to("/tmp")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    [packages] = (tmp_path / "venv/lib").glob("python3*/site-packages")
    (packages / "late.py").write_text("said = 'here'\n", encoding="utf-8")
    paths = [str(Path(agentrl.__file__).parent.parent), *site.getsitepackages()]
    ours = f"import sys; sys.path += {paths!r}\n{PROGRAM}"
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", ours], capture_output=True, text=True, timeout=100, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == ["'here'", "here", "here"], (done.stdout, done.stderr[-2000:], sys.version)
