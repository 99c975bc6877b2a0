"""verl-tool's protocol, with real code in a real sandbox."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import aiohttp
import pytest
from serve_support import Recording, answering

from agentrl import Observation, Tool
from agentrl.errors import SandboxError
from agentrl.sandbox import open_sandbox
from agentrl.serve.protocols import verl_tool
from agentrl.tools.code import Code

SHARED = Path(os.environ.get("AGENTRL_SHARED") or Path(__file__).resolve().parents[2] / "../shared")
RECORDED = SHARED / "wire" / "verltool.jsonl"
USAGE = "You are able to write and execute Python code securely inside a sandbox."
NO_TOOL = {
    "obs": "",
    "invalid_reason": "No valid tool found for action",
    "available_tools": f"Available tools:\n• python_code: {USAGE}",
}


class Search(Tool):
    async def call(self, query: str) -> str:
        """Search."""
        return f"Doc 1 (Title: {query}) found"


@pytest.fixture
async def host():
    async with open_sandbox() as sandbox, Recording([Code()], sandbox) as host:
        yield host


@pytest.fixture
async def url(host):
    async with answering(verl_tool.routes(host)) as address:
        yield f"{address}/get_observation"


async def post(url: str, body: object) -> tuple[int, dict]:
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        return response.status, await response.json()


async def observe(url: str, action: str, **extra: object) -> object:
    """As verl-tool's agent loop does: a batch of one."""
    batch = {
        "trajectory_ids": ["t"],
        "actions": [action],
        "finish": [False],
        "is_last_step": [False],
        "extra_fields": [extra],
    }
    status, answer = await post(url, batch)
    assert status == 200 and answer["dones"] == [False] and answer["valids"] == [True]
    return answer["observations"][0]


async def test_recorded_cases_get_the_recorded_answers(url):
    text = RECORDED.read_text() if RECORDED.is_file() else ""
    text = text.replace("inside a Firejail sandbox", "inside a sandbox")  # what isolates is named as it is
    for case in map(json.loads, text.splitlines()):
        assert (case["name"], *await post(url, case["request"])) == (
            case["name"],
            case["status"],
            case["response"],
        )


@pytest.mark.parametrize(
    ("action", "observation"),
    [
        ("<python>print(1)</python>", "\n<result>\n1\n</result>\n"),
        ("<python>print(1)</python> and <python>print(2)</python>", "\n<result>\n1\n2\n</result>\n"),
        ("<python>x = 1</python> and <python>print(x)</python>", "\n<result>\n1\n</result>\n"),
        ("```python\nprint(1)\n```", "\n```result\n1\n```\n"),
        ("```py\nprint(1)\n```", "\n<result>\n1\n</result>\n"),
        ("```python\nprint(1)\n```<python>print(2)</python>", "\n```result\n2\n```\n"),
        ("```python\nprint(1)\n```\n```output", "\n1\n```\n"),
        ("<python>print(1)</python>\n<result>", "\n1\n</result>\n"),
        (
            "<tool_call><python>print(1)</python></tool_call>",
            "\n<tool_response>\n```result\n1\n```\n</tool_response>\n",
        ),
        ("<python></python>", "\n<result>\n\n</result>\n"),
        ("<python>print(input())</python>\n```input\nseen\n```", "\n<result>\nseen\n</result>\n"),
        (
            "<python>import sys; print('o'); print('e', file=sys.stderr)</python>",
            "\n<result>\no\n\ne\n</result>\n",
        ),
        ("<python>import socket</python>", f"\n<result>\n{verl_tool.BLOCKED}\n</result>\n"),
    ],
)
async def test_actions_are_answered_in_their_own_form(url, action, observation):
    assert await observe(url, action) == observation


async def test_stdin_may_come_with_other_extra_fields_and_a_block_comes_first(url):
    action = "<python>print(input())</python>"
    assert await observe(url, action, stdin="given", index=3, images=None) == "\n<result>\ngiven\n</result>\n"
    both = await observe(url, f"{action}\n```input\nblock\n```", stdin="given")
    assert both == "\n<result>\nblock\n</result>\n"


async def test_an_error_shows_the_traceback_after_the_output(url):
    seen = await observe(url, "<python>print('before')\n1/0</python>")
    assert isinstance(seen, str) and seen.startswith("\n<result>\nbefore\n\nTraceback")
    assert seen.endswith("ZeroDivisionError: division by zero\n</result>\n")


