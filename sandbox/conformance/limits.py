"""What a session may use, and what happens when it wants more."""

from __future__ import annotations

from dataclasses import replace

from agentrl.errors import ToolError
from agentrl.sandbox.protocol import Limits, Status

from .suite import PATIENT, Ground, NotOffered, expect, promise

_SHORT = 0.5  # seconds, for what would never end


@promise("limits")
async def wall_time_of_a_cell(ground: Ground) -> None:
    """A cell is stopped at its wall limit: the output so far comes, the interpreter restarts, files stay."""
    async with ground.session() as session:
        await session.run_cell("x = 1; open('kept.txt', 'w').write('here')")
        result = await session.run_cell("print('begun')\nwhile True: pass", wall_seconds=_SHORT)
        expect(result.status is Status.timeout, "it is a timeout", result)
        expect(result.exit_code is None, "a stopped call has no exit code", result)
        expect(result.stdout in ("begun\n", ""), "nothing but its own output", result)
        expect("variables are gone" in result.detail, "detail tells that variables are gone", result)
        after = await session.run_cell("x")
        expect("NameError" in after.stderr, "the interpreter is a fresh one", after)
        expect(await session.get("kept.txt") == b"here", "files stay")


@promise("limits")
async def wall_time_of_the_session(ground: Ground) -> None:
    """The limits' own wall_seconds holds for calls that give none."""
    async with ground.session(replace(PATIENT, wall_seconds=_SHORT)) as session:
        result = await session.exec("sleep 3600")
        expect(result.status is Status.timeout, "it is a timeout", result)


@promise("limits")
async def wall_time_of_a_command(ground: Ground) -> None:
    """A command over its wall limit ends with all that it started; the interpreter keeps its variables."""
    async with ground.session() as session:
        await session.run_cell("x = 9")
        stopped = await session.exec("while true; do (sleep 3597 &); sleep 0.05; done", wall_seconds=_SHORT)
        expect(stopped.status is Status.timeout, "it is a timeout", stopped)
        kept = await session.run_cell("x")
        expect(kept.stdout == "9\n" or "gone" in stopped.detail, "variables stay, or detail says not", kept)
        left = await session.exec("grep -sl '359[7]' /proc/[0-9]*/cmdline || echo none")
        expect(left.stdout == "none\n", "nothing that it started is left", left)


@promise("limits")
async def wall_time_of_a_script(ground: Ground) -> None:
    """A script over its wall limit is stopped."""
    async with ground.session() as session:
        result = await session.run_script("while True: pass", wall_seconds=_SHORT)
        expect(result.status is Status.timeout, "it is a timeout", result)


@promise("limits")
async def wall_time_holds_against_signals(ground: Ground) -> None:
    """Code that ignores every signal is stopped all the same."""
    async with ground.session() as session:
        code = (
            "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\nwhile True: time.sleep(1)"
        )
        result = await session.run_cell(code, wall_seconds=_SHORT)
        expect(result.status is Status.timeout, "it is a timeout", result)


@promise("limits")
async def cpu_time_of_all_processes_together(ground: Ground) -> None:
    """CPU time is that of all the session's processes together."""
    async with ground.session(Limits(cpu_seconds=_SHORT, wall_seconds=60)) as session:
        result = await session.run_cell("import os\nfor _ in range(3): os.fork()\nwhile True: pass")
        expect(result.status is Status.timeout, "it is a timeout", result)
        expect("CPU" in result.detail, "detail names the CPU time", result)


@promise("limits")
async def memory_of_one_process(ground: Ground) -> None:
    """A cell over the memory limit is out of memory, and the session goes on."""
    async with ground.session(replace(PATIENT, memory_mb=128)) as session:
        code = "x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1"
        result = await session.run_cell(code)
        expect(result.status is Status.oom, "it is out of memory", result)
        after = await session.run_cell("1")
        expect(after.stdout == "1\n", "the session goes on", after)


