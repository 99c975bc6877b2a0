"""An agent that is a program: started for its episode, in a folder of its own, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from agentrl.errors import DataError, DefinitionError
from agentrl.task import Task

OUTPUT_BYTES = 1_000_000
"""The last bytes of its output that are kept."""

ERROR_BYTES = 2_000
"""The last bytes of its standard error that are shown where it fails."""

END_SECONDS = 0.5
"""How long it may take to end when it is asked to, and its output to end once it has."""


class AgentFailed(Exception):
    """The program ended with a status other than 0."""


def variables(base_url: str, api_key: str, host: str) -> dict[str, str]:
    """The environment that the usual clients read."""
    near = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), host]))
    return {
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_BASE": base_url,
        "OPENAI_API_KEY": api_key,
        "ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": api_key,
        "NO_PROXY": near,
        "no_proxy": near,
    }


async def run_command(argv: Sequence[str], task: Task, environment: Mapping[str, str]) -> str:
    """Run an agent to its end and return what it printed, stripped.

    It is started in a folder that holds nothing but ``task.json`` (id, prompt and metadata) and is
    removed afterwards. Its process group is ended with it, and when we are cancelled.

    Args:
        argv: the program and its arguments; ``{prompt}`` in one is the task's prompt.
        task: its prompt is the standard input, too.
        environment: beside that of this process.

    Raises:
        AgentFailed: it ended with another status than 0.
        DefinitionError: it cannot be started.
        DataError: the prompt is too long for an argument.
    """
    with tempfile.TemporaryDirectory(prefix="agentrl-agent-", ignore_cleanup_errors=True) as folder:
        shown = {"id": task.id, "prompt": task.prompt, "metadata": dict(task.metadata)}
        Path(folder, "task.json").write_text(json.dumps(shown))
        async with _pipe(OUTPUT_BYTES) as (output, out), _pipe(ERROR_BYTES) as (errors, err):
            process = await _start(argv, task, folder, environment, out, err)
            try:
                status = await process.wait()
            finally:
                await _end(process)
            # Whoever left the process group and still holds the pipes is not waited for.
            await asyncio.wait({output.over, errors.over}, timeout=END_SECONDS)
    if status:
        said = errors.text()
        raise AgentFailed(f"it ended with status {status}{f', saying: {said}' if said else ''}")
    return output.text()


class _Tail(asyncio.Protocol):
    """Keeps the last bytes of a pipe."""

    def __init__(self, limit: int) -> None:
        self.over = asyncio.get_running_loop().create_future()
        self._limit, self._kept = limit, bytearray()

    def data_received(self, data: bytes) -> None:
        self._kept += data
        del self._kept[: -self._limit]

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)

    def text(self) -> str:
        return self._kept.decode(errors="replace").strip()


@asynccontextmanager
async def _pipe(limit: int) -> AsyncIterator[tuple[_Tail, BinaryIO]]:
    """What comes out of a pipe, and its end to write to.

    A wait for a process with asyncio's own pipes lasts until its children have let go of them, too.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "wb", 0) as writer:
        transport, tail = await asyncio.get_running_loop().connect_read_pipe(lambda: _Tail(limit), reader)
        try:
            yield tail, writer
        finally:
            transport.close()


async def _start(
    argv: Sequence[str],
    task: Task,
    folder: str,
    environment: Mapping[str, str],
    output: BinaryIO,
    errors: BinaryIO,
) -> asyncio.subprocess.Process:
    with tempfile.TemporaryFile() as prompt:
        prompt.write(task.prompt.encode())
        prompt.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *(part.replace("{prompt}", task.prompt) for part in argv),
                stdin=prompt,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as problem:
            if isinstance(problem, FileNotFoundError | PermissionError):
                raise DefinitionError(
                    f"The agent's command cannot be started: {problem}. It runs in a folder of its own, so "
                    "name programs and files by absolute paths."
                ) from problem
            raise DataError(
                f"The agent's command cannot be started for task {task.id}: {problem}. A prompt of "
                f"{len(task.prompt)} characters may be too long for {{prompt}}; it is on standard input too."
            ) from problem
    for pipe in (output, errors):
        pipe.close()  # or it would not end with the program
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process group: asked first, if the program is still there."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_SECONDS)
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
