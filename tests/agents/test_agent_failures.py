"""Agents that crash, hang, exceed limits or lose their engine: each has its place, and harms no other."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agents_support import TASK, Lines, ask, check, make_chat, make_env, make_runner, openai_chat, play, talk

from agentrl import DefinitionError, InfrastructureError, Task
from agentrl.errors import ConfigError, DataError, EngineError, UserCodeError
from agentrl.rollout import Job, run_episodes
from agentrl.rollout.agents.attempt import FAILURES
from agentrl.rollout.agents.served import REFUSALS

FOREVER = 1000.0
LIMIT = 1.0
"""Seconds of an episode that is meant to run out of them."""


class Failing(Lines):
    """Its engine fails on the first attempt."""

    async def generate(self, prompt_ids: Any, sampling: Any, *, episode: str, **rest: Any) -> Any:
        if "~" not in episode:
            raise EngineError("the engine is gone")
        return await super().generate(prompt_ids, sampling, episode=episode, **rest)


async def test_an_engine_that_fails_voids_the_attempt_whatever_the_agent_does() -> None:
    cancelled: list[str] = []

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        try:
            status, body = await ask(base_url, task.prompt)
            while status != 200:  # an agent that waits for better times
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("stopped")
            raise
        return str(body["choices"][0]["message"]["content"])

    policy = Failing("5")
    episode = await play(agent, policy, retries=1)
    check(episode, policy, "e~2")
    assert (episode.status, episode.attempts, episode.reward, cancelled) == ("finished", 2, 1.0, ["stopped"])

    void = await play(openai_chat, Failing("5"))
    assert (void.status, void.reward, void.samples()) == ("void", None, [])
    assert "the engine is gone" in void.reason


async def test_a_fault_of_our_own_is_never_the_agents() -> None:
    class Faulty(Lines):
        async def generate(self, *args: Any, **named: Any) -> Any:
            generation = await super().generate(*args, **named)
            if len(self.samplings) > 1:
                generation.logprobs.pop()
            return generation

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        first = await talk(base_url, "one")
        return str(await talk(base_url, "one", first, "two"))  # it raises, since this is refused

    with pytest.raises(ValueError, match="log-probs"):
        await play(agent, Faulty("1"))


async def test_an_agent_that_raises_after_the_model_spoke_is_judged_without_an_answer() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> str:
        said = await talk(base_url, task.prompt)
        return str(int(said["content"]))

    episode = await play(agent, Lines("five"))
    assert (episode.status, episode.final_text, episode.reward) == ("finished", "", 0.0)
    assert "ValueError" in episode.reason and len(episode.samples()) == 1
    with pytest.raises(UserCodeError, match="ValueError"):
        await play(agent, Lines("five"), tool_exceptions="stop")


async def test_an_agent_that_never_works_stops_the_run() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> str:
        raise KeyError("no such setting")

    runner = make_runner(make_env(agent), Lines("5"))
    for number in range(FAILURES - 1):
        episode = await runner.run(TASK, episode_id=f"e{number}")
        assert episode.status == "void" and "before the model had spoken" in episode.reason
    with pytest.raises(UserCodeError, match="no such setting"):
        await runner.run(TASK, episode_id="last")


async def test_machines_and_mistakes_that_an_agent_reports_keep_their_branch() -> None:
    async def lost(task: Task, base_url: str, api_key: str) -> str:
        await talk(base_url, task.prompt)
        raise InfrastructureError("the container is gone")

    assert (await play(lost, Lines("5"))).status == "void"

    async def mistaken(task: Task, base_url: str, api_key: str) -> Any:
        await talk(base_url, task.prompt)
        return 5

    with pytest.raises(UserCodeError, match="an answer is text"):
        await play(mistaken, Lines("5"))
    with pytest.raises(DefinitionError, match="has no agent"):
        await play(make_env(), Lines("5"))
    with pytest.raises(ConfigError, match="cannot listen"):
        await play(make_env(openai_chat, host="192.0.2.1"), Lines("5"))


async def test_an_agent_that_hangs_runs_out_of_its_own_time() -> None:
    async def silent(task: Task, base_url: str, api_key: str) -> None:
        await asyncio.Event().wait()

    async def stuck(task: Task, base_url: str, api_key: str) -> None:
        await talk(base_url, task.prompt)
        await asyncio.Event().wait()

    void = await play(silent, Lines("5"), episode_seconds=LIMIT)
    assert void.status == "void" and "EpisodeTimeout" in void.reason
    episode = await play(stuck, Lines("5"), episode_seconds=3 * LIMIT)
    assert (episode.status, episode.final_text, episode.reward) == ("truncated", "", 0.0)
    assert "episode_seconds" in episode.reason


async def test_a_blocking_agent_that_hangs_is_left_behind_and_gets_no_more_turns() -> None:
    go, gone = threading.Event(), threading.Event()
    refused: list[Exception] = []

    def agent(task: Task, base_url: str, api_key: str) -> None:
        import urllib.request

        go.wait(FOREVER)
        try:
            urllib.request.urlopen(f"{base_url}/chat/completions", data=b"{}", timeout=FOREVER)
        except OSError as problem:
            refused.append(problem)
        gone.set()

    episode = await play(agent, Lines("5"), episode_seconds=LIMIT)
    go.set()
    await asyncio.to_thread(gone.wait, FOREVER)
    assert episode.status == "void" and refused


async def test_agents_that_break_harm_no_other_episode() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> str:
        if task.id == "hangs":
            await talk(base_url, "go")
            await asyncio.Event().wait()
        if task.id == "exits":
            await talk(base_url, "go")
            raise SystemExit(3)
        return str((await talk(base_url, task.prompt))["content"])

    tasks = [Task("?", "5", id=name) for name in ("hangs", "exits", "a", "b", "c", "hangs", "d")]
    ended: dict[str, Any] = {}
    runner = make_runner(make_env(agent), Lines("5"), episode_seconds=5.0)
    await run_episodes(
        runner,
        [Job(task, f"{number}-{task.id}") for number, task in enumerate(tasks)],
        concurrency=7,
        on_result=lambda job, episode: ended.update({job.episode_id: episode}),
    )
    assert len(ended) == 7
    for name, episode in ended.items():
        expected = {"hangs": ("truncated", 0.0), "exits": ("finished", 0.0)}.get(
            episode.task.id, ("finished", 1.0)
        )
        assert (episode.status, episode.reward) == expected, (name, episode.reason)


async def test_the_turn_limit_truncates_and_stops_an_agent_that_ignores_it() -> None:
    asked: list[int] = []

    async def stubborn(task: Task, base_url: str, api_key: str) -> None:
        while True:
            status, _ = await ask(base_url, "again")
            asked.append(status)

    async def polite(task: Task, base_url: str, api_key: str) -> str:
        statuses = [(await ask(base_url, "again"))[0] for _ in range(3)]
        assert statuses == [200, 200, 400]
        return "5"

    episode = await play(stubborn, Lines("1"), max_turns=2)
    assert (episode.status, episode.final_text) == (
        "truncated",
        "",
    ) and "rollout.max_turns=2" in episode.reason
    assert asked[:2] == [200, 200] and len(asked) in (2 + REFUSALS, 3 + REFUSALS)
    episode = await play(polite, Lines("1"), max_turns=2)
    assert (episode.status, episode.reward, len(episode.turns)) == ("truncated", 1.0, 2)


async def test_a_full_context_is_an_error_that_an_agent_can_mend() -> None:
    async def mends(task: Task, base_url: str, api_key: str) -> str:
        first = await talk(base_url, "one")
        status, body = await ask(base_url, "one", first, "long " * 100)
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        return str((await talk(base_url, "one", "short"))["content"])

    async def gives_up(task: Task, base_url: str, api_key: str) -> str:
        first = await talk(base_url, "one")
        return str(await talk(base_url, "one", first, "long " * 100))

    limits = {"max_prompt_tokens": 60, "max_trajectory_tokens": 40}
    policy = Lines("1", "5")
    episode = await play(mends, policy, **limits)
    check(episode, policy)
    assert (episode.status, episode.reward, len(episode.segments)) == ("finished", 1.0, 2)
    for segment in episode.segments:
        assert len(segment.token_ids) - segment.prompt_length <= 40
    episode = await play(gives_up, Lines("1"), **limits)
    assert episode.status == "truncated" and "rollout.max_trajectory_tokens=40" in episode.reason
    with pytest.raises(DataError, match=r"rollout\.max_prompt_tokens=10"):
        await play(openai_chat, Lines("1"), max_prompt_tokens=10)


async def test_what_is_no_request_is_refused_and_the_episode_goes_on() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> str:
        root = base_url.partition(f"/{api_key}")[0]
        async with aiohttp.ClientSession() as client:

            async def status(method: str, url: str, data: bytes = b"{}") -> int:
                async with client.request(method, url, data=io.BytesIO(data)) as answer:
                    body = await answer.json()
                    assert "error" in body and answer.headers["x-should-retry"] == "false"
                    return answer.status

            assert await status("POST", f"{root}/guess/v1/chat/completions") == 401
            assert await status("POST", f"{root}/v1/chat/completions") == 401
            assert await status("POST", f"{base_url}/embeddings") == 404
            assert await status("GET", f"{base_url}/chat/completions") == 404
            half = b'{"messages": [{"role": "user", "content": "\\ud83d half"}]}'
            async with client.post(f"{base_url}/chat/completions", data=half) as answer:
                assert answer.status == 200
            long = b'{"messages": [{"role": "user", "content": "' + b"x" * 2_000_000 + b'"}]}'
            assert await status("POST", f"{base_url}/chat/completions", long) == 400
            for data in (b"", b"no json", b"[]", b"{}", b'{"messages": 3}', b"[" * 100_000):
                assert await status("POST", f"{base_url}/chat/completions", data) == 400
            assert await status("POST", f"{base_url}/messages", b"x" * (17 * 2**20)) == 413
            assert await status("POST", f"{base_url}/responses", b'{"previous_response_id": "resp_7"}') == 404
        return await openai_chat(task, base_url, api_key)

    policy = Lines("5")
    episode = await play(agent, policy)
    check(episode, policy)
    assert (episode.status, episode.reward) == ("finished", 1.0), episode.reason
    assert "? half" in make_chat().decode(episode.segments[0].token_ids)


async def test_the_endpoint_ends_with_its_last_episode() -> None:
    urls: list[str] = []

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        urls.append(base_url)
        return await openai_chat(task, base_url, api_key)

    await play(agent, Lines("5"))
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(urls[0], "anyone?")


# ---- agents that are programs


PROGRAM = """
import json, os, sys, urllib.request

