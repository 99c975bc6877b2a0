"""``agentrl tools call``: a tool called by hand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from agentrl.cli.lines import Lines
from agentrl.config import Rollout
from agentrl.errors import ConfigError, SandboxUnavailable
from agentrl.inspect.bench import Bench, on_bench
from agentrl.inspect.written import Unclear, read_line, read_object, read_words
from agentrl.registry import find_tool
from agentrl.sandbox import Sandbox, open_sandbox
from agentrl.serve.server import with_options
from agentrl.tool import Tool
from agentrl.trajectory import Call
from agentrl.view.text import clean, duration, printable


def call(
    word: str, words: Sequence[str], *, as_json: str | None, sandbox: str, seconds: float, tokens: int
) -> int:
    """Make the calls, print the observations; 0 only if every call was answered ``ok``.

    Raises:
        UsageError: there is no such tool, an argument cannot be read, or the tool is at fault.
        InfrastructureError: a machine failed.
    """
    tool = find_tool(*with_options(word, "tool"))
    limits = Rollout(tool_seconds=seconds, max_observation_tokens=tokens)
    return asyncio.run(_call(tool, words, as_json, limits, _sandbox(sandbox)))


def _sandbox(word: str) -> Sandbox | None:
    """The backend; ``None`` where this machine has none and none was named: not every tool needs one."""
    backend, options = with_options(word, "sandbox backend")
    try:
        return open_sandbox(backend, **options)
    except SandboxUnavailable:
        if backend != "auto":
            raise
        return None


async def _call(
    tool: Tool, words: Sequence[str], as_json: str | None, limits: Rollout, sandbox: Sandbox | None
) -> int:
    good = True
    async with AsyncExitStack() as stack:
        if sandbox is not None:
            await stack.enter_async_context(sandbox)
        bench = await stack.enter_async_context(on_bench(tool, limits, sandbox))
        parameters = bench.schema["parameters"]
        if list(words) != ["-"]:
            answer = await bench.call(_arguments(words, as_json, parameters))
            return 0 if _show(answer) else 1
        if as_json is not None:
            raise ConfigError("--json gives the arguments of one call; leave out either it or the -.")
        async for arguments in _from_input(bench):
            good = _show(await bench.call(arguments)) and good
    return 0 if good else 1


def _arguments(words: Sequence[str], as_json: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**(read_object(as_json) if as_json else {}), **read_words(words, parameters)}
    except Unclear as problem:
        raise ConfigError(str(problem)) from None


async def _from_input(bench: Bench) -> AsyncIterator[dict[str, Any]]:
    """The arguments of the calls that standard input asks for; mistakes in them are told."""
    lines = Lines(f"{bench.schema['name']}> ")
    while (line := await lines.next()) is not None:
        try:
            yield read_line(line, bench.schema["parameters"])
        except Unclear as problem:
            if not sys.stdin.isatty():
                raise ConfigError(str(problem)) from None
            sys.stderr.write(f"{problem}\n")


def _show(answer: Call) -> bool:
    """Print the text as it is, or fit for a terminal, and on stderr how the call went."""
    seen = answer.observation
    text = printable(seen.text) if sys.stdout.isatty() else seen.text
    sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")
    sys.stdout.flush()
    notes = [answer.status, duration(answer.seconds)]
    notes += [f"{image.media_type} of {len(image.data):,} bytes" for image in seen.images]
    notes += ["shortened"] * answer.truncated + ["this ends an episode"] * seen.done
    sys.stderr.write(f"[{clean(', '.join(notes))}]\n")
    return answer.status == "ok"
