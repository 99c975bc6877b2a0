"""Keeping what was dear to get: answers of a model, things that take seconds to make."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """Values by key, the least recently used thrown away first. What several ask for at once is made once.

    Args:
        size: values kept; 0 for none, and then what is asked for at once is still made once at a time.
        at_once: values made at the same time, per event loop; ``None`` for any number.
    """

    def __init__(self, size: int, at_once: int | None = None) -> None:
        self.size, self.at_once = size, at_once
        self._kept = OrderedDict[str, T]()
        # A lock lives as long as somebody holds it or waits for it; one belongs to one event loop.
        self._making: weakref.WeakValueDictionary[tuple[int, str], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: str, make: Callable[[], Awaitable[T]]) -> T:
        """The value of a key, made if it is not there. What ``make`` raises is not kept."""
        loop = asyncio.get_running_loop()
        lock = self._making.setdefault((id(loop), key), asyncio.Lock())
        async with lock:
            if key in self._kept:
                value = self._kept[key]
            elif self.at_once is None:
                value = await make()
            else:
                async with self._places.setdefault(loop, asyncio.Semaphore(self.at_once)):
                    value = await make()
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
            return value
