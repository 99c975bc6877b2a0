"""Run Python that the model wrote, in the episode's sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agentrl import Observation, Tool, ToolError

MARGIN_SECONDS = 10.0
"""The sandbox stops code that runs too long; the rollout's own limit for the call lies this much behind."""

_FENCED = re.compile(r"^\s*```[a-zA-Z]*\n(.*?)\n?```\s*$", re.DOTALL)


class Python(Tool):
    """Runs Python code.

    Args:
        stateful: variables stay for the episode's next call, and the value of a last expression is
            shown, as in a notebook. Otherwise each call gets a fresh interpreter and only what is
            printed is shown. Files stay either way.
        seconds: wall and CPU time of one call.
        memory_mb: memory limit of the session, in MiB.
        output_bytes: what is kept of stdout and of stderr, each.
        preload: modules the interpreter finds already imported; only with ``stateful``.

    The observation's metadata holds ``status`` (of :class:`agentrl.sandbox.Status`), ``stdout`` and
    ``stderr`` as they were, ``exit_code`` and ``seconds``.
    """

    def __init__(
        self,
        stateful: bool = True,
        seconds: float = 10.0,
        memory_mb: int = 512,
        output_bytes: int = 16_384,
        preload: Sequence[str] = (),
    ) -> None:
        self.stateful, self.ended = stateful, ""
        self.seconds = seconds + MARGIN_SECONDS
        self.limits: dict[str, Any] = {
            "wall_seconds": seconds,
            "cpu_seconds": seconds,
            "memory_mb": memory_mb,
            "output_bytes": output_bytes,
        }
        if preload:
            self.limits["preload"] = tuple(preload)

    async def call(self, code: str) -> Observation:
        """Run Python code and show what it prints.

        Args:
            code: Python source code

        Raises:
            ToolError: the model's code ended its own session; the episode goes on without Python.
            SessionLost: machinery lost the session.
            SandboxUnavailable: this machine or run offers no isolation.
        """
        if fenced := _FENCED.match(code):
            code = fenced[1]
        if self.ended:
            raise ToolError(self.ended)
        session = await self.context.sandbox(**self.limits)
        if self.stateful:
            result = await session.run_cell(code)
        else:
            result = await session.run_script(code)
        status = str(result.status)
        if status == "session_lost":
            # What code did to its own session is the model's doing: were it a machine's failure,
            # a policy could void the episodes it does not like.
            self.ended = f"The Python session has ended and stays so for this episode: {result.detail}."
            raise ToolError(self.ended)
        return Observation(
            self._text(status, result),
            error=status != "ok",
            metadata={
                "status": status,
                "stdout": result.stdout,
                "stderr": result.stderr,
                "exit_code": result.exit_code,
                "seconds": result.seconds,
            },
        )

    def _text(self, status: str, result: Any) -> str:
        parts = [result.stdout.rstrip()]
        if status == "error":
            parts.append(last_frame(result.stderr) or f"The code ended with exit code {result.exit_code}.")
        elif status in self._stopped:
            parts.append(self._stopped[status].format(**self.limits))
            if self.stateful:
                parts.append("The interpreter starts afresh: variables are gone.")
        elif not parts[0]:
            parts.append(result.stderr.rstrip() or "(no output; use print)")
        if result.truncated:
            parts.append("(some of the output was thrown away)")
        return "\n".join(part for part in parts if part)

    _stopped = {
        "timeout": "Stopped: the code ran longer than {wall_seconds:g} s.",
        "oom": "Stopped: the code used more than {memory_mb} MiB of memory.",
        "output_limit": "Stopped: the code printed too much.",
        "crashed": "Stopped: the interpreter crashed.",
    }


def last_frame(traceback: str, most: int = 8) -> str:
    """What a model needs of a traceback: where its own code failed, and the error.

    Args:
        traceback: as Python prints it.
        most: lines to keep; of more, the first two and the last ones.
    """
    lines = traceback.rstrip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    own = [i for i in frames if lines[i].startswith('  File "<')]
    if own:
        error = 1 + max(i for i, line in enumerate(lines) if line.startswith("  "))
        end = next((i for i in frames if i > own[-1]), error)
        lines = lines[own[-1] : end] + lines[error:]
    return "\n".join(lines if len(lines) <= most else [*lines[:2], "    ...", *lines[3 - most :]])