@promise("limits")
async def memory_of_all_processes_together(ground: Ground) -> None:
    """The memory limit holds for the sum of a session's processes."""
    if any("per process" in sentence for sentence in ground.availability.weaker):
        raise NotOffered("availability() says that memory is limited per process")
    async with ground.session(replace(PATIENT, memory_mb=128)) as session:
        one = "x = b'x' * (40 << 20); import time; time.sleep(30)"
        result = await session.exec(f'for i in 1 2 3 4 5 6; do python3 -S -c "{one}" & done; wait -n; exit 9')
        expect(result.status is Status.oom, "it is out of memory", result)


@promise("limits")
async def output_is_cut(ground: Ground) -> None:
    """Of each stream the first output_bytes are kept, and truncated is set."""
    async with ground.session(replace(PATIENT, output_bytes=1000)) as session:
        code = "import sys\nprint('a' * 3000)\nprint('b' * 3000, file=sys.stderr)"
        for result in (await session.run_cell(code), await session.run_script(code)):
            expect(result.status is Status.ok, "a little too much is no error", result)
            expect(result.truncated, "truncated is set", result)
            expect((result.stdout, result.stderr) == ("a" * 1000, "b" * 1000), "the first bytes", result)


@promise("limits")
async def a_flood_of_output_is_stopped(ground: Ground) -> None:
    """What prints far more than the limit is stopped, with or without line ends."""
    async with ground.session(replace(PATIENT, output_bytes=1000)) as session:
        cell = await session.run_cell("import sys\nwhile True: sys.stdout.write('A' * 100000)")
        expect(cell.status is Status.output_limit, "a cell is stopped", cell)
        expect(len(cell.stdout) == 1000, "the beginning is kept", cell)
        command = await session.exec("yes >&2")
        expect(command.status is Status.output_limit, "a command is stopped", command)
        after = await session.run_cell("1")
        expect(after.stdout == "1\n", "the session goes on", after)


@promise("limits")
async def disk_space(ground: Ground) -> None:
    """disk_mb holds for the session's files together, for its code and for put."""
    async with ground.session(replace(PATIENT, disk_mb=4)) as session:
        try:
            for index in range(4):
                await session.put(f"{index}.bin", bytes(2 << 20))
        except ToolError:
            pass
        else:
            expect(False, "put raises ToolError when the space is used up")
        written = await session.exec(
            "rm -f *; for i in 1 2 3 4; do head -c 2M /dev/zero > $i || exit 9; done"
        )
        expect(written.status is Status.error, "a program meets an error", written)


@promise("limits")
async def the_largest_file(ground: Ground) -> None:
    """No file grows past disk_mb, holes counted."""
    async with ground.session(replace(PATIENT, disk_mb=4)) as session:
        result = await session.run_cell(
            "import os\nopen('s', 'w').close()\ntry: os.truncate('s', 1 << 40)\n"
            "except OSError: print('refused')"
        )
        expect(result.stdout == "refused\n" or result.status is Status.crashed, "it is refused", result)


@promise("limits")
async def number_of_files(ground: Ground) -> None:
    """inodes holds for files and folders."""
    async with ground.session(replace(PATIENT, inodes=50)) as session:
        result = await session.exec("for i in $(seq 100); do touch f$i || exit 1; done")
        expect(result.status is Status.error, "a program meets an error", result)


@promise("limits")
async def number_of_processes(ground: Ground) -> None:
    """processes holds for processes and threads."""
    async with ground.session(replace(PATIENT, processes=8)) as session:
        result = await session.run_cell(
            "import os, signal\npids = []\ntry:\n    for _ in range(40):\n        pid = os.fork()\n"
            "        if pid == 0:\n            signal.pause()\n        pids.append(pid)\n"
            "except OSError: pass\nfor pid in pids: os.kill(pid, 9); os.waitpid(pid, 0)\nprint(len(pids))"
        )
        expect(result.status is Status.ok and int(result.stdout) < 40, "fork fails at the limit", result)
        after = await session.run_cell("1")
        expect(after.stdout == "1\n", "the session goes on", after)


@promise("limits")
async def number_of_open_files(ground: Ground) -> None:
    """open_files holds for each process."""
    async with ground.session(replace(PATIENT, open_files=64)) as session:
        result = await session.run_cell(
            "import os\ntry: fds = [os.open('/dev/null', 0) for _ in range(200)]\n"
            "except OSError: print('refused')"
        )
        expect(result.stdout == "refused\n", "open fails at the limit", result)
