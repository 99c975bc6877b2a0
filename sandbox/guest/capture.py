"""Collecting what a call prints, up to a limit, without ever waiting for the end of a pipe."""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Sequence

from .events import Events
from .memory import unforked

CHUNK = 1 << 16
_MAX_ABANDONED = 16


class Capture:
    """The first ``limit`` bytes of each of two streams; the rest is read, counted and thrown away.

    ``memory`` is where they are kept: two rooms of ``limit`` bytes.
    """

    def __init__(self, limit: int, memory: tuple[mmap.mmap, mmap.mmap] | None = None) -> None:
        self.limit = limit
        self.seen = 0
        self._memory = memory or (unforked(limit), unforked(limit))
        self._sizes = [0, 0]

    def add(self, stream: int, data: bytes | memoryview) -> None:
        self.seen += len(data)
        begin = self._sizes[stream]
        end = self._sizes[stream] = min(self.limit, begin + len(data))
        self._memory[stream][begin:end] = data[: end - begin]

    @property
    def kept(self) -> tuple[memoryview, memoryview]:
        """What there is of each stream."""
        first, second = self._memory
        return memoryview(first)[: self._sizes[0]], memoryview(second)[: self._sizes[1]]

    @property
    def truncated(self) -> bool:
        return self.seen > sum(self._sizes)


class Streams:
    """Two pipes that guest processes write their output to, drained for as long as anybody may write.

    ``scratch`` is a room of CHUNK bytes to read into.
    """

    def __init__(self, events: Events, scratch: mmap.mmap) -> None:
        self._events, self._scratch = events, scratch
        self._capture: Capture | None = None
        pairs = (os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC))
        self._readers = [reader for reader, _ in pairs]
        self.writers = (pairs[0][1], pairs[1][1])
        for index, reader in enumerate(self._readers):
            os.set_blocking(reader, False)
            events.watch(reader, functools.partial(self._read, index))

    def close_writers(self) -> None:
        """To be called once the guest process has its copies."""
        for fd in self.writers:
            os.close(fd)

    def record(self, capture: Capture | None) -> None:
        """Where output goes from now on; None throws it away."""
        self._capture = capture

    def drain(self) -> None:
        """Take what lies in the pipes now, without waiting for more."""
        for index in (0, 1):
            for _ in range(64):  # four megabytes: a background process may be writing all the while
                if not self._read(index):
                    break

    def _read(self, index: int) -> bool:
        """Whether there may be more."""
        reader = self._readers[index]
        if reader < 0:
            return False
        try:
            size = os.readv(reader, [self._scratch])
        except BlockingIOError:
            return False
        if not size:
            self._close(index)
            return False
        if self._capture is not None:
            self._capture.add(index, memoryview(self._scratch)[:size])
        return size == len(self._scratch)

    def _close(self, index: int) -> None:
        if self._readers[index] >= 0:
            self._events.forget(self._readers[index])
            os.close(self._readers[index])
            self._readers[index] = -1

    @property
    def open(self) -> bool:
        return any(reader >= 0 for reader in self._readers)

    def close(self) -> None:
        self._close(0)
        self._close(1)


class Abandoned:
    """Pipes of finished calls that background processes still write to: read and thrown away."""

    def __init__(self) -> None:
        self._streams: list[Streams] = []

    def add(self, streams: Streams) -> None:
        streams.record(None)
        self._streams = [old for old in self._streams if old.open]
        if streams.open:
            self._streams.append(streams)
        while len(self._streams) > _MAX_ABANDONED:
            self._streams.pop(0).close()

    def close(self) -> None:
        """Give up on all of them."""
        while self._streams:
            self._streams.pop().close()


class Feed:
    """Bytes on their way into a guest's pipe, whose end here does not block: a guest that does not read
    holds up nobody."""

    def __init__(
        self,
        events: Events,
        fd: int,
        parts: Sequence[bytes | mmap.mmap | memoryview],
        close_after: bool,
    ) -> None:
        self._events, self._fd, self._close_after = events, fd, close_after
        self._views = [memoryview(part) for part in parts if len(part)]
        self._active = True
        self._write()
        if self._active:
            events.watch(fd, self._write, write=True)

    def _write(self) -> None:
        try:
            while self._views:
                written = os.writev(self._fd, self._views)
                while self._views and written >= len(self._views[0]):
                    written -= len(self._views.pop(0))
                if self._views:
                    self._views[0] = self._views[0][written:]
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass
        self.stop()

    def stop(self) -> None:
        """Give up on, or finish, the rest."""
        if self._active:
            self._active = False
            self._views.clear()
            self._events.forget(self._fd)
            if self._close_after:
                os.close(self._fd)
