"""Run the tests of the repository in the episode's working folder, in its sandbox."""

from __future__ import annotations

from agentrl import Observation, Tool
from agentrl.tools.repo.testing import LOADING_SECONDS, PASSING, Report, read, request
from agentrl.tools.repo.workspace import MARGIN_SECONDS, Workspace

_DEFAULT = Workspace()


class Tests(Tool):
    """Runs tests with pytest, each call in a new process.

    What they say is for the model alone: whoever judges it runs the tests elsewhere.

    Args:
        workspace: the limits of the session that holds the folder; ``preload=("pytest",)`` saves starting it.
        seconds: for the tests of one call; at most the workspace's.
        failures: how many failing tests are shown in full.
        lines: of what each of them says, the last ones.

    The observation's metadata holds ``status``, ``passed`` and ``failed`` (lists of names).
    """

    __test__ = False  # nor is this class a test

    def __init__(
        self, workspace: Workspace = _DEFAULT, seconds: float = 20.0, failures: int = 3, lines: int = 12
    ) -> None:
        self.workspace, self.failures, self.lines = workspace, failures, lines
        self.test_seconds = min(seconds, workspace.seconds)
        self.seconds = self.test_seconds + LOADING_SECONDS + MARGIN_SECONDS

    async def call(self, path: str = "") -> Observation:
        """Run tests with pytest.

        Args:
            path: a file, a folder or one test, such as tests/test_a.py::test_b; by default all
        """
        session = await self.workspace.session(self.context)
        program, sent = request([path] if path else [], self.test_seconds)
        result = await session.run_script(
            program, stdin=sent, wall_seconds=self.test_seconds + LOADING_SECONDS
        )
        if result.status == "session_lost":
            return Observation(self.workspace.told(result), error=True, metadata={"status": "session_lost"})
        report = read(result)
        passed = [name for name, outcome in report.outcomes.items() if outcome in PASSING]
        failed = [name for name, outcome in report.outcomes.items() if outcome in ("failed", "xpassed")]
        metadata = {"status": report.ended, "passed": passed, "failed": failed}
        return Observation(self._text(report, passed, failed), metadata=metadata)

    def _text(self, report: Report, passed: list[str], failed: list[str]) -> str:
        parts = [f"{len(failed)} failed, {len(passed)} passed"]
        for name in failed[: self.failures]:
            said = report.messages.get(name, "").splitlines()[-self.lines :]
            parts.append("\n".join([f"FAILED {name}", *said]))
        if more := failed[self.failures :]:
            parts.append("\n".join(["FAILED too:", *more[:20], *(["..."] if len(more) > 20 else [])]))
        if report.ended == "timeout":
            parts.insert(0, f"Stopped: the tests ran longer than {self.test_seconds:g} s.")
        elif report.ended != "finished":
            parts.insert(0, f"The run was stopped: {report.detail or report.ended}.")
        return "\n".join(parts)
