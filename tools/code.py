"""Run a program, in Python or bash, and tell exactly what it printed; nothing is remembered."""

from __future__ import annotations

from typing import Any, Literal

from agentrl import Observation, Tool

MARGIN_SECONDS = 10.0
"""The sandbox stops what runs too long; the rollout's own limit for the call lies this much behind."""


class Code(Tool):
    """Runs whole programs, each in an empty sandbox of its own.

    Unlike ``python``, which is a notebook for a model, this is for callers that want a program's raw
    output: the protocols of the tool server, code-contest graders.

    Args:
        seconds: wall and CPU time of one call, unless it names a shorter time.
        memory_mb: memory limit, in MiB.
        output_bytes: what is kept of stdout and of stderr, each.
        preload: modules the interpreter finds already imported.

    The observation's text is stdout, then stderr; its metadata holds ``status`` (of
    :class:`agentrl.sandbox.Status`), ``stdout``, ``stderr``, ``exit_code``, ``seconds``, ``truncated`` and
    ``detail``.
    """

    parallel = True

    def __init__(
        self,
        seconds: float = 10.0,
        memory_mb: int = 512,
        output_bytes: int = 65_536,
        preload: tuple[str, ...] = (),
    ) -> None:
        self.most_seconds = seconds
        self.seconds = seconds + MARGIN_SECONDS
        self.limits: dict[str, Any] = {"memory_mb": memory_mb, "output_bytes": output_bytes}
        if preload:
            self.limits["preload"] = tuple(preload)

    async def call(
        self,
        code: str,
        language: Literal["python", "bash"] = "python",
        stdin: str = "",
        seconds: float | None = None,
    ) -> Observation:
        """Run a program and show what it prints.

        Args:
            code: the program's source
            language: what it is written in
            stdin: what it reads from standard input
            seconds: after how long it is stopped
        """
        limit = min(self.most_seconds, seconds or self.most_seconds)
        result = await self.context.run(
            code, language=language, stdin=stdin.encode(errors="replace"),
            wall_seconds=limit, cpu_seconds=limit, **self.limits,
        )  # fmt: skip
        status = str(result.status)
        metadata = {
            "status": status,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "exit_code": result.exit_code,
            "seconds": result.seconds,
            "truncated": result.truncated,
            "detail": result.detail,
        }
        return Observation(result.stdout + result.stderr, error=status != "ok", metadata=metadata)
