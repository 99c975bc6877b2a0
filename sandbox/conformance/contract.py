"""What the calls of a session mean."""

from __future__ import annotations

from agentrl.errors import ConfigError, SandboxUnavailable, ToolError
from agentrl.sandbox.protocol import DEFAULT_LIMITS, Limits, Session, Status

from .suite import PATIENT, Ground, NotOffered, expect, promise


@promise("contract")
async def cells_keep_variables(ground: Ground) -> None:
    """A cell finds the variables, functions and imports of the cells before it."""
    async with ground.session() as session:
        first = await session.run_cell("import math\nx = 20\nprint('set')")
        second = await session.run_cell("x += 1\nprint(math.floor(x * 2.0))")
        expect(first.status is Status.ok and first.stdout == "set\n", "a cell that ends is ok", first)
        expect(first.exit_code == 0 and not first.truncated, "an ok cell has exit code 0", first)
        expect(second.stdout == "42\n", "the next cell has its variables", second)


@promise("contract")
async def a_last_value_is_printed(ground: Ground) -> None:
    """The value of a last expression is printed, as in a notebook, unless it is None."""
    async with ground.session() as session:
        value = await session.run_cell("x = 6\nx * 7")
        nothing = await session.run_cell("None")
        expect(value.stdout == "42\n", "the last value is printed", value)
        expect(nothing.stdout == "", "None is not printed", nothing)


@promise("contract")
async def an_exception_is_an_error(ground: Ground) -> None:
    """An exception gives status error with the cell's own traceback, and the variables stay."""
    async with ground.session() as session:
        await session.run_cell("def f(n):\n    return 1 / n")
        result = await session.run_cell("before = 1\nf(0)")
        expect(result.status is Status.error, "an exception is an error", result)
        expect("ZeroDivisionError" in result.stderr, "stderr shows the exception", result)
        expect("return 1 / n" in result.stderr, "the traceback shows the cell's lines", result)
        expect((await session.run_cell("before")).stdout == "1\n", "variables stay after an error")


@promise("contract")
async def code_that_cannot_run_is_an_error(ground: Ground) -> None:
    """Bad syntax, NUL, lone surrogates and odd exceptions are errors of the code, and the session goes on."""
    async with ground.session() as session:
        for code in ("1 +", "x = '\0'", "\ud800", "raise BaseException('odd')", "raise SystemExit('no')"):
            result = await session.run_cell(code)
            expect(result.status is Status.error and result.stderr != "", f"{code!r} is an error", result)
            expect((await session.run_cell("1")).stdout == "1\n", f"the session goes on after {code!r}")


@promise("contract")
async def leaving_a_cell_keeps_the_interpreter(ground: Ground) -> None:
    """sys.exit ends the cell with that code, not the interpreter."""
    async with ground.session() as session:
        await session.run_cell("x = 5")
        clean = await session.run_cell("import sys; sys.exit(0)")
        coded = await session.run_cell("exit(3)")
        expect(clean.status is Status.ok, "exit code 0 is ok", clean)
        expect(coded.status is Status.error and coded.exit_code == 3, "the exit code is told", coded)
        expect((await session.run_cell("x")).stdout == "5\n", "variables stay after an exit")


@promise("contract")
async def a_copy_of_the_interpreter_does_not_answer(ground: Ground) -> None:
    """A cell that forks is answered once, by the original."""
    async with ground.session() as session:
        result = await session.run_cell(
            "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    os.wait(); print('parent')"
        )
        expect(sorted(result.stdout.split()) == ["child", "parent"], "both may print", result)
        once = await session.run_cell("print('once')")
        expect(once.stdout == "once\n", "the next cell runs once", once)


@promise("contract")
async def a_crash_of_a_cell_is_told(ground: Ground) -> None:
    """A signal or an exit in the middle of a cell is a crash; the next cell has a fresh interpreter."""
    async with ground.session() as session:
        await session.put("kept", b"x")
        aborted = await session.run_cell("x = 1; import os; os.abort()")
        expect(aborted.status is Status.crashed, "a signal is a crash", aborted)
        expect(aborted.exit_code == -6, "the exit code is minus the signal", aborted)
        expect("variables are gone" in aborted.detail, "detail tells that variables are gone", aborted)
        left = await session.run_cell("import os; os._exit(7)")
        expect(left.status is Status.crashed and left.exit_code == 7, "an exit is a crash", left)
        after = await session.run_cell("'x' in globals()")
        expect(after.stdout == "False\n", "the interpreter is a fresh one", after)
        expect(await session.get("kept") == b"x", "files stay after a crash")


