"""Look at and change the files of the episode's working folder, which `bash` and `tests` see too."""

from __future__ import annotations

from typing import Any

from agentrl import Observation, Tool
from agentrl.tools.repo.workspace import MARGIN_SECONDS, Workspace

_DEFAULT = Workspace()


class _FileTool(Tool):
    """What they have in common.

    Args:
        workspace: the limits of the session that holds the folder.
        lines: at most so many are shown.
    """

    def __init__(self, workspace: Workspace = _DEFAULT, lines: int = 200) -> None:
        self.workspace, self.lines = workspace, lines
        self.seconds = workspace.seconds + MARGIN_SECONDS

    async def _ask(self, **request: Any) -> Observation:
        return (await self.workspace.ask(self.context, "guest_files.py", request)).observation()


class View(_FileTool):
    """Shows a file with its line numbers, or what a folder holds."""

    async def call(self, path: str, first: int = 1, last: int = 0) -> Observation:
        """Show lines of a file, or the files of a folder.

        Args:
            path: the file or folder
            first: first line
            last: last line; 0: the last one of the file
        """
        return await self._ask(operation="view", path=path, first=first, last=last, most=self.lines)


class Find(_FileTool):
    """Finds a text in files."""

    async def call(self, text: str, path: str = ".") -> Observation:
        """Find the lines that contain a text.

        Args:
            text: the exact text
            path: the file or folder to look in
        """
        return await self._ask(operation="find", text=text, path=path, most=self.lines)


class Edit(_FileTool):
    """Replaces a text that stands in a file once."""

    async def call(self, path: str, old: str, new: str) -> Observation:
        """Replace a text that occurs once in a file.

        Args:
            path: the file
            old: the exact text to replace
            new: what takes its place
        """
        return await self._ask(operation="edit", path=path, old=old, new=new)


class Create(_FileTool):
    """Writes a file."""

    async def call(self, path: str, text: str) -> Observation:
        """Write a file, in place of one that has the name.

        Args:
            path: the file
            text: all of its content
        """
        return await self._ask(operation="create", path=path, text=text)
