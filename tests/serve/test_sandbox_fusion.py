"""SandboxFusion's protocol, with its own client and real code in a real sandbox."""

from __future__ import annotations

import asyncio
import base64
from functools import partial

import aiohttp
import pytest
import sandbox_fusion as client
from sandbox_fusion import RunCodeRequest, RunJupyterRequest, RunStatus
from serve_support import Recording, answering

from agentrl.errors import ServerBusy
from agentrl.sandbox import open_sandbox
from agentrl.serve.protocols import sandbox_fusion
from agentrl.tools.code import Code
from agentrl.tools.python import Python


@pytest.fixture
async def host():
    async with open_sandbox() as sandbox, Recording([Code(memory_mb=128), Python()], sandbox) as host:
        yield host


@pytest.fixture
async def url(host):
    async with answering(sandbox_fusion.routes(host)) as address:
        yield address


@pytest.fixture
def run(url):
    async def run(code, language="python", **fields):
        request = RunCodeRequest(code=code, language=language, **fields)
        return await client.run_code_async(request, endpoint=url, max_attempts=1)

    return run


@pytest.mark.parametrize(
    ("language", "code"), [("python", "print(input())"), ("bash", "read line; echo $line")]
)
async def test_programs_read_and_print(run, language, code):
    answer = await run(code, language, stdin="seen\n")
    assert answer.status == RunStatus.Success and answer.message == "" and answer.compile_result is None
    result = answer.run_result
    assert (result.status, result.return_code, result.stdout, result.stderr) == ("Finished", 0, "seen\n", "")
    assert result.execution_time > 0


@pytest.mark.parametrize(("code", "exit_code"), [("1/0", 1), ("import sys; sys.exit(3)", 3)])
async def test_a_failing_program_has_its_exit_code(run, code, exit_code):
    answer = await run(code)
    assert answer.status == RunStatus.Failed and answer.run_result.status == "Finished"
    assert answer.run_result.return_code == exit_code
    assert ("ZeroDivisionError" in answer.run_result.stderr) == (exit_code == 1)


@pytest.mark.parametrize("fields", [{}, {"fetch_files": ["x"]}])
async def test_a_program_that_runs_too_long(run, fields):
    answer = await run("print('on', flush=True)\nwhile True: pass", run_timeout=1, **fields)
    result = answer.run_result
    assert answer.status == RunStatus.Failed and result.status == "TimeLimitExceeded"
    assert result.return_code is None and result.stdout == "on\n"


@pytest.mark.parametrize("code", ["import os; os.kill(os.getpid(), 9)", "b = b'1' * 10**9"])
async def test_a_program_that_is_ended_has_a_return_code(run, code):
    answer = await run(code)
    assert answer.status == RunStatus.Failed and answer.run_result.status == "Finished"
    assert answer.run_result.return_code not in (0, None) and answer.run_result.stderr


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "d = open('in/a.bin', 'rb').read(); open('out.bin', 'wb').write(d[::-1])"),
        ("bash", "tac -rs . in/a.bin > /dev/null; python3 -c \"d = open('in/a.bin', 'rb').read(); "
         "open('out.bin', 'wb').write(d[::-1])\""),
    ],
)  # fmt: skip
async def test_files_go_in_and_out(run, language, code):
    data = bytes(range(256))
    answer = await run(
        code,
        language,
        files={"in/a.bin": base64.b64encode(data).decode(), "left out": None},
        fetch_files=["out.bin", "missing.txt"],
    )
    assert answer.status == RunStatus.Success
    assert {path: base64.b64decode(kept) for path, kept in answer.files.items()} == {"out.bin": data[::-1]}
    assert answer.message == "not there, or too large: missing.txt"


async def test_nothing_is_left_of_a_call_with_files(run):
    await run("open('left', 'w').write('x')", fetch_files=["left"])
    answer = await run("import os; print(os.listdir())", fetch_files=["left"])
    assert answer.run_result.stdout == "[]\n" and answer.files == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"language": "cpp"}, "'cpp' is not run here"),
        ({"files": {"a": "!"}}, "not base64"),
        ({"files": {"../a": ""}}, r"\.\./a"),
    ],
)
async def test_what_is_not_run_is_the_clients_own_error(run, fields, words):
    with pytest.raises(Exception, match=f"Sandbox responded with error: .*{words}"):
        await run("print(1)", **fields)


async def test_many_calls_at_once_keep_apart(run):
    answers = await asyncio.gather(*(run(f"print({number})") for number in range(32)))
    assert [answer.run_result.stdout for answer in answers] == [f"{number}\n" for number in range(32)]


async def test_the_blocking_client_works_too(url):
    request = RunCodeRequest(code="print(1)", language="python")
    call = partial(client.run_code, request, endpoint=url, max_attempts=1)
    answer = await asyncio.to_thread(call)
    assert client.summary_run_code_result(answer, client.SummaryMapping()) == "Success"


async def test_cells_share_variables_and_end_with_the_first_that_fails(url, host):
    cells = ["a = 20", "a + 1", "import sys; print('e', file=sys.stderr)", "raise ValueError('no')", "a"]
    request = RunJupyterRequest(cells=cells)
    answer = await client.run_jupyter_async(request, endpoint=url, max_attempts=1)
    assert answer.status == RunStatus.Success and answer.driver.status == "Finished"
    assert [cell.stdout for cell in answer.cells] == ["", "21\n", "", ""]
    assert answer.cells[2].stderr == "e\n"
    [error] = answer.cells[3].error
    assert (error["ename"], error["evalue"]) == ("ValueError", "no")
    assert [await host.ended.get()] == host.opened


async def test_cells_that_run_too_long(url):
    request = RunJupyterRequest(cells=["1", "while True: pass", "2"], total_timeout=1.5)
    answer = await client.run_jupyter_async(request, endpoint=url, max_attempts=1)
    assert answer.status == RunStatus.Failed and answer.driver.status == "TimeLimitExceeded"
    assert len(answer.cells) == 2 and answer.cells[1].error


@pytest.mark.parametrize(
    "body",
    [
        {"language": "python"},
        {"code": 1, "language": "python"},
        {"code": "", "language": "bash", "files": 1},
        {"code": "", "language": "bash", "files": dict.fromkeys(map(str, range(65)), "")},
    ],
)
async def test_requests_that_are_none(url, body):
    async with aiohttp.ClientSession() as http, http.post(f"{url}/run_code", json=body) as response:
        assert response.status == 422 and (await response.json())["detail"]


async def test_a_failing_machine_is_never_a_programs_result(url, host, run, monkeypatch):
    async def call(request):
        raise ServerBusy("full")

    monkeypatch.setattr(host, "call", call)
    with pytest.raises(Exception, match="responded with code 500"):
        await run("print(1)")