@promise("contract")
async def commands_are_programs_of_their_own(ground: Ground) -> None:
    """A command takes stdin and arguments, bash or not, and gives its streams and exit code."""
    async with ground.session() as session:
        both = await session.exec("cat; echo $((6 * 7)) >&2", stdin=b"in")
        expect((both.stdout, both.stderr) == ("in", "42\n"), "stdin, stdout and stderr are connected", both)
        plain = await session.exec(["printf", "%s|", "a b", "$HOME"])
        expect(plain.stdout == "a b|$HOME|", "a list is run as it is, by no shell", plain)
        failed = await session.exec("exit 3")
        expect(failed.status is Status.error and failed.exit_code == 3, "the exit code is told", failed)
        missing = await session.exec(["no-such-program"])
        expect(missing.status is Status.error and missing.exit_code == 127, "no such program: 127", missing)
        unread = await session.exec("true", stdin=b"x" * (1 << 20))
        expect(unread.status is Status.ok, "input that nobody reads does no harm", unread)


@promise("contract")
async def a_crash_of_a_command_is_told(ground: Ground) -> None:
    """A command that a signal ends has crashed."""
    async with ground.session() as session:
        result = await session.exec("kill -SEGV $$")
        expect(result.status is Status.crashed and result.exit_code == -11, "a signal is a crash", result)


@promise("contract")
async def scripts_are_programs_of_their_own(ground: Ground) -> None:
    """run_script runs a whole Python program: it is __main__, has stdin, and nothing of it is remembered."""
    async with ground.session() as session:
        await session.run_cell("x = 1")
        code = "import sys\nprint(__name__, 'x' in globals(), sys.stdin.read())\nx = 2\n7 * 6"
        result = await session.run_script(code, stdin=b"in")
        expect(result.status is Status.ok, "a script that ends is ok", result)
        expect(result.stdout == "__main__ False in\n", "it has its own __main__, and stdin", result)
        expect((await session.run_cell("x")).stdout == "1\n", "cells do not see its variables")
        failed = await session.run_script("import sys\nsys.exit(3)")
        expect(failed.status is Status.error and failed.exit_code == 3, "its exit code is told", failed)
        raised = await session.run_script("raise ValueError('odd')")
        expect(raised.status is Status.error and "ValueError: odd" in raised.stderr, "it may raise", raised)


@promise("contract")
async def stateless_calls_leave_nothing(ground: Ground) -> None:
    """Sandbox.run runs Python or bash in an empty folder, and the next run finds nothing of it."""
    for _ in range(2):
        code = "import os, sys\nprint(os.listdir(), sys.stdin.read())\nopen('left', 'w').close()"
        result = await ground.sandbox.run(code, stdin=b"in", limits=PATIENT)
        expect(result.stdout == "[] in\n", "Python begins in an empty folder, with stdin", result)
    result = await ground.sandbox.run("ls | wc -l; cat; exit 4", language="bash", stdin=b"in", limits=PATIENT)
    expect(result.stdout.split() == ["0", "in"] and result.exit_code == 4, "bash does too", result)


@promise("contract")
async def cells_commands_and_files_share_a_folder(ground: Ground) -> None:
    """Cells, commands, scripts, put and get all see one working folder."""
    async with ground.session() as session:
        await session.put("a.txt", b"put\n")
        await session.run_cell("open('b.txt', 'w').write('cell\\n')")
        await session.exec("echo exec > c.txt")
        await session.run_script("open('d.txt', 'w').write('script\\n')")
        seen = await session.exec("cat a.txt b.txt c.txt d.txt")
        expect(seen.stdout.split() == ["put", "cell", "exec", "script"], "one folder", seen)
        expect(await session.get("d.txt") == b"script\n", "get reads from it too")


@promise("contract")
async def files_go_in_and_out(ground: Ground) -> None:
    """put makes folders and replaces files; get gives back the same bytes."""
    data = bytes(range(256)) * 1000
    async with ground.session() as session:
        await session.put("a/b/data.bin", b"old")
        await session.put("a/b/data.bin", data)
        expect(await session.get("a/b/data.bin") == data, "the bytes come back")
        size = await session.run_cell("import os; os.path.getsize('a/b/data.bin')")
        expect(size.stdout == "256000\n", "guest code sees them", size)


async def _refused(session: Session, path: str, *, get: bool = True, put: bool = True) -> None:
    if get:
        try:
            data = await session.get(path, max_bytes=1 << 20)
        except ToolError:
            pass
        else:
            expect(False, f"get of {path!r} is refused", data)
    if put:
        try:
            await session.put(path, b"x")
        except ToolError:
            pass
        else:
            expect(False, f"put to {path!r} is refused")


