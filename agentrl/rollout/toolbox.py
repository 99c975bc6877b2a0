"""The tools of one episode: opening, calling with limits, closing. Every failure has its place.

What the model did wrong, and what a tool says or raises, becomes an observation; what
infrastructure did and what the user must mend is raised.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agentrl.chat import ParsedCall, ParsedTurn
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import (
    DefinitionError,
    InfrastructureError,
    InvalidArguments,
    MalformedCall,
    ModelError,
    SessionLost,
    UnknownTool,
    UsageError,
    UserCodeError,
)
from agentrl.observation import Observation
from agentrl.registry import find_tools, nearest
from agentrl.rollout.waiting import OutOfTime, StrayExit, all_of, finish_quietly, within
from agentrl.task import Task
from agentrl.tool import Tool, ToolContext
from agentrl.trajectory import Call, Trajectory

logger = logging.getLogger(__name__)

Invoke = Callable[[Tool, Mapping[str, Any]], Coroutine[Any, Any, Any]]

NAME_CHARACTERS = 80
"""How much of an unknown tool's name is repeated to the model."""


async def called(tool: Tool, arguments: Mapping[str, Any]) -> Any:
    """Call a tool as it is."""
    return await tool.invoke(arguments)


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn what a user's code raises unexpectedly into a :class:`UserCodeError` that names it."""
    try:
        yield
    except (InfrastructureError, UsageError, OutOfTime):
        raise
    except Exception as problem:
        raise UserCodeError(f"{what} raised {_describe(problem)}.") from problem


class ToolLedger:
    """Notices tools that never work: those that raised on each of their first calls.

    Args:
        limit: after so many calls, all of which raised, the tool is taken to be broken.
    """

    def __init__(self, limit: int = 20) -> None:
        self.limit = limit
        self._raised: dict[str, int] = {}
        self._worked: set[str] = set()

    def worked(self, name: str) -> None:
        """The tool answered."""
        self._worked.add(name)

    def raised(self, name: str, problem: Exception) -> None:
        """The tool raised something that is no :class:`ToolError`.

        Raises:
            UserCodeError: it has never done anything else.
        """
        if name in self._worked:
            return
        self._raised[name] = count = self._raised.get(name, 0) + 1
        if count == 1:
            logger.warning(
                "Tool %s raised unexpectedly; the model is shown the error.", name, exc_info=problem
            )
        if count >= self.limit:
            raise UserCodeError(
                f"Tool {name} raised on every one of its first {self.limit} calls, last: "
                f"{_describe(problem)}. Mend it; "
                "raise ToolError where a call is expected to fail."
            ) from problem


