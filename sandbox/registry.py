"""Finding an isolation backend by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from agentrl.errors import NotFound, SandboxUnavailable

from .namespace import NamespaceSandbox
from .protocol import Sandbox

#: Backends by name. The order is that in which "auto" tries them; all of them confine.
BACKENDS: Mapping[str, type[Sandbox]] = MappingProxyType({NamespaceSandbox.name: NamespaceSandbox})


def open_sandbox(name: str = "auto") -> Sandbox:
    """The backend called ``name``, or the first that works on this machine. Code is never run unconfined
    instead.

    Tries the backend for real, which blocks for a fraction of a second. Raises SandboxUnavailable, with what
    is missing and how to get it, and NotFound for an unknown name.
    """
    if name != "auto" and name not in BACKENDS:
        raise NotFound(f"no sandbox backend is called {name!r}; there are: auto, {', '.join(BACKENDS)}")
    reasons = []
    for candidate in BACKENDS if name == "auto" else (name,):
        availability = BACKENDS[candidate].availability()
        if availability.ok:
            return BACKENDS[candidate]()
        reasons.append(f"{candidate}: {availability.reason}")
    raise SandboxUnavailable("this machine cannot isolate untrusted code. " + " ".join(reasons))
