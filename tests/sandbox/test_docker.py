"""The docker backend, on a daemon of its own: what every backend promises, and what containers add."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio
from attack_list import shared_attacks
from dockerd import Daemon, running

from agentrl.errors import ConfigError, SandboxError, SandboxUnavailable, SessionLost
from agentrl.sandbox import Limits, Status
from agentrl.sandbox.conformance import RUNNERS, Promise, Suite, attempting, promises
from agentrl.sandbox.container_daemon import OWNER_LABEL
from agentrl.sandbox.container_profile import profile
from agentrl.sandbox.containers import DockerSandbox
from agentrl.sandbox.image import build_image, image_name
from agentrl.tools.untrusted.attempts import ATTEMPTS

pytestmark = pytest.mark.slow

_LIMITS = Limits(wall_seconds=60, cpu_seconds=60)
# What handles untrusted data, as far as the image has the libraries: Debian has no DuckDB.
_RUNNERS = {tool: attempting(ATTEMPTS[tool]) for tool in ("sqlite", "image", "http")}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    # a short path: that of a socket may have 107 characters
    with running(Path(tempfile.mkdtemp(prefix="dockerd-"))) as daemon:
        build_image(lambda line: None)
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.DockerClient(daemon.address)) as client:
        yield client


@pytest.fixture
async def containers(daemon: Daemon) -> AsyncIterator[DockerSandbox]:
    async with DockerSandbox() as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def suite(daemon: Daemon) -> AsyncIterator[Suite]:
    async with Suite(DockerSandbox) as suite:
        yield suite


def _tried() -> list[Promise]:
    """Every third of the suite's own attacks, since a container takes a second to make, and all the rest."""
    own = [each.name for each in promises() if each.group == "attacks"]
    left_out = {name for number, name in enumerate(own) if number % 3}
    return [
        each
        for each in promises(more_attacks=shared_attacks({**RUNNERS, **_RUNNERS}), more_runners=_RUNNERS)
        if each.name not in left_out
    ]


@pytest.mark.parametrize(
    "promise",
    _tried(),
    ids=lambda promise: f"{promise.group}-{promise.name}",
)
@pytest.mark.asyncio(loop_scope="module")
async def test_conformance(promise: Promise, suite: Suite) -> None:
    check = await suite.check(promise)
    assert check.ok, f"{promise.text}\n{check.detail}"


