"""Memory that forks do not get.

A supervisor forks the processes that run guest code. What a call said and printed passes through the
supervisor, and must not be found in the memory of the calls that come after it.
"""

from __future__ import annotations

import mmap


def unforked(size: int) -> mmap.mmap:
    """At least ``size`` zeroed bytes that are missing from every later fork of this process."""
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    return memory
