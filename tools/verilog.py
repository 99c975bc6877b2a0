"""Write, compile and simulate Verilog with Icarus Verilog, in the episode's sandbox."""

from __future__ import annotations

import re

from agentrl import ConfigError, Observation, Tool, ToolError

MARGIN_SECONDS = 10.0
"""The sandbox stops what runs too long; the rollout's own limit for the call lies this much behind."""
MOST_FILES = 32
NOT_FOUND = 127

_NAME = re.compile(r"[A-Za-z_]\w{0,62}\.(?:v|sv|vh|svh|mem|hex)")
_MODULE = re.compile(r"[A-Za-z_][\w$]{0,62}")
_COMPILE = "shopt -s nullglob; iverilog -g2012 -Wall -Wno-timescale {top} -o .simulation ./*.v ./*.sv 2>&1"
_SIMULATE = " || exit; vvp -n .simulation </dev/null 2>&1"


class Verilog(Tool):
    """Writes Verilog files, compiles all there are with Icarus Verilog, and simulates.

    Files stay for the episode's next calls. Needs Debian's ``iverilog`` where sandbox sessions run.

    Args:
        seconds: wall and CPU time of one call.
        memory_mb: memory limit of the session, in MiB.
        output_bytes: what is kept of what is printed.

    The observation's metadata holds ``status`` (of :class:`agentrl.sandbox.Status`) and ``exit_code``.
    """

    def __init__(self, seconds: float = 10.0, memory_mb: int = 512, output_bytes: int = 16_384) -> None:
        self.ended = ""
        self.seconds = seconds + MARGIN_SECONDS
        self.limits = {
            "wall_seconds": seconds,
            "cpu_seconds": seconds,
            "memory_mb": memory_mb,
            "output_bytes": output_bytes,
        }

    async def call(self, files: dict[str, str] | None = None, top: str = "") -> Observation:
        """Write Verilog files, compile all files there are, and simulate a module.

        Args:
            files: the text of each file by its name, such as design.v; files of earlier calls stay
            top: the module that is simulated, such as a test bench of yours; without it, compile only

        Raises:
            ToolError: a name does not fit, a file cannot be written, or the session has ended.
            ConfigError: the sandbox has no Icarus Verilog.
        """
        if self.ended:
            raise ToolError(self.ended)
        if top and not _MODULE.fullmatch(top):
            raise ToolError(f"top={top[:80]!r} is no module's name.")
        if len(files or {}) > MOST_FILES:
            raise ToolError(f"A call writes {MOST_FILES} files at most.")
        for name in files or {}:
            if not _NAME.fullmatch(name):
                raise ToolError(f"{name[:80]!r} is no name for a file; give one such as design.v.")
        session = await self.context.sandbox(**self.limits)
        for name, text in (files or {}).items():
            await session.put(name, text.encode(errors="replace"))
        script = _COMPILE.format(top=f"-s {top}" if top else "") + (_SIMULATE if top else "")
        result = await session.exec(script)
        status = str(result.status)
        if status == "session_lost":  # the model's doing, as with python
            self.ended = f"The session has ended and stays so for this episode: {result.detail}."
            raise ToolError(self.ended)
        if result.exit_code == NOT_FOUND and "iverilog: command not found" in result.stdout + result.stderr:
            raise ConfigError(
                "The sandbox has no Icarus Verilog: apt-get install iverilog where sessions run."
            )
        return Observation(
            self._text(status, result.stdout.rstrip(), truncated=result.truncated, simulated=bool(top)),
            error=status != "ok",
            metadata={"status": status, "exit_code": result.exit_code},
        )

    def _text(self, status: str, printed: str, *, truncated: bool, simulated: bool) -> str:
        parts = [printed]
        if status in self._stopped:
            parts.append(self._stopped[status].format(**self.limits))
        elif not printed and status == "ok":
            parts.append("(it printed nothing)" if simulated else "Compiled.")
        if truncated:
            parts.append("(some of the output was thrown away)")
        return "\n".join(part for part in parts if part)

    _stopped = {
        "timeout": "Stopped: it ran longer than {wall_seconds:g} s. Does the test bench call $finish?",
        "oom": "Stopped: it used more than {memory_mb} MiB of memory.",
        "output_limit": "Stopped: it printed too much.",
        "crashed": "Stopped: it crashed.",
    }
