"""Run a program, in Python or bash, and tell exactly what it printed; nothing is remembered."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentrl import Observation, Tool, ToolError

MARGIN_SECONDS = 10.0
"""The sandbox stops what runs too long; the rollout's own limit for the call lies this much behind."""
MOST_FILES = 64
MOST_FILE_BYTES = 8 << 20
"""Of all the files that a call brings, and of all those that it fetches."""


class Code(Tool):
    """Runs whole programs, each in an empty sandbox of its own.

    A call with files runs in the sandbox session of whoever calls instead: within an episode, such calls find
    the files of those before them.

    Unlike ``python``, which is a notebook for a model, this is for callers that want a program's raw
    output: the protocols of the tool server, code-contest graders.

    Args:
        seconds: wall and CPU time of one call, unless it names a shorter time.
        memory_mb: memory limit, in MiB.
        output_bytes: what is kept of stdout and of stderr, each.
        preload: modules the interpreter finds already imported.

    The observation's text is stdout, then stderr; its metadata holds ``status`` (of
    :class:`agentrl.sandbox.Status`), ``stdout``, ``stderr``, ``exit_code``, ``seconds``, ``truncated`` and
    ``detail``; for a call that fetches also ``files`` (base64 by path), without those that are not there or
    too large.
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
        files: dict[str, str] | None = None,
        fetch: list[str] | None = None,
    ) -> Observation:
        """Run a program and show what it prints.

        Args:
            code: the program's source
            language: what it is written in
            stdin: what it reads from standard input
            seconds: after how long it is stopped
            files: files it finds in its folder, base64 by path
            fetch: paths of files that are kept once it has ended
        """
        limit = min(self.most_seconds, seconds or self.most_seconds)
        result = await self.context.run(
            code,
            language=language,
            stdin=stdin.encode(errors="replace"),
            files=_decoded(files or {}, fetch or ()),
            fetch=fetch or (),
            wall_seconds=limit,
            cpu_seconds=limit,
            **self.limits,
        )
        status = str(result.status)
        metadata: dict[str, Any] = {
            "status": status,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "exit_code": result.exit_code,
            "seconds": result.seconds,
            "truncated": result.truncated,
            "detail": result.detail,
        }
        if fetch:
            metadata["files"] = {path: base64.b64encode(data).decode() for path, data in result.files.items()}
        return Observation(result.stdout + result.stderr, error=status != "ok", metadata=metadata)


def _decoded(files: Mapping[str, str], fetch: Sequence[str]) -> dict[str, bytes]:
    """The files that a call brings.

    Raises:
        ToolError: one of them is not base64, or there are too many.
    """
    if max(len(files), len(fetch)) > MOST_FILES:
        raise ToolError(f"A call takes and fetches {MOST_FILES} files at most.")
    decoded = {}
    for path, data in files.items():
        try:
            decoded[path] = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ToolError(f"The file {path!r} is not base64: {problem}.") from None
    if sum(map(len, decoded.values())) > MOST_FILE_BYTES:
        raise ToolError(f"The files of a call have {MOST_FILE_BYTES >> 20} MiB together at most.")
    return decoded