@promise("contract")
async def paths_outside_are_refused(ground: Ground) -> None:
    """put and get raise ToolError for a path that leaves the working folder, or is none."""
    async with ground.session() as session:
        for path in ("../x", "/etc/passwd", "a/../../x", "", ".", "a\0b", "/proc/1/mem"):
            await _refused(session, path)


@promise("contract")
async def links_pipes_and_giants_are_refused(ground: Ground) -> None:
    """put and get follow no link, do not wait on a pipe, and get has a size limit that counts holes."""
    async with ground.session() as session:
        await session.exec(
            "ln -s /etc/passwd link; ln -s / root; ln -s /proc/self/mem mem; mkfifo pipe; "
            "truncate -s 60M big; mkdir dir"
        )
        for path in ("link", "root/etc/passwd", "mem", "pipe", "big", "dir", "absent"):
            await _refused(session, path, put=False)
        for path in ("root/tmp/x", "dir"):
            await _refused(session, path, get=False)
        for path in ("link", "pipe"):
            await session.put(path, b"mine")
            expect(await session.get(path) == b"mine", f"put replaces a {path} itself")


@promise("contract")
async def odd_output_is_text(ground: Ground) -> None:
    """Bytes that are no UTF-8, and bytes that look like a protocol's, come out as text and do no harm."""
    async with ground.session() as session:
        result = await session.run_cell(
            "import sys\nsys.stdout.buffer.write(b'\\xff\\x00\\x00\\x02\\x00\\x00\\x00\\x00{}' * 500)\n"
            "sys.stdout.flush()"
        )
        expect(result.status is Status.ok, "odd output is no error", result)
        expect(result.stdout.count("\ufffd") == 500, "replacement characters stand for it", result)
        long = await session.run_cell("#" * 3_000_000 + "\n'long'")
        expect(long.stdout == "'long'\n", "three megabytes of code are run", long)


@promise("contract")
async def modules_can_be_preloaded(ground: Ground) -> None:
    """preload names modules that the interpreter finds imported; an unknown one is a ConfigError."""
    async with ground.session(preload=["colorsys"]) as session:
        cell = await session.run_cell("import sys; 'colorsys' in sys.modules")
        expect(cell.stdout == "True\n", "a cell finds it imported", cell)
        script = await session.run_script("import sys\nprint('colorsys' in sys.modules)")
        expect(script.stdout == "True\n", "a script finds it imported", script)
    try:
        async with ground.session(preload=["no_such_module"]):
            expect(False, "a module that does not exist is a ConfigError")
    except ConfigError as error:
        expect("no_such_module" in str(error), "the ConfigError names the module", error)


@promise("contract")
async def limits_that_make_no_sense_are_refused(ground: Ground) -> None:
    """A limit of nothing is a ConfigError, and a network is given or refused, never promised in vain."""
    for limits in (Limits(memory_mb=0), Limits(wall_seconds=-1.0), Limits(processes=0)):
        try:
            async with ground.session(limits):
                expect(False, f"{limits} is a ConfigError")
        except ConfigError:
            pass
    try:
        async with ground.session(Limits(network=True)) as session:
            lines = await session.run_cell("len(open('/proc/net/dev').read().splitlines()) - 2")
            expect(int(lines.stdout) > 1, "network=True gives an interface beyond loopback", lines)
    except SandboxUnavailable:
        pass


@promise("contract")
async def a_session_can_be_copied(ground: Ground) -> None:
    """fork copies what the backend's `forks` says: files, and variables if that is ``memory``."""
    kind = ground.sandbox.forks
    async with ground.session() as session:
        await session.put("data", b"before")
        await session.run_cell("x = [1]")
        if kind == "none":
            try:
                await session.fork()
            except SandboxUnavailable:
                raise NotOffered("this backend says forks='none'") from None
            expect(False, "fork raises SandboxUnavailable where forks is 'none'")
        async with await session.fork() as copy:
            expect(copy.id != session.id, "the copy has a name of its own")
            await session.put("data", b"after")
            await session.run_cell("x.append(2)")
            expect(await copy.get("data") == b"before", "the copy has the files, and keeps its own")
            await copy.put("mine", b"x")
            names = await session.exec("ls")
            expect("mine" not in names.stdout, "the original does not see the copy's files", names)
            if kind == "memory":
                seen = await copy.run_cell("x")
                expect(seen.stdout == "[1]\n", "the copy has the variables, and keeps its own", seen)
            fresh = await copy.run_cell("1")
            expect(fresh.stdout == "1\n", "the copy runs cells", fresh)


@promise("contract")
async def default_limits_are_accepted(ground: Ground) -> None:
    """Sessions can be had with the default limits."""
    async with ground.session(DEFAULT_LIMITS) as session:
        expect(session.id != "", "a session has a name")
