"""Finding tools and environments by name, dotted path or file path."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from agentrl.env import Env
from agentrl.errors import ConfigError, DefinitionError, NotFound
from agentrl.reward import Reward
from agentrl.tool import Tool, ToolSet

T = TypeVar("T")
ENVS, TOOLS, REWARDS = "agentrl.envs", "agentrl.tools", "agentrl.rewards"

MCP = "mcp:"
_MCP_NAME = re.compile(r"\s*(?P<server>.*?[^\s#])(?:#(?P<tool>[\w.-]+))?\s*", re.DOTALL)


def find_env(name: str, options: Mapping[str, Any] | None = None) -> Env:
    """The environment called ``name``, made with ``options``.

    Args:
        name: an entry point's name (``math``), a dotted path (``package.module:Class``), or a
            file (``./my_env.py``, ``./my_env.py:Class``).

    Raises:
        NotFound: nothing is known by that name or path.
        ConfigError: the environment does not take one of the options.
    """
    return make(find(name, ENVS, Env), Env, name, options or {})


def find_tool(name: str | Tool | type[Tool] | Any, options: Mapping[str, Any] | None = None) -> Tool:
    """A tool by name, dotted path, file path, class, instance or ``@tool`` function; or one that a tool
    server offers, by its address: ``http://HOST:PORT/NAME``, with the option ``token``.

    Raises:
        NotFound: there is no such tool.
        ConfigError: it does not take one of the options; or the name stands for several tools.
    """
    if isinstance(name, ToolSet) or (isinstance(name, str) and name.startswith(MCP)):
        several = find_tools(name, options)
        if len(several) != 1:
            known = ", ".join(tool.name for tool in several) or "none"
            raise ConfigError(
                f"{str(name)!r} offers {len(several)} tools ({known}); name one as {name}#NAME."
            )
        return several[0]
    if isinstance(name, str) and name.startswith(("http://", "https://")):
        remote = importlib.import_module("agentrl.serve.remote")  # only whoever names one needs the client
        return cast(Tool, remote.from_url(name, **_only(options or {}, "token", name)))
    found = find(name, TOOLS, Tool) if isinstance(name, str) else name
    return make(found, Tool, str(name), options or {})


def find_tools(name: str | ToolSet | Any, options: Mapping[str, Any] | None = None) -> list[Tool]:
    """What an item in a list of tools stands for: one tool, or all those of a :class:`agentrl.ToolSet`.

    Args:
        name: as for :func:`find_tool`; or ``mcp:URL`` or ``mcp:COMMAND``, an MCP server, of which ``#NAME``
            at the end takes one tool alone.
        options: of the tool, or of :class:`agentrl.tools.mcp.McpServer`.

    Raises:
        NotFound: there is no such tool.
        InfrastructureError: the server cannot be asked.
    """
    if isinstance(name, ToolSet):
        return name.tools()
    if not isinstance(name, str) or not name.startswith(MCP):
        return [find_tool(name, options)]
    match = _MCP_NAME.fullmatch(name.removeprefix(MCP))
    if match is None:
        raise ConfigError(f"{name!r} names no server; write mcp:URL or mcp:COMMAND.")
    offered = _mcp_server(match["server"], json.dumps(options or {}, sort_keys=True)).tools()
    if match["tool"] is None:
        return offered
    chosen = [tool for tool in offered if tool.name == match["tool"]]
    if not chosen:
        known = [tool.name for tool in offered]
        raise NotFound(
            f"{MCP}{match['server']} has no tool {match['tool']!r}. {nearest(match['tool'], known)}"
        )
    return chosen


def find_reward(item: Any) -> Any:
    """A reward by name, dotted path or file path; anything but a text is what it is.

    Raises:
        NotFound: nothing is known by that name or path.
    """
    return find(item, REWARDS, Reward) if isinstance(item, str) else item


def names(group: str) -> dict[str, EntryPoint]:
    """What is installed in an entry-point group, by name."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def source_folder(env: Env) -> Path:
    """The folder that holds an environment's code, its ``train.yaml`` and README."""
    return Path(inspect.getfile(type(env))).resolve().parent


