"""Runs our own code on untrusted data inside a session, and reads its answer without believing it."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from agentrl import ToolError
from agentrl.tools.untrusted.errors import Interrupted, Invalid, Refused, Unanswered

if TYPE_CHECKING:
    from agentrl.sandbox import Result, Session

Answer = TypeVar("Answer", bound=BaseModel)

MOST_MESSAGE = 500
"""Characters of an error's text that come out of the sandbox."""
MARGIN_SECONDS = 1.0
"""The guest's code stops itself at its time limit; so much later the process is killed."""
LOADING_SECONDS = 10.0
"""What a large library may take to load, on top, where the session has not preloaded it."""

_KINDS: Mapping[str, type[ToolError]] = {"refused": Refused, "interrupted": Interrupted, "invalid": Invalid}
_STOPPED = {
    "timeout": "Stopped: it took longer than {seconds:g} s.",
    "oom": "Stopped: it used more memory than the session may.",
    "output_limit": "Stopped: it gave more output than the session may.",
    "crashed": "Stopped: the program that handled the data crashed.",
    "session_lost": "Stopped: it ended the whole session.",
}
_TOO_LARGE = "The answer is larger than the output that the session may give; ask for less."


_STANDS_ON: Mapping[str, tuple[str, ...]] = {
    "sqlite": ("_rows", "_sqlite"),
    "duckdb": ("_rows",),
    "match": ("_sqlite", "_same"),
    "image": ("_picture",),
    "album": ("_picture", "_video"),
    "ocr": ("_picture",),
}
"""Further modules of the guest's that one needs."""


@functools.cache
def program(name: str) -> str:
    """Our code for the guest: one module, between what finds libraries safely and what answers."""
    folder = resources.files("agentrl.tools.untrusted.guest")
    return "\n".join(
        folder.joinpath(f"{part}.py").read_text("utf-8")
        for part in ("_before", *_STANDS_ON.get(name, ()), f"for_{name}", "_after")
    )


async def ask(
    session: Session,
    name: str,
    request: Mapping[str, Any],
    answer: type[Answer],
    *,
    seconds: float,
    loading: float = LOADING_SECONDS,
    first: str = "",
) -> Answer:
    """Run the guest's module ``for_<name>`` on a request.

    Args:
        session: where; the data lies in its working folder.
        name: of the module.
        request: what its ``answer`` function takes, as JSON.
        answer: what it has to return.
        seconds: time after which the module stops itself; it is killed a second later.
        loading: seconds it may take to begin.
        first: a program of ours that runs before, in the same process.

    Raises:
        Refused, Interrupted, Invalid: as the module said, or because it had to be stopped.
        Unanswered: there is no answer of the right form.
    """
    nonce = secrets.token_hex(16)
    sent = json.dumps({**request, "seconds": seconds, "nonce": nonce}).encode()
    limit = seconds + MARGIN_SECONDS + loading
    result = await session.run_script(f"{first}\n{program(name)}", stdin=sent, wall_seconds=limit)
    return read(result, nonce, answer, limit)


def read(result: Result, nonce: str, answer: type[Answer], seconds: float) -> Answer:
    """The answer in what a program printed; ``seconds`` is the limit it ran under. Raises as `ask` does."""
    status = str(result.status)
    if status in _STOPPED:
        raise Interrupted(_STOPPED[status].format(seconds=seconds))
    mark, _, said = result.stdout.rstrip("\n").rpartition("\n")[2].partition(" ")
    if mark != nonce:
        raise Unanswered(_silence(result))
    try:
        reply = json.loads(said)
        if set(reply) == {"answer"}:
            return answer.model_validate_json(json.dumps(reply["answer"]))
        raise _KINDS[reply["kind"]](str(reply["message"])[:MOST_MESSAGE])
    except (ValueError, TypeError, KeyError, ValidationError, RecursionError):
        if result.truncated:
            raise Unanswered(_TOO_LARGE) from None
        raise Unanswered("The program that handled the data gave a malformed answer.") from None


def _silence(result: Result) -> str:
    if result.truncated:
        return _TOO_LARGE
    lines = result.stderr.strip().splitlines()
    return f"The data could not be handled: {lines[-1][:MOST_MESSAGE] if lines else 'no answer came'}."