def ask(text):
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        data=json.dumps({"messages": [{"role": "user", "content": text}]}).encode(),
        headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
    )
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]

prompt = sys.stdin.read()
assert prompt == sys.argv[1] == json.load(open("task.json"))["prompt"]
assert "answer" not in json.load(open("task.json"))
said = ask(prompt)
print("working", file=sys.stderr)
exec(sys.argv[2])
print(said)
"""


def command(tmp_path: Path, then: str = "") -> list[str]:
    program = tmp_path / "agent.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program), "{prompt}", then]


async def test_a_program_is_an_agent(tmp_path: Path) -> None:
    policy = Lines("5")
    episode = await play(make_env(command=command(tmp_path)), policy)
    check(episode, policy)
    assert (episode.status, episode.final_text, episode.reward) == ("finished", "5", 1.0), episode.reason


async def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    episode = await play(make_env(command=command(tmp_path, "sys.exit('no idea')")), Lines("5"))
    assert (episode.status, episode.reward) == ("finished", 0.0)
    assert "status 1" in episode.reason and "no idea" in episode.reason
    with pytest.raises(DefinitionError, match="absolute paths"):
        await play(make_env(command=["no-such-program"]), Lines("5"))
    with pytest.raises(DataError, match="standard input"):
        await make_runner(make_env(command=["true", "{prompt}"]), Lines("5")).run(
            Task("long " * 100_000, id="t"), episode_id="e"
        )


async def test_a_program_is_ended_with_all_its_children(tmp_path: Path) -> None:
    hang = """
