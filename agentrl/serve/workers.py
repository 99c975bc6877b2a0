"""Workers of a front as processes of this machine.

A worker is ``python -m agentrl.serve.workers LOG``: it reads its settings from standard input, answers with a
line of JSON on standard output, and ends when told to by a signal or when standard input ends, which it does
with the front, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import replace

from pydantic import BaseModel, TypeAdapter, ValidationError

from agentrl.errors import AgentRLError, InfrastructureError
from agentrl.serve.front import Start, Worker
from agentrl.serve.logs import LogForm, set_up
from agentrl.serve.server import ServeSettings, ending_signals, serve_until
from agentrl.serve.wire import Problem, to_error, to_problem

START_SECONDS = 120.0
"""For a worker to take calls."""
_SETTINGS = TypeAdapter(ServeSettings)


class Started(BaseModel):
    """What a worker says first: where it takes calls, or why it does not.

    Args:
        url: where.
        problem: why not.
    """

    url: str = ""
    problem: Problem | None = None

    def address(self) -> str:
        """Where it takes calls.

        Raises:
            AgentRLError: it does not.
        """
        if self.problem is not None:
            raise to_error(self.problem)
        return self.url


def starter(settings: ServeSettings, log: LogForm) -> Start:
    """What starts workers with these settings, each on a free port of the same address."""
    message = _SETTINGS.dump_json(replace(settings, port=0)) + b"\n"

    async def start() -> Worker:
        process = await _spawn(log)
        try:
            return ProcessWorker(await _first_words(process, message), process)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise

    return start


async def _spawn(log: LogForm) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agentrl.serve.workers",
            log,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # the front alone tells it when to end
        )
    except OSError as problem:
        raise InfrastructureError(f"No worker process could be started: {problem}") from problem


async def _first_words(process: asyncio.subprocess.Process, message: bytes) -> str:
    """Give a worker its settings; the address that it answers with."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(message)
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        return Started.model_validate_json(line).address()
    except TimeoutError:
        raise InfrastructureError(f"A worker process took no calls in {START_SECONDS:g} s.") from None
    except ValidationError:
        raise InfrastructureError("A worker process ended as it began; its log says why.") from None


class ProcessWorker(Worker):
    """A process of this machine."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        super().__init__(url)
        self._process = process

    async def ended(self) -> str:
        code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def end(self, seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _work(answer: int) -> int:
    """Serve until told to end; the exit code.

    Args:
        answer: descriptor that the first words go to.
    """

    def say(words: Started) -> None:
        with contextlib.suppress(BrokenPipeError):  # the front has gone; standard input tells us so, too
            os.write(answer, words.model_dump_json().encode() + b"\n")

    settings = _SETTINGS.validate_json(sys.stdin.buffer.readline())
    told_to_end = ending_signals()
    asyncio.get_running_loop().add_reader(0, told_to_end.set)  # nothing more is sent: it can only end
    try:
        await serve_until(told_to_end, settings, lambda url, _: say(Started(url=url)))
    except AgentRLError as problem:
        say(Started(problem=to_problem(problem)))
        return 1
    return 0


def main(log: LogForm) -> int:
    """Be a worker; the exit code."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what tools print must not fill a pipe that nobody reads
    set_up(log)
    return asyncio.run(_work(answer))


if __name__ == "__main__":
    sys.exit(main(TypeAdapter(LogForm).validate_python(sys.argv[1])))
