"""An event loop whose clock jumps: where a real one would sleep until the next timer, it is there at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Everything waits, and there is no timer that could end it."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time; :meth:`time` starts at 0.

    Code under it must wait by ``asyncio.sleep``, timeouts and futures alone: nothing outside the loop, such
    as a socket or a thread, can wake it.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        super().__init__(_Jumps(self._jump))
        self._clock_resolution = 1e-6  # of virtual time: a nanosecond is lost to rounding after some months

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._clock

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            waiting = [task.get_name() for task in asyncio.all_tasks(self)]
            raise Deadlock(
                f"At {self._clock:.1f} s of virtual time all {len(waiting)} tasks wait for something that "
                f"cannot happen any more: {', '.join(sorted(waiting)[:10])}."
            )
        self._clock += seconds

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refused: a thread takes real time.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("A thread cannot be waited for in virtual time; use a model of it.")


class _Jumps(selectors.BaseSelector):
    """A selector that waits for nothing, and says how long it would have."""

    def __init__(self, jump: Any) -> None:
        self._jump = jump
        self._files: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(
            fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data
        )
        self._files[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._files


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end in virtual time.

    Raises:
        Deadlock: it can never end.
        RuntimeError: a loop is running already.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
