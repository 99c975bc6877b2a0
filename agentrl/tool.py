"""Tools: small Python classes or functions that a model may call.

A tool's JSON schema comes from its signature and docstring, and the model's arguments are
checked against the same signature before the tool sees them.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import json
import re
import threading
import typing
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, overload

from agentrl.errors import DefinitionError, InfrastructureError, InvalidArguments, SandboxUnavailable
from agentrl.snapshot import World
from agentrl.task import Task

if TYPE_CHECKING:
    from pydantic import BaseModel

    from agentrl.sandbox import Language, Result, Session

OpenSession = Callable[[Mapping[str, Any]], Awaitable["Session"]]
RunOnce = Callable[..., Awaitable["Result"]]


class BlockingCalls:
    """Runs blocking functions beside the event loop, in at most ``limit`` daemon threads.

    A thread whose caller gave up keeps its place until it returns: Python cannot stop it. Write
    ``async`` tools, or work in the sandbox, where calls may hang.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self._places = threading.BoundedSemaphore(limit)

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Await ``function(*args, **kwargs)``.

        Raises:
            InfrastructureError: all threads are busy, most likely hung.
        """
        if not self._places.acquire(blocking=False):
            raise InfrastructureError(
                f"All {self.limit} threads for blocking tools are busy, most likely hung. Make the tool "
                "async, or let it do its work in the sandbox, where it can be stopped."
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, problem: BaseException | None) -> None:
            if future.done():  # the caller timed out
                return
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)

        def work() -> None:
            result: Any = None
            problem: BaseException | None = None
            try:
                result = function(*args, **kwargs)
            except StopIteration as error:  # no future takes one
                problem = RuntimeError(
                    f"{getattr(function, '__name__', 'call')} raised StopIteration: {error}"
                )
            except BaseException as error:  # handed to the awaiting coroutine
                problem = error
            finally:
                self._places.release()
            try:
                loop.call_soon_threadsafe(settle, result, problem)
            except RuntimeError:  # the loop closed while we worked; nobody waits any more
                return

        threading.Thread(
            target=work, name=f"tool-{getattr(function, '__name__', 'call')}", daemon=True
        ).start()
        return await future


@dataclass
class ToolContext:
    """What an episode offers its tools.

    Args:
        task: the episode's task.
        episode_id: unique name of the episode.
        open_session: opens (or shares) the episode's sandbox session for given limits.
        run_once: ``(code, options, **how)``: runs a program in an empty session of its own.
        blocking: where blocking functions run.
        world: what the episode changes, for snapshots; ``None`` outside of episodes.
    """

    task: Task = field(default_factory=lambda: Task(""))
    episode_id: str = ""
    open_session: OpenSession | None = None
    run_once: RunOnce | None = None
    blocking: BlockingCalls = field(default_factory=BlockingCalls)
    world: World | None = None

    def the_world(self) -> World:
        """:attr:`world`, if there is one.

        Raises:
            DefinitionError: no episode runs.
        """
        if self.world is None:
            raise DefinitionError("Only a running episode has a world that snapshots are taken of.")
        return self.world

    async def sandbox(self, **limits: Any) -> Session:
        """The episode's isolated session; tools that ask for the same limits share it.

        Args:
            **limits: fields of :class:`agentrl.sandbox.Limits`, and ``preload``: modules that
                are imported before the first call.

        Raises:
            SandboxUnavailable: this machine or run offers no isolation.
        """
        if self.open_session is None:
            raise SandboxUnavailable("This tool needs a sandbox and none was given to the episode.")
        return await self.open_session(limits)

    async def run(
        self,
        code: str,
        *,
        language: Language = "python",
        stdin: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        fetch: Sequence[str] = (),
        **limits: Any,
    ) -> Result:
        """Run a program in an empty sandbox of its own, of which nothing is left.

        Args:
            code: a Python program or a bash script, as ``language`` says.
            stdin: its standard input.
            files: by their paths in the working folder, put there first.
            fetch: files to return, if they are there afterwards.
            **limits: as with :meth:`sandbox`.

        Raises:
            SandboxUnavailable: this machine or run offers no isolation.
            ToolError: a file cannot be put.
        """
        if self.run_once is None:
            raise SandboxUnavailable("This tool needs a sandbox and none was given to the episode.")
        return await self.run_once(
            code, limits, language=language, stdin=stdin, files=files or {}, fetch=tuple(fetch)
        )


class Tool:
    """Base of tools with state: one instance per episode.

    Override :meth:`call`; its signature and docstring are what the model is told.

    Attributes:
        name: by default the class name in snake_case.
        parallel: whether several calls of one turn may run at the same time.
        seconds: time limit of one call; ``None`` takes the rollout's.
    """

    name: ClassVar[str] = ""
    parallel: ClassVar[bool] = False
    seconds: float | None = None
    context: ToolContext

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    async def open(self) -> None:
        """Prepare the episode's instance; called before its first call."""

    async def close(self) -> None:
        """Let go of everything; called when the episode ends, however it ends."""

    async def call(self, *args: Any, **arguments: Any) -> Any:
        """Do the work and return what :meth:`Observation.of` takes.

        Raise :class:`ToolError` to tell the model that something failed.
        """
        raise DefinitionError(f"Tool {type(self).__name__} does not define call().")

    @property
    def function(self) -> Callable[..., Any]:
        """What the schema is made from and calls go to.

        Raises:
            DefinitionError: the class defines no ``call``.
        """
        if type(self).call is Tool.call:
            raise DefinitionError(f"Tool {type(self).__name__} does not define call().")
        return self.call

    @property
    def description(self) -> str:
        """What the model is told the tool does: the docstring of ``call``, or of the class."""
        inherited = (inspect.getdoc(Tool.call), inspect.getdoc(Tool))  # not meant for a model
        for text in (inspect.getdoc(self.function), inspect.getdoc(type(self))):
            if text and text not in inherited:
                return _summary(text)
        return ""

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in the form of OpenAI's function calling."""
        parameters = json.loads(
            _parameters(_plain(self.function))
        )  # an own copy, sooner than deepcopy makes it
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def spawn(self, context: ToolContext) -> Tool:
        """This episode's own instance."""
        instance = copy.copy(self)
        instance.context = context
        return instance

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validate and convert the model's arguments.

        Raises:
            InvalidArguments: with a message for the model that says which argument and why.
        """
        from pydantic import ValidationError

        model = _arguments_model(_plain(self.function))
        try:
            checked = model.model_validate(dict(arguments))
        except ValidationError as problem:
            raise InvalidArguments(_explain(self.name, model, problem)) from None
        return {name: getattr(checked, name) for name in model.model_fields}

    async def invoke(self, arguments: Mapping[str, Any]) -> Any:
        """Check the arguments and run the call, blocking functions in a thread."""
        checked = self.check(arguments)
        function = self.function
        if inspect.iscoroutinefunction(function):
            return await function(**checked)
        return await self.context.blocking.run(function, **checked)


class ToolSet(ABC):
    """Several tools from one place, such as a server, listed together."""

    @abstractmethod
    def tools(self) -> list[Tool]:
        """The tools, the same on every call.

        Raises:
            InfrastructureError: the place cannot be asked.
        """


class FunctionTool(Tool):
    """A function, or a method of an environment, as a tool. Made by :func:`tool`."""

    def __init__(self, function: Callable[..., Any], *, parallel: bool, seconds: float | None) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._parallel = parallel
        self.seconds = seconds
        self.is_method = next(iter(inspect.signature(function).parameters), "") == "self"
        self.__dict__["name"] = function.__name__
        self.__dict__["parallel"] = parallel

    @property
    def function(self) -> Callable[..., Any]:
        return self._function

    @property
    def description(self) -> str:
        return _summary(inspect.getdoc(self._function) or "")

    def bind(self, owner: object) -> FunctionTool:
        """The tool for one instance of the class that defines the method."""
        bound = copy.copy(self)
        bound._function = self._function.__get__(owner)
        return bound

    def __get__(self, owner: object | None, _type: type | None = None) -> Any:
        return self if owner is None or not self.is_method else self._function.__get__(owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...
@overload
def tool(
    *, parallel: bool = False, seconds: float | None = None
) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(
    function: Callable[..., Any] | None = None, /, *, parallel: bool = False, seconds: float | None = None
) -> Any:
    """Make a tool of a typed function with a docstring, or of a method of an environment.

    Args:
        parallel: whether several calls of one turn may run at the same time.
        seconds: time limit of one call; ``None`` takes the rollout's.
    """
    if function is None:
        return lambda inner: FunctionTool(inner, parallel=parallel, seconds=seconds)
    return FunctionTool(function, parallel=parallel, seconds=seconds)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(function, "__func__", function)


@functools.cache
def _parameters(function: Callable[..., Any]) -> str:
    """The JSON schema of the function's parameters. Every episode asks for it, and making it takes 1 ms."""
    parameters = _arguments_model(function).model_json_schema()
    parameters.pop("title", None)
    for parameter in parameters.get("properties", {}).values():
        parameter.pop("title", None)
    parameters.pop("additionalProperties", None)
    return json.dumps(parameters)


