"""What a person, or a pipe, writes to standard input."""

from __future__ import annotations

import sys

from agentrl.tool import BlockingCalls

GOES_ON = "\\"
"""At the end of a line: the next one belongs to it."""


class Lines:
    """Lines of standard input, read beside the event loop.

    Args:
        prompt: shown before each in a terminal.
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._blocking = BlockingCalls(1)

    async def next(self) -> str | None:
        """The next line that is not blank, with those that it goes on in; ``None`` at the end."""
        while True:
            parts = [await self._read(self._prompt)]
            while (part := parts[-1]) is not None and part.endswith(GOES_ON):
                parts[-1] = part.removesuffix(GOES_ON)
                parts.append(await self._read("… "))
            if parts == [None]:
                return None
            text = "\n".join(part for part in parts if part is not None)
            if text.strip():
                return text

    async def _read(self, prompt: str) -> str | None:
        line: str = await self._blocking.run(_read_terminal if sys.stdin.isatty() else _read_pipe, prompt)
        return line.rstrip("\r\n") if line else None


def _read_terminal(prompt: str) -> str:
    try:
        return input(prompt) + "\n"
    except EOFError:
        return ""


def _read_pipe(_prompt: str) -> str:
    return sys.stdin.readline()