class ToolBox:
    """The tools that one episode may call.

    Args:
        tools: this episode's own instances.
        limits: the rollout's limits; ``tool_seconds`` and ``tool_exceptions`` are used.
        ledger: shared by the episodes of a process.
        keep_characters: an observation's text is cut to this length as it comes in, so that
            nothing later handles (or keeps) more.
        invoke: makes a call.

    Raises:
        DefinitionError: two tools have the same name.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        limits: Rollout,
        ledger: ToolLedger,
        keep_characters: int,
        invoke: Invoke = called,
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            names = [tool.name for tool in tools]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise DefinitionError(
                f"Several tools of the environment are called {', '.join(twice)}; rename one."
            )
        self._limits, self._ledger, self._keep = limits, ledger, keep_characters
        self._invoke = invoke
        self._opened: list[Tool] = []
        self._stopped_a_call = False

    @functools.cached_property
    def schemas(self) -> list[dict[str, object]]:
        """The tools in the form of OpenAI's function calling."""
        return [tool.schema for tool in self._tools.values()]

    @functools.cached_property
    def stateful(self) -> bool:
        """Whether any tool has something to open or to close."""
        return not all(
            inherited(tool.open, Tool.open) and inherited(tool.close, Tool.close)
            for tool in self._tools.values()
        )

    @classmethod
    def of(
        cls,
        env: Env,
        context: ToolContext,
        limits: Rollout,
        ledger: ToolLedger,
        keep_characters: int,
        invoke: Invoke = called,
    ) -> ToolBox:
        """The tools an environment lists and those it defines itself, or its choice of them for the task.

        Raises:
            NotFound: a listed tool does not exist.
            DefinitionError: the choice names a tool that the environment does not have.
            UserCodeError: a tool could not be made.
        """
        with user_code(f"Making the tools of environment {env.name}"):
            found = [tool for item in env.tools for tool in find_tools(item)]
            offered = [*found, *env.own_tools()]
        with user_code(f"Environment {env.name}: tools_for()"):
            wanted = env.tools_for(context.task)
        if wanted is not None:
            offered = _chosen(offered, wanted, env, context.task)
        with user_code(f"Making the tools of environment {env.name}"):
            tools = [tool.spawn(context) for tool in offered]
        if context.world is not None:
            for tool in tools:
                context.world.add(tool.name, tool)
        return cls(tools, limits, ledger, keep_characters, invoke)

    async def open(self) -> None:
        """Open every tool.

        Raises:
            UserCodeError: a tool's ``open`` raised.
            InfrastructureError: what it needs has failed.
        """
        for tool in self._tools.values():
            self._opened.append(tool)
            with user_code(f"Tool {tool.name}: open()"):
                await tool.open()

    async def close(self, seconds: float) -> None:
        """Close what was opened, last first, each in at most ``seconds``; failures are logged."""
        while self._opened:
            tool = self._opened.pop()
            await finish_quietly(tool.close(), seconds, f"closing tool {tool.name}")

    async def answer(
        self, calls: Sequence[ParsedCall], *, elapsed: Callable[[], float], left: Callable[[], float]
    ) -> list[Call]:
        """Make the calls of one turn; the answers come in the order of the calls.

        Neighbouring calls of parallel tools run together, all others one after the other. After
        an observation with ``done``, or when the episode's time is over, the rest is not run.

        Args:
            elapsed: seconds since the episode began.
            left: seconds left to the episode.

        Raises:
            InfrastructureError, UsageError: from a tool, or a tool's unexpected exception where
                ``tool_exceptions`` is ``stop``. Calls running beside it are cancelled first.
        """
        answers: list[Call] = []
        for batch in self._batches(calls):
            if any(answer.observation.done for answer in answers):
                note = Observation("Not run: the episode ended with the call before.", error=True)
                answers += [_call(call, "error", note) for call in batch]
            elif left() <= 0:
                note = Observation("Not run: the time for this task is over.", error=True)
                answers += [_call(call, "timeout", note) for call in batch]
            elif len(batch) == 1:
                answers.append(await self._timed(batch[0], elapsed, left))
            else:
                works = [self._timed(call, elapsed, left) for call in batch]
                answers += await all_of(
                    works, rank=lambda problem: 0 if isinstance(problem, UsageError) else 1
                )
        return answers

    def _batches(self, calls: Sequence[ParsedCall]) -> list[list[ParsedCall]]:
        batches: list[tuple[bool, list[ParsedCall]]] = []
        for call in calls:
            tool = None if call.error else self._tools.get(call.name or "")
            parallel = tool is None or tool.parallel  # a call that reaches no tool disturbs none
            if parallel and batches and batches[-1][0]:
                batches[-1][1].append(call)
            else:
                batches.append((parallel, [call]))
        return [batch for _, batch in batches]

    async def _timed(
        self, parsed: ParsedCall, elapsed: Callable[[], float], left: Callable[[], float]
    ) -> Call:
        started = elapsed()
        status, observation = await self._call(parsed, left())
        cut, shortened = kept(observation, self._keep)
        answer = _call(parsed, status, cut)
        answer.started, answer.seconds, answer.truncated = started, elapsed() - started, shortened
        return answer

    async def _call(self, parsed: ParsedCall, left: float) -> tuple[str, Observation]:
        try:
            tool, arguments = self._resolve(parsed)
        except MalformedCall as problem:
            return "malformed", _failure(problem)
        except UnknownTool as problem:
            return "unknown", _failure(problem)
        seconds = self._limits.tool_seconds if tool.seconds is None else tool.seconds
        try:
            answer = await within(self._invoke(tool, arguments), min(seconds, left))
            observation = Observation.of(answer)
        except OutOfTime:
            self._stopped_a_call = True
            return "timeout", _stopped(tool.name, seconds, left)
        except InvalidArguments as problem:
            return "invalid", _failure(problem)
        except ModelError as problem:
            self._ledger.worked(tool.name)
            return "error", _failure(problem)
        except SessionLost as problem:
            if not self._stopped_a_call:
                raise
            logger.info("A session ended with a call that was stopped: %s", problem)
            return "error", Observation(
                f"{tool.name} is no longer available: its session ended when a call was stopped for taking "
                "too long.",
                error=True,
            )
        except (InfrastructureError, UsageError):
            raise
        except Exception as problem:
            return "raised", self._unexpected(tool.name, problem)
        self._ledger.worked(tool.name)
        return ("error" if observation.error else "ok"), observation

    def _resolve(self, parsed: ParsedCall) -> tuple[Tool, dict[str, object]]:
        if parsed.error is not None or parsed.name is None or parsed.arguments is None:
            raise MalformedCall(f"Malformed tool call: {parsed.error or 'it names no tool or no arguments'}.")
        if parsed.name not in self._tools:
            shown = parsed.name[:NAME_CHARACTERS]
            raise UnknownTool(f"There is no tool {shown!r}. {nearest(shown, list(self._tools))}")
        return self._tools[parsed.name], parsed.arguments

    def _unexpected(self, name: str, problem: Exception) -> Observation:
        if self._limits.tool_exceptions == "stop":
            raise UserCodeError(
                f"Tool {name} raised {_describe(problem)}. Raise ToolError where a call is expected to "
                "fail, or set rollout.tool_exceptions=show to let the model see such errors."
            ) from problem
        self._ledger.raised(name, problem)
        return Observation(f"{name} raised {_describe(problem)}", error=True)