@functools.cache
def _summary(docstring: str) -> str:
    """The description part of a docstring, on one line per paragraph."""
    import docstring_parser

    parsed = docstring_parser.parse(docstring)
    parts = [part for part in (parsed.short_description, parsed.long_description) if part]
    return "\n".join(" ".join(part.split()) for part in parts)


@functools.cache
def _arguments_model(function: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the function's parameters, described by its docstring."""
    import docstring_parser
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    where = f"tool {function.__qualname__}"
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as problem:
        raise DefinitionError(f"The annotations of {where} cannot be read: {problem}.") from problem
    documented = {
        p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(function) or "").params
    }
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DefinitionError(
                f"Parameter {parameter} of {where} has no JSON form; name and type each one."
            )
        if name not in hints:
            raise DefinitionError(
                f"Parameter {name!r} of {where} has no type; annotate it, e.g. `{name}: str`."
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints[name], Field(default, description=documented.get(name)))
    try:
        model = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
        model.model_json_schema()
    except PydanticUserError as problem:
        raise DefinitionError(f"The types of {where} have no JSON schema: {problem}") from problem
    return model


def _explain(name: str, model: type[BaseModel], problem: Any) -> str:
    """What is wrong with the arguments, for the model to read."""
    lines = []
    for error in problem.errors():
        where = ".".join(str(part) for part in error["loc"]) or "arguments"
        if error["type"] == "missing":
            lines.append(f"{where} is required")
        elif error["type"] == "extra_forbidden":
            lines.append(f"{where} is not a parameter")
        else:
            lines.append(f"{where}: {error['msg']} (got {str(error['input'])[:80]!r})")
    known = ", ".join(model.model_fields) or "none"
    return f"Invalid arguments for {name}: {'; '.join(lines)}. Its parameters: {known}."
