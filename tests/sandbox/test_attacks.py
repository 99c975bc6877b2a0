"""Attacks, our own and those of a shared collection if there is one: nothing escapes, all end in time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from attacks import ATTACKS, DONE, Attack
from process_tree import descendants

from agentrl.errors import ToolError
from agentrl.sandbox import Limits, NamespaceSandbox, Result, Session, Status

WALL = 1.0  # seconds, for what runs until it is stopped
PATIENT = 5.0  # seconds, for what ends by itself
SIBLING = 2.0  # seconds within which the others must be served
LIMITS = Limits(memory_mb=256)
_SECRET = "AGENTRL_TEST_SECRET"
in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def secret() -> Iterator[str]:
    """Something in the environment of the process that opens the sandbox."""
    value = secrets.token_hex(16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_SECRET, value)
        yield value


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox(isolation: None, secret: str) -> AsyncIterator[NamespaceSandbox]:
    """One for all attacks: what one of them breaks shows in the next."""
    async with NamespaceSandbox() as sandbox:
        yield sandbox


def _shared_attacks() -> list[dict[str, str]]:
    folder = os.environ.get("AGENTRL_SHARED") or Path(__file__).resolve().parents[2] / "../shared"
    file = Path(folder) / "attacks" / "attacks.jsonl"
    if not file.exists():
        return []
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [entry for entry in entries if entry["tool"] in ("python", "bash")]


@pytest.fixture
def targets(tmp_path: Path, secret: str) -> Iterator[dict[str, str]]:
    """Things on the host that an attack must not reach."""
    canary = tmp_path / "canary.txt"
    canary.write_text("canary")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield {
            "CANARY": str(canary),
            "PORT": str(listener.getsockname()[1]),
            "SECRET": _SECRET,
            "SECRET_ENV": _SECRET,
            "SECRET_ENV_RE": _SECRET,
            "SECRET_A": secret[:16],
            "SECRET_B": secret[16:],
            "SECRET_VAL_A": secret[:16],
            "SECRET_VAL_B": secret[16:],
        }


def _fill(code: str, targets: dict[str, str]) -> str:
    return re.sub(r"\{([A-Z_]+)\}", lambda match: targets.get(match[1], match[0]), code)


class Heartbeat:
    """Notices when the whole machine stands still, so that nobody else is blamed for it."""

    def __init__(self) -> None:
        self.lost = 0.0  # seconds
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            self.lost += max(0.0, time.monotonic() - before - 0.1)

    def stop(self) -> None:
        self._beating.cancel()


async def _strike(session: Session, tool: str, code: str, wall: float) -> tuple[Result, float]:
    """Run an attack; the seconds do not count those in which the machine stood still."""
    heart = Heartbeat()
    started = time.monotonic()
    run = session.exec if tool == "bash" else session.run_cell
    result = await run(code, wall_seconds=wall)
    seconds = time.monotonic() - started - heart.lost
    heart.stop()
    return result, seconds


async def _assert_harmless(sandbox: NamespaceSandbox, tool: str, code: str, wall: float) -> Result:
    """Run one attack beside a sibling: it ends in time, the sibling does not notice, and nothing survives."""
    async with await sandbox.create(LIMITS) as sibling:
        await sibling.put("SIBLING_CANARY.txt", b"x")
        await sibling.run_cell("ready = True")
        before = descendants(os.getpid())
        async with await sandbox.create(LIMITS) as session:
            attack = asyncio.create_task(_strike(session, tool, code, wall))
            await asyncio.sleep(0.05)
            async with asyncio.timeout(SIBLING):
                assert (await sibling.run_cell("6 * 7")).stdout == "42\n"
            result, seconds = await attack
            assert seconds < wall + 1
            assert "ESCAPED" not in result.stdout + result.stderr, result
            assert result.status is not Status.session_lost, result
            after = await session.run_cell("print('after')", wall_seconds=WALL)
            assert after.status in (Status.ok, Status.timeout), after
        assert descendants(os.getpid()) <= before
        return result


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.category}-{attack.name}")
@in_one_loop
async def test_attack(attack: Attack, sandbox: NamespaceSandbox, targets: dict[str, str]) -> None:
    wall = PATIENT if "timeout" not in attack.ends else WALL
    result = await _assert_harmless(sandbox, attack.tool, _fill(attack.code, targets), wall)
    assert result.status in attack.ends, result
    if attack.ends == DONE and not attack.works_outside:
        assert "BLOCKED" in result.stdout, result  # the attempt was really made


@pytest.mark.parametrize("entry", _shared_attacks(), ids=lambda entry: entry["id"])
@in_one_loop
async def test_shared_attack(
    entry: dict[str, str], sandbox: NamespaceSandbox, targets: dict[str, str]
) -> None:
    wall = WALL if entry["oracle"] == "bounded" else PATIENT
    result = await _assert_harmless(sandbox, entry["tool"], _fill(entry["code"], targets), wall)
    if entry["oracle"] == "bounded" and entry["category"] == "resource":
        assert result.status in (Status.timeout, Status.oom, Status.output_limit, Status.crashed), result


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.works_outside], ids=lambda attack: attack.name
)
def test_the_attack_works_where_nothing_confines_it(attack: Attack, targets: dict[str, str]) -> None:
    """Otherwise its failing inside would prove nothing."""
    program = ["/bin/bash", "-c"] if attack.tool == "bash" else [sys.executable, "-c"]
    done = subprocess.run([*program, _fill(attack.code, targets)], capture_output=True, text=True, timeout=20)
    assert "ESCAPED" in done.stdout, done


@in_one_loop
async def test_sessions_share_nothing(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create() as one, await sandbox.create() as other:
        await one.run_cell(
            "import socket, builtins, os\nbuiltins.poison = os.environ['POISON'] = 'x'\n"
            "s = socket.create_server(('127.0.0.1', 45999)); "
            "u = socket.socket(socket.AF_UNIX); u.bind('\\0name'); u.listen()"
        )
        await one.exec(
            "echo x > /tmp/x; echo x > /dev/shm/x; echo x > x; echo 'print(1)' > sitecustomize.py; sleep 60 &"
        )
        seen = await other.run_cell(
            "import os, socket, builtins\n"
            "def reaches(family, address):\n"
            "    try: socket.socket(family).connect(address); return True\n"
            "    except OSError: return False\n"
            "[os.listdir(p) for p in ('/workspace', '/tmp', '/dev/shm')], hasattr(builtins, 'poison'),"
            " 'POISON' in os.environ,"
            " reaches(socket.AF_INET, ('127.0.0.1', 45999)), reaches(socket.AF_UNIX, '\\0name')"
        )
        assert seen.stdout == "([[], [], []], False, False, False, False)\n", seen
        assert (await other.exec("pgrep -c sleep; ls /proc | grep -c '^[0-9]'")).stdout.split()[0] == "0"


@in_one_loop
async def test_a_link_race_never_yields_a_file_from_elsewhere(sandbox: NamespaceSandbox) -> None:
    race = (
        "while :; do ln -sfn /etc/passwd r; rm -f r; echo mine > r; rm -rf d; mkdir d; echo mine > d/passwd; "
        "rm -rf d; ln -sfn /etc d; done"
    )
    async with await sandbox.create() as session:
        await session.exec(f"({race}) >/dev/null 2>&1 &")
        for _ in range(100):
            for path in ("r", "d/passwd"):
                try:
                    data = await session.get(path)
                except ToolError:
                    continue
                assert data in (b"mine\n", b"")


@in_one_loop
async def test_output_that_looks_like_a_frame_is_output(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create() as session:
        frame = "\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x00{}"
        result = await session.run_cell(
            f"import sys\nsys.stdout.buffer.write(b'{frame}' * 500)\nsys.stdout.flush()"
        )
        assert result.status is Status.ok and len(result.stdout) == 10 * 500
        assert (await session.run_cell("#" * 3_000_000 + "\n'long'")).stdout == "'long'\n"