async def test_the_files_in_view_are_the_image_s(containers: DockerSandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    async with await containers.create(_LIMITS) as session:
        seen = await session.exec(
            f"cat /etc/shadow; ls -A /root /home; ls {tmp_path}; touch /sys/x /etc/x /var/x /run/x /opt/x /x"
        )
        assert seen.stdout.replace("/home:", "").strip() == "", seen
        assert seen.stderr.count("Read-only file system") + seen.stderr.count("Permission denied") == 8, seen


async def test_the_container_is_made_as_hard_as_the_daemon_can(
    containers: DockerSandbox, client: docker.DockerClient
) -> None:
    async with await containers.create(Limits(memory_mb=100, processes=9)) as session:
        made = await asyncio.to_thread(client.api.inspect_container, session.id)
    host, config = made["HostConfig"], made["Config"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert not host["Binds"]
    assert made["Mounts"] == []
    assert host["LogConfig"]["Type"] == "none"
    assert host["Memory"] == host["MemorySwap"] > 100 << 20
    assert host["PidsLimit"] > 9
    assert "no-new-privileges" in host["SecurityOpt"]
    assert f"seccomp={profile()}" in host["SecurityOpt"]
    assert int(config["User"].partition(":")[0]) > 0


async def test_a_killed_container_is_a_lost_session_and_no_other_notices(
    containers: DockerSandbox, client: docker.DockerClient
) -> None:
    async with await containers.create(_LIMITS) as session, await containers.create(_LIMITS) as sibling:
        await sibling.run_cell("x = 1")
        call = asyncio.create_task(session.run_cell("import time; time.sleep(3600)"))
        await sibling.run_cell("import time; time.sleep(0.2)")
        await asyncio.to_thread(client.api.kill, session.id)
        assert (await call).status is Status.session_lost
        assert (await session.run_cell("1")).status is Status.session_lost
        with pytest.raises(SessionLost):
            await session.get("x")
        assert (await sibling.run_cell("x")).stdout == "1\n"


async def test_a_full_stream_that_nobody_reads_does_not_hold_up_the_end(
    containers: DockerSandbox, client: docker.DockerClient
) -> None:
    session = await containers.create(_LIMITS)
    await session.exec("(yes >&2 &) ; (yes &)")
    await session.close()
    assert not await asyncio.to_thread(client.containers.list, all=True)


async def test_a_fork_has_the_files_as_they_are(containers: DockerSandbox) -> None:
    async with await containers.create(_LIMITS) as session:
        await session.exec("mkdir d; echo run > d/x; chmod 711 d/x; ln -s d/x link; echo t > /tmp/t")
        async with await session.fork() as copy:
            seen = await copy.exec("cat link /tmp/t; stat -c %a d/x")
            assert seen.stdout.split() == ["run", "t", "711"]


async def test_sessions_are_bounded_and_a_place_is_given_back(daemon: Daemon) -> None:
    async with DockerSandbox(max_sessions=1) as sandbox:
        first = await sandbox.create()
        waiting = asyncio.create_task(sandbox.create())
        await first.run_cell("1")
        assert not waiting.done()
        await first.close()
        async with await waiting as second:
            assert (await second.run_cell("1")).stdout == "1\n"


async def test_a_cancelled_create_leaves_no_container(
    containers: DockerSandbox, client: docker.DockerClient
) -> None:
    for _ in range(3):
        creating = asyncio.create_task(containers.create())
        await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert not await asyncio.to_thread(client.containers.list, all=True)


_OWNER = """
import asyncio, os, signal
from agentrl.sandbox.containers import DockerSandbox

async def main():
    session = await DockerSandbox().create()
    print(session.id, flush=True)
    await session.run_cell("import time; time.sleep(3600)", wall_seconds=3600)

asyncio.run(main())
"""


async def test_the_containers_of_a_killed_process_end_by_themselves(
    daemon: Daemon, client: docker.DockerClient
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    name = (await asyncio.to_thread(owner.stdout.readline)).strip()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with contextlib.suppress(docker.errors.NotFound):
        await asyncio.to_thread(client.api.wait, name, 60, "removed")
    assert not await asyncio.to_thread(client.containers.list, all=True)


async def test_opening_removes_what_dead_processes_left_and_nothing_else(
    containers: DockerSandbox, client: docker.DockerClient
) -> None:
    async with await containers.create() as mine:
        owner = (await asyncio.to_thread(client.api.inspect_container, mine.id))["Config"]["Labels"][
            OWNER_LABEL
        ]
        dead = owner.rsplit("/", 1)[0] + "/1"  # our pid, started at another time
        elsewhere = "another-boot/1/2/3"
        made = [
            client.api.create_container(image_name(), ["true"], labels={OWNER_LABEL: label})["Id"]
            for label in (dead, elsewhere)
        ]
        async with DockerSandbox() as other, await other.create():
            left = {each.id for each in await asyncio.to_thread(client.containers.list, all=True)}
        client.api.remove_container(made[1])
        assert made[0] not in left
        assert made[1] in left
        assert (await mine.run_cell("1")).stdout == "1\n"


async def test_a_runtime_or_image_that_is_missing_is_named(daemon: Daemon) -> None:
    for options, word in (({"runtime": "runsc"}, "runsc"), ({"image": "nothing:here"}, "nothing:here")):
        async with DockerSandbox(**options) as sandbox:  # type: ignore[arg-type]
            with pytest.raises(SandboxUnavailable, match=word):
                await sandbox.create()


@pytest.mark.parametrize("options", [{"max_sessions": 0}, {"cpus": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        DockerSandbox(**options)  # type: ignore[arg-type]


def test_without_a_daemon_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    availability = DockerSandbox.availability()
    assert not availability.ok
    assert "dockerd" in availability.reason


def test_the_profile_names_each_call_in_rules_that_can_hold_together() -> None:
    for machine in ("x86_64", "aarch64"):
        rules = json.loads(profile(machine))["syscalls"]
        outright = {name for rule in rules if not rule["args"] for name in rule["names"]}
        conditional = {name for rule in rules if rule["args"] for name in rule["names"]}
        assert not outright & conditional
        assert not {"io_uring_setup", "ptrace", "mount", "unshare", "bpf", "keyctl"} & (
            outright | conditional
        )


async def test_a_daemon_killed_in_the_middle_of_a_call(daemon: Daemon) -> None:
    """Last: the daemon is started anew, and ends what was running."""
    async with DockerSandbox() as sandbox:
        session = await sandbox.create(_LIMITS)
        call = asyncio.create_task(session.run_cell("import time; time.sleep(3600)"))
        await asyncio.sleep(0.2)
        daemon.kill()
        assert (await call).status is Status.session_lost
        with pytest.raises(SandboxError):
            await sandbox.create()
        assert not DockerSandbox.availability().ok
        await session.close()
    daemon.start()
    async with DockerSandbox() as sandbox, await sandbox.create(_LIMITS) as session:
        assert (await session.run_cell("1")).stdout == "1\n"