def nearest(word: str, known: list[str]) -> str:
    """A hint that names the nearest of the known words, or lists them."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"Known: {', '.join(sorted(known)) or 'none'}."


def find(name: str, group: str, kind: type[Any]) -> Any:
    """What is called ``name``: an entry point of ``group``, a dotted path or a file that defines a ``kind``.

    Raises:
        NotFound: nothing is known by that name or path.
        DefinitionError: a file that cannot be loaded.
    """
    path, _, attribute = name.partition(":")
    if path.endswith(".py") or "/" in path:
        return _pick(_load_file(Path(path)), attribute, kind, name)
    installed = names(group)
    if name in installed:
        return installed[name].load()
    if "." not in path and not attribute:
        what = group.rpartition(".")[2]
        raise NotFound(f"There is no {what[:-1]} {name!r}. {nearest(name, list(installed))}")
    try:
        return _pick(importlib.import_module(path), attribute, kind, name)
    except ModuleNotFoundError as problem:
        if problem.name and path.startswith(problem.name):
            raise NotFound(
                f"There is no module {path!r} ({problem}). Is it installed, or did you mean a file?"
            ) from None
        raise


@functools.cache
def _mcp_server(address: str, options: str) -> ToolSet:
    """The same for the same words: it is asked once, and its limits hold for the whole process."""
    found = importlib.import_module("agentrl.tools.mcp").McpServer  # only whoever names one needs the SDK
    return cast(ToolSet, make(found, found, f"{MCP}{address}", {"server": address, **json.loads(options)}))


def _load_file(path: Path) -> ModuleType:
    if path.is_dir():
        path = path / "__init__.py"
    if not path.is_file():
        raise NotFound(f"There is no file {str(path)!r}.")
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"agentrl_user_{path.stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[module_name]
        raise DefinitionError(f"{path} could not be loaded: {type(problem).__name__}: {problem}") from problem
    finally:
        sys.path.remove(str(path.parent))
    return module


def _pick(module: ModuleType, attribute: str, kind: type[Any], name: str) -> Any:
    if attribute:
        if hasattr(module, attribute):
            return getattr(module, attribute)
        raise NotFound(f"{name!r}: the module has no {attribute!r}. {nearest(attribute, list(vars(module)))}")
    own = [
        value
        for value in vars(module).values()
        if (isinstance(value, kind) or (isinstance(value, type) and issubclass(value, kind)))
        and vars(value).get("__module__", module.__name__) == module.__name__  # not imported from elsewhere
    ]
    if len(own) == 1:
        return own[0]
    found = ", ".join(getattr(value, "__name__", type(value).__name__) for value in own)
    raise NotFound(
        f"{name!r} defines {f'several {kind.__name__}s ({found})' if own else f'no {kind.__name__}'}; "
        f"name one as {name}:NAME."
    )


def _only(options: Mapping[str, Any], known: str, name: str) -> Mapping[str, Any]:
    for option in options:
        if option != known:
            raise ConfigError(f"Tool {name!r} takes no option {option!r}. {nearest(option, [known])}")
    return options


def make(found: Any, kind: type[T], name: str, options: Mapping[str, Any]) -> T:
    """An instance of what was found; ``name`` is what messages call it.

    Raises:
        ConfigError: it does not take one of the options, or needs one that is missing.
        DefinitionError: it is no ``kind``.
    """
    if isinstance(found, type) and issubclass(found, kind):
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        taken = [p for p in inspect.signature(found).parameters.values() if p.kind not in variadic]
        known = [p.name for p in taken]
        for option in options:
            if option not in known:
                raise ConfigError(
                    f"{kind.__name__} {name!r} takes no option {option!r}. {nearest(option, known)}"
                )
        for p in taken:
            if p.default is p.empty and p.name not in options:
                raise ConfigError(f"{kind.__name__} {name!r} needs the option {p.name!r}.")
        return found(**options)
    if isinstance(found, kind):
        if options:
            raise ConfigError(
                f"{name!r} is a ready-made {kind.__name__} and takes no options ({', '.join(options)})."
            )
        return found
    raise DefinitionError(f"{name!r} is {type(found).__name__}, not a {kind.__name__}.")