def _chosen(offered: Sequence[Tool], wanted: Sequence[str], env: Env, task: Task) -> list[Tool]:
    if not isinstance(wanted, list | tuple) or not all(isinstance(name, str) for name in wanted):
        raise DefinitionError(
            f"Environment {env.name} limits task {task.id} to the tools {wanted!r}; give a list of names."
        )
    known = [tool.name for tool in offered]
    for name in wanted:
        if name not in known:
            raise DefinitionError(
                f"Environment {env.name} limits task {task.id} to tools of which it does not have {name!r}. "
                f"{nearest(name, known)}"
            )
    return [tool for tool in offered if tool.name in wanted]


def inherited(method: Callable[..., Any], base: Callable[..., Any]) -> bool:
    """Whether a method is the base class's, which does nothing: then there is nothing to wait for."""
    return getattr(method, "__func__", None) is base


def unicode(text: str) -> str:
    """The text with ``?`` for halves of surrogate pairs, which can be neither tokenized nor stored."""
    return text.encode("utf-8", "replace").decode()


def printable(parsed: ParsedTurn) -> ParsedTurn:
    """JSON lets a model name a tool with half of a surrogate pair, which no file or tokenizer takes."""
    calls = (dataclasses.replace(call, name=call.name and unicode(call.name)) for call in parsed.calls)
    return dataclasses.replace(parsed, calls=tuple(calls))


def distinct(parsed: ParsedTurn, trajectory: Trajectory) -> ParsedTurn:
    """Calls are named by the length of their context, which another turn's may have had as well."""
    taken = {call.id for call in trajectory.calls}
    if taken.isdisjoint(call.id for call in parsed.calls):
        return parsed
    turn = len(trajectory.turns)
    calls = (dataclasses.replace(call, id=f"{call.id}_{turn}") for call in parsed.calls)
    return dataclasses.replace(parsed, calls=tuple(calls))


def kept(observation: Observation, limit: int) -> tuple[Observation, bool]:
    """The observation with ``limit`` characters of valid Unicode at most, and whether it was cut."""
    text = observation.text
    shortened = len(text) > limit
    if shortened:
        half = limit // 2
        left_out = len(text) - limit
        text = f"{text[: limit - half]}\n[… {left_out} characters left out …]\n{text[len(text) - half :]}"
    text = unicode(text)
    return (
        observation if text == observation.text else dataclasses.replace(observation, text=text)
    ), shortened


def _call(parsed: ParsedCall, status: str, observation: Observation) -> Call:
    return Call(parsed.name, parsed.arguments, parsed.id, status, observation)


def _failure(problem: ModelError) -> Observation:
    return Observation(str(problem) or "The call failed.", error=True)


def _stopped(name: str, seconds: float, left: float) -> Observation:
    if left < seconds:
        return Observation(f"{name} was stopped: the time for this task is over.", error=True)
    return Observation(f"{name} was stopped: it took longer than {seconds:g} s.", error=True)


def _describe(problem: BaseException) -> str:
    text = str(problem)
    if isinstance(problem, StrayExit):
        return text
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
