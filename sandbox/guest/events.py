"""What a supervisor waits for: descriptors, and what is to be done when they are ready."""

from __future__ import annotations

import select
from collections.abc import Callable

Heard = Callable[[], object]


class Events:
    """Descriptors in two ranks: those that tell how a call goes, and those that only bring its output.

    A short call's output fits into its pipes. To wake once for such a call, rather than for each line of it
    and for each pipe's end, one waits for the urgent ones alone.
    """

    def __init__(self) -> None:
        self._all, self._urgent = select.epoll(), select.epoll()
        self._watched: dict[int, tuple[bool, Heard]] = {}

    def watch(self, fd: int, heard: Heard, *, write: bool = False, urgent: bool = False) -> None:
        """Call ``heard`` whenever ``fd`` can be read (or written), or has hung up."""
        mask = select.EPOLLOUT if write else select.EPOLLIN
        self._all.register(fd, mask)
        if urgent:
            self._urgent.register(fd, mask)
        self._watched[fd] = urgent, heard

    def forget(self, fd: int) -> None:
        """Watch ``fd``, which is still open, no more; if it is watched."""
        if fd in self._watched:
            urgent, _ = self._watched.pop(fd)
            self._all.unregister(fd)
            if urgent:
                self._urgent.unregister(fd)

    def hear(self, seconds: float | None, *, urgent: bool = False) -> None:
        """Wait until something happens, and see to it; ``urgent``: to what tells how a call goes only.

        What is done about one event may see to others of the same moment, or close what they came from.
        """
        epoll = self._urgent if urgent else self._all
        for fd, entry in [(fd, self._watched.get(fd)) for fd, _ in epoll.poll(seconds)]:
            if entry is not None and self._watched.get(fd) is entry:
                entry[1]()