import subprocess
child = subprocess.Popen(["sleep", "1000"])
ask(f"{os.getpid()} {child.pid}")
"""
    asked = asyncio.Event()

    class Hanging(Lines):
        async def generate(self, *args: Any, **named: Any) -> Any:
            if self.samplings:
                self.samplings.append(args[0])
                asked.set()
                await asyncio.Event().wait()
            return await super().generate(*args, **named)

    policy = Hanging("5")
    runner = make_runner(make_env(command=command(tmp_path, hang)), policy, episode_seconds=FOREVER)
    episode = asyncio.ensure_future(runner.run(TASK, episode_id="e"))
    await asyncio.wait({episode, asyncio.ensure_future(asked.wait())}, return_when="FIRST_COMPLETED")
    assert not episode.done(), episode.result().reason
    episode.cancel()
    with pytest.raises(asyncio.CancelledError):
        await episode
    said = make_chat().decode(policy.samplings[-1])
    pids = [int(word) for word in said.replace("\n", " ").replace("<", " ").split() if word.isdecimal()]
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)


async def test_a_child_that_holds_the_output_holds_up_nobody(tmp_path: Path) -> None:
    leave = """
import subprocess
child = subprocess.Popen(["sleep", "1000"])
said = "x" * 3_000_000 + " " + str(child.pid)
"""
    episode = await play(make_env(command=command(tmp_path, leave)), Lines("5"), episode_seconds=FOREVER)
    assert episode.status == "finished"
    assert len(episode.final_text) <= 1_000_000
    child, deadline = int(episode.final_text.rpartition(" ")[2]), time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:  # a kill is not instant on a busy machine
        await asyncio.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
