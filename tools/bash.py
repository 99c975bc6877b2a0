"""Run bash in the episode's working folder, in its sandbox."""

from __future__ import annotations

from agentrl import Observation, Tool
from agentrl.tools.repo.workspace import MARGIN_SECONDS, Workspace

_DEFAULT = Workspace()


class Bash(Tool):
    """Runs shell commands. Each call is a new shell; files stay.

    Args:
        workspace: the limits of the session that holds the folder.
        shown_bytes: of an output, its beginning and its end.

    The observation's metadata holds ``status`` (of :class:`agentrl.sandbox.Status`) and ``exit_code``.
    """

    def __init__(self, workspace: Workspace = _DEFAULT, shown_bytes: int = 16_384) -> None:
        self.workspace, self.shown_bytes = workspace, shown_bytes
        self.seconds = workspace.seconds + MARGIN_SECONDS

    async def call(self, command: str) -> Observation:
        """Run a bash command and show what it prints.

        Args:
            command: the command
        """
        session = await self.workspace.session(self.context)
        result = await session.exec(command)
        parts = [shortened(result.stdout.rstrip(), self.shown_bytes)]
        parts.append(shortened(result.stderr.rstrip(), self.shown_bytes))
        if told := self.workspace.told(result):
            parts.append(told)
        elif result.exit_code:
            parts.append(f"(exit code {result.exit_code})")
        text = "\n".join(part for part in parts if part) or "(no output)"
        metadata = {"status": str(result.status), "exit_code": result.exit_code}
        return Observation(text, error=result.status != "ok", metadata=metadata)


def shortened(text: str, most: int) -> str:
    """The first and last part of a long text."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n({len(text) - 2 * half} characters are left out)\n{text[-half:]}"
