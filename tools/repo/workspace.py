"""The working folder that `view`, `find`, `edit`, `create`, `bash` and `tests` of an episode share."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl import DefinitionError, Observation, ToolContext

if TYPE_CHECKING:
    from agentrl.sandbox import Result, Session

MARGIN_SECONDS = 15.0
"""The sandbox stops a call that runs too long; the rollout's own limit for the call lies this much behind."""

STOPPED: Mapping[str, str] = {
    "timeout": "Stopped: it ran longer than {seconds:g} s.",
    "oom": "Stopped: it used more than {memory_mb} MiB of memory.",
    "output_limit": "Stopped: it printed too much.",
    "crashed": "Stopped: it was ended by a signal.",
}


@dataclass(frozen=True)
class Workspace:
    """The limits of the session that holds the folder. Tools of an episode share it if these are the same.

    Args:
        seconds: wall and CPU time of one call.
        memory_mb, disk_mb: MiB.
        inodes: files and folders.
        processes: threads too.
        output_bytes: kept of what one call prints; the model is shown less of it.
        preload: modules that Python programs find already imported.
        hide: installed packages that are not to be seen.
    """

    seconds: float = 30.0
    memory_mb: int = 512
    disk_mb: int = 64
    inodes: int = 4096
    processes: int = 32
    output_bytes: int = 1 << 20
    preload: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()

    def limits(self) -> dict[str, Any]:
        """As :meth:`agentrl.ToolContext.sandbox` takes them."""
        limits = asdict(self)
        seconds = limits.pop("seconds")
        return {**limits, "wall_seconds": seconds, "cpu_seconds": seconds}

    async def session(self, context: ToolContext) -> Session:
        """The episode's session. Ask each time: an environment that is restored has another one."""
        return await context.sandbox(**self.limits())

    async def ask(self, context: ToolContext, program: str, request: Mapping[str, Any]) -> Reply:
        """Run one of our guest programs in the session: JSON goes in, JSON comes out.

        Args:
            program: a file beside this one.

        Raises:
            InfrastructureError: the sandbox failed. What the episode did to its own session is a reply.
        """
        session = await self.session(context)
        return self.read(await session.run_script(guest(program), stdin=json.dumps(request).encode()))

    def read(self, result: Result) -> Reply:
        """What a guest program answered, or why it did not."""
        if result.status == "ok":
            try:
                answer = json.loads(result.stdout.splitlines()[-1])
            except (ValueError, IndexError):
                return Reply("error", {}, "The answer cannot be read.")
            if isinstance(answer, dict):
                return Reply("ok", answer, "")
        status = str(result.status)
        return Reply(status, {}, self.told(result) or f"It failed: {result.stderr.strip()[-300:]}")

    def told(self, result: Result) -> str:
        """What a model needs to know of a call that did not end by itself; else nothing."""
        status = str(result.status)
        if status == "session_lost":
            return f"The session has ended and stays so for this episode: {result.detail}."
        return STOPPED.get(status, "").format(**asdict(self))


@dataclass(frozen=True)
class Reply:
    """What a guest program answered.

    Args:
        status: of :class:`agentrl.sandbox.Status`.
        answer: its JSON; hostile, for the episode may have changed whatever the program looks at.
        problem: in words, where there is no answer.
    """

    status: str
    answer: Mapping[str, Any]
    problem: str

    def observation(self) -> Observation:
        """What the model sees of a reply with the keys ``text`` and perhaps ``error``."""
        text = self.problem or str(self.answer.get("text", ""))
        error = bool(self.problem) or bool(self.answer.get("error"))
        return Observation(text, error=error, metadata={"status": self.status})


@functools.cache
def guest(program: str) -> str:
    """The source of a guest program."""
    path = Path(__file__).with_name(program)
    if not path.is_file():
        raise DefinitionError(f"There is no guest program {path}.")
    return path.read_text()
