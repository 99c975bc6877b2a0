"""Finding an isolation backend by name: those that come with agentrl, installed ones, and files."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agentrl.errors import AgentRLError, ConfigError, DefinitionError, NotFound, SandboxUnavailable

from .protocol import Availability, Sandbox

ENTRY_POINTS = "agentrl.sandboxes"
"""The entry-point group in which packages name backends of their own."""

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "namespace": "agentrl.sandbox.namespace:NamespaceSandbox",
        "docker": "agentrl.sandbox.containers:DockerSandbox",
        "remote": "agentrl.sandbox.remote:RemoteSandbox",
        "dangerously_local": "agentrl.sandbox.dangerously_local:DangerouslyLocalSandbox",
    }
)
"""The backends that come with agentrl, by name; each is imported when it is asked for."""

AUTOMATIC = ("namespace", "docker")
"""What "auto" tries, in this order. Both isolate, on this machine; nothing else is ever chosen unasked."""


def open_sandbox(name: str = "auto", **options: Any) -> Sandbox:
    """The backend called ``name``, or the first that works on this machine. Code is never run unconfined
    instead.

    Tries the backend for real, which blocks for a fraction of a second.

    Args:
        name: ``auto``, a name of `backend_names`, a dotted path (``package.module:Class``) or a file
            (``./mine.py`` or ``./mine.py:Class``).
        options: arguments of the backend's class; ``auto`` takes none.

    Raises:
        SandboxUnavailable: the backend does not work here; says what is missing and how to get it.
        NotFound: nothing is known by this name or path.
        ConfigError: the backend does not take one of the options.
    """
    if name == "auto":
        if options:
            raise ConfigError(
                f"options ({', '.join(options)}) are for a backend, and 'auto' names none. "
                f"Name it: {', '.join(AUTOMATIC)}."
            )
        return _first()
    backend = find_backend(name)
    availability = backend.availability()
    if not availability.ok:
        raise SandboxUnavailable(f"the sandbox backend {name!r} does not work here: {availability.reason}")
    if not options:
        return backend()
    from agentrl.registry import make

    return make(backend, Sandbox, name, options)  # type: ignore[type-abstract]


def _first() -> Sandbox:
    reasons = []
    for name in AUTOMATIC:
        availability = availability_of(name)
        if availability.ok:
            return find_backend(name)()
        reasons.append(f"{name}: {availability.reason}")
    raise SandboxUnavailable("this machine cannot isolate untrusted code. " + " ".join(reasons))


def find_backend(name: str) -> type[Sandbox]:
    """The class of a backend, by name, dotted path or file.

    Raises:
        NotFound: nothing is known by this name or path.
        SandboxUnavailable: its module, or one that this needs, is not installed.
        DefinitionError: a file that cannot be loaded, or what was found is no Sandbox.
    """
    if name in BACKENDS:
        return _load(name, BACKENDS[name])
    from agentrl.registry import find, names, nearest

    if not any(mark in name for mark in "./:") and name not in names(ENTRY_POINTS):
        known = ["auto", *backend_names()]
        raise NotFound(f"there is no sandbox backend {name!r}. {nearest(name, known)}")
    found = find(name, ENTRY_POINTS, Sandbox)
    if isinstance(found, type) and issubclass(found, Sandbox):
        return found
    raise DefinitionError(f"{name!r} is {type(found).__name__}, not a class of Sandbox.")


def _load(name: str, path: str) -> type[Sandbox]:
    module, _, attribute = path.partition(":")
    try:
        found: type[Sandbox] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as problem:
        raise SandboxUnavailable(
            f"the sandbox backend {name!r} needs the Python module {problem.name!r}, which is not installed."
        ) from problem
    return found


def backend_names() -> tuple[str, ...]:
    """The backends that can be named: agentrl's own, then those of installed packages."""
    from agentrl.registry import names

    return (*BACKENDS, *(name for name in names(ENTRY_POINTS) if name not in BACKENDS))


def availability_of(name: str) -> Availability:
    """Whether a backend works here; one that cannot even be loaded does not, and the reason says why.

    Raises:
        NotFound: nothing is known by this name or path.
    """
    try:
        return find_backend(name).availability()
    except NotFound:
        raise
    except AgentRLError as problem:
        return Availability(False, str(problem))
    except Exception as problem:  # noqa: BLE001  anybody's package: one that is broken must not hide the others
        return Availability(False, f"cannot be loaded: {type(problem).__name__}: {problem}")