async def test_code_that_runs_too_long_is_told_so(host):
    async with answering(verl_tool.routes(host, seconds=1)) as address:
        action = "<python>print('on', flush=True)\nwhile True: pass</python>"
        seen = await observe(f"{address}/get_observation", action)
    assert seen == "\n<result>\non\n\nExecution timed out after 1 seconds.\n</result>\n"


async def test_without_the_word_list_legal_code_runs(host):
    async with answering(verl_tool.routes(host, text_filter=False)) as address:
        action = "<python>import socket; print(socket.AF_INET.value)</python>"
        assert await observe(f"{address}/get_observation", action) == "\n<result>\n2\n</result>\n"


async def test_a_batch_mixes_code_endings_and_what_is_no_call(url, host):
    batch = {
        "trajectory_ids": ["a", "b", "c"],
        "actions": ["<python>print('A')</python>", "nothing", "<python>print('C')</python>"],
        "finish": [False, False, True],
    }
    status, answer = await post(url, batch)
    assert (status, answer) == (
        200,
        {
            "observations": ["\n<result>\nA\n</result>\n", NO_TOOL, ""],
            "dones": [False, False, True],
            "valids": [True, False, True],
        },
    )
    assert host.ended.get_nowait() == "c" and len(host.calls) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"finish": [True]}, 200),
        ({"foo": 1, "extra_fields": None, "is_last_step": ["x"]}, 422),
        ({"foo": 1, "extra_fields": None}, 200),
        ({"trajectory_ids": []}, 422),
        ({"trajectory_ids": "ab"}, 422),
        ({"trajectory_ids": [1, 2]}, 422),
        ({"actions": ["x"]}, 422),
        ({"actions": None}, 422),
        ({"extra_fields": [{}]}, 422),
        ({"extra_fields": ["x", "y"]}, 422),
    ],
)
async def test_what_a_batch_has_to_be(url, change, status):
    answered, body = await post(url, {"trajectory_ids": ["a", "b"], "actions": ["x", "y"], **change})
    assert answered == status
    assert ("detail" in body) == (status == 422)


async def test_a_body_that_is_no_json_is_refused(url):
    async with aiohttp.ClientSession() as http, http.post(url, data=b"{") as response:
        assert response.status == 422


async def test_a_failing_machine_fails_the_request_and_stops_the_rest():
    began, stopped = asyncio.Event(), asyncio.Event()

    class Broken(Recording):
        async def call(self, request):
            if request.arguments["code"] == "break":
                await began.wait()
                raise SandboxError("the disk is gone")
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

    batch = {
        "trajectory_ids": ["a", "b"],
        "actions": ["<python>break</python>", "<python>wait</python>"],
    }
    async with answering(verl_tool.routes(Broken([Code()]))) as address, aiohttp.ClientSession() as http:
        async with http.post(f"{address}/get_observation", json=batch) as response:
            assert response.status == 500 and "observations" not in await response.text()
    assert stopped.is_set()


async def test_actions_of_a_batch_run_together():
    both = asyncio.Barrier(2)

    class Meeting(Tool):
        name, parallel = "code", True

        async def call(self, code: str, stdin: str, seconds: float) -> Observation:
            await both.wait()
            return Observation("met", metadata={"status": "ok", "stdout": "met", "stderr": ""})

    batch = {"trajectory_ids": ["a", "b"], "actions": ["<python>1</python>"] * 2}
    async with answering(verl_tool.routes(Recording([Meeting()]))) as address:
        _, answer = await post(f"{address}/get_observation", batch)
    assert answer["observations"] == ["\n<result>\nmet\n</result>\n"] * 2


async def test_search_is_reached_by_its_own_tags():
    batch = {
        "trajectory_ids": ["a", "b", "c"],
        "actions": ["<search>old</search><search> new </search>", "<answer>42</answer>", "hm"],
    }
    async with answering(verl_tool.routes(Recording([Search()]))) as address:
        _, answer = await post(f"{address}/get_observation", batch)
    found, answered, nothing = answer["observations"]
    assert found == "\n\n<information>Doc 1 (Title: new) found</information>\n\n" and answered == ""
    assert nothing["available_tools"].startswith("Available tools:\n• search_retrieval: You can search")
    assert answer["dones"] == [False, True, False] and answer["valids"] == [True, False, False]
