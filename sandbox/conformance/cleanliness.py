"""Nothing is left of a session, or of a sandbox, once it was closed."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace

from agentrl.sandbox.protocol import Status

from .suite import PATIENT, Ground, NotOffered, expect, promise
from .traces import becomes, descendants, files_named, open_descriptors, processes_named, shared_memory


@promise("cleanliness")
async def no_process_is_left_of_a_session(ground: Ground) -> None:
    """Every process ends with its session: background ones, daemons, those of the interpreter."""
    before = len(descendants(os.getpid()))
    word = f"3{secrets.randbelow(10**8):08}"
    async with ground.session() as session:
        await session.exec(f"setsid sleep {word} & (setsid setsid sleep {word} &) ; sleep {word} & true")
        await session.run_cell(f"import subprocess\nsubprocess.Popen(['sleep', '{word}']).poll()")
        seen = await becomes(lambda: len(processes_named(word)) >= 4, ground.settle / 4)
    gone = await becomes(lambda: not processes_named(word), ground.settle)
    expect(gone, "no process of the session is left", processes_named(word))
    settled = await becomes(lambda: len(descendants(os.getpid())) <= before, ground.settle)
    expect(settled, "no more processes below this one than before", descendants(os.getpid()))
    if not seen:
        raise NotOffered("this backend's processes cannot be seen from here, so none could be missed")


@promise("cleanliness")
async def no_process_is_left_of_a_sandbox(ground: Ground) -> None:
    """Every process ends with its sandbox, with sessions open or not, the backend's own included."""
    before = descendants(os.getpid())
    word = f"3{secrets.randbelow(10**8):08}"
    async with ground.open_another() as sandbox:
        for _ in range(3):
            session = await sandbox.create()
            await session.exec(f"setsid sleep {word} & true")
    gone = await becomes(lambda: not processes_named(word), ground.settle)
    expect(gone, "no process of its sessions is left", processes_named(word))
    settled = await becomes(lambda: len(descendants(os.getpid())) <= len(before), ground.settle)
    expect(settled, "no process of the sandbox is left", descendants(os.getpid()) - before)


@promise("cleanliness")
async def no_descriptor_is_left(ground: Ground) -> None:
    """Sessions with their calls, stopped ones too, leave no descriptor open in this process."""
    async with ground.session() as session:
        await session.run_cell("1")
    before = open_descriptors()
    for _ in range(5):
        async with ground.session() as session:
            await session.run_cell("1")
            await session.exec("sleep 3600", wall_seconds=0.1)
    settled = await becomes(lambda: open_descriptors() <= before, ground.settle)
    expect(settled, f"no more descriptors than the {before} before", open_descriptors())


@promise("cleanliness")
async def no_file_is_left(ground: Ground) -> None:
    """Files of a session, in whichever writable folder, end with it."""
    word = f"agentrl-left-{secrets.token_hex(8)}"
    async with ground.session() as session:
        await session.exec(f"mkdir -p deep; touch {word} /tmp/{word} /dev/shm/{word} deep/{word}")
        await session.put(f"deep/{word}-put", b"x")
    await becomes(lambda: not files_named(word), ground.settle)
    left = files_named(word)
    for path in left:
        os.unlink(path)
    expect(not left, "no file of the session is left", left)


@promise("cleanliness")
async def no_memory_is_left(ground: Ground) -> None:
    """Memory in which a session kept its files is free again afterwards."""
    before, written = shared_memory(), 0
    for _ in range(4):
        async with ground.session(replace(PATIENT, disk_mb=64)) as session:
            await session.exec("head -c 60M /dev/zero > x")
            written += 60 << 20
    freed = await becomes(lambda: shared_memory() - before < written // 2, ground.settle)
    expect(freed, "files kept in memory are freed", f"{(shared_memory() - before) >> 20} MiB more")


@promise("cleanliness")
async def a_stateless_call_finds_nothing_of_the_last(ground: Ground) -> None:
    """Files, processes, ports and settings of a stateless call are gone when the next one begins."""
    number = f"3{secrets.randbelow(10**8):08}"
    word = f"agentrl-seen-{number}"
    try:
        for _ in range(2):
            first = await ground.sandbox.run(_dirty(number, word), limits=PATIENT)
            expect(first.status is Status.ok, "the call may make a mess", first)
            second = await ground.sandbox.run(_look(word), limits=PATIENT)
            expect(second.stdout == "[] []\n", "the next finds nothing", second)
            search = f"grep -sl '{number[:-1]}[{number[-1]}]' /proc/[0-9]*/cmdline || echo none"
            found = await ground.sandbox.run(search, language="bash", limits=PATIENT)
            expect(found.stdout == "none\n", "its processes are gone", found)
    finally:
        for path in files_named(word):
            os.unlink(path)


def _dirty(number: str, word: str) -> str:
    return (
        "import os, socket, subprocess, time\n"
        f"for p in ('.', '/tmp', '/dev/shm'): open(p + '/{word}', 'w').close()\n"
        "os.mkdir('locked'); os.chmod('locked', 0)\n"
        "open('sitecustomize.py', 'w').write('print(1)')\nos.chmod('.', 0o500)\n"
        f"subprocess.Popen(['setsid', 'sleep', '{number}'])\n"
        "if os.fork() == 0:\n    s = socket.create_server(('127.0.0.1', 45998)); os.setsid(); time.sleep(60)"
    )


def _look(word: str) -> str:
    return (
        "import os, socket\n"
        "try: socket.create_connection(('127.0.0.1', 45998)); print('port')\nexcept OSError: pass\n"
        f"print([p for p in ('.', '/tmp', '/dev/shm') if os.path.exists(p + '/{word}')], os.listdir())\n"
        "open('x', 'w').close()"
    )
