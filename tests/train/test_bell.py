"""The bell wakes the trainer at once, and never keeps who rings it."""

from __future__ import annotations

import threading

from agentrl.train.bell import WAITING, Bell, Ringer


def test_a_ring_ends_the_wait() -> None:
    bell = Bell()
    ringer = Ringer(bell.address)
    threading.Thread(target=ringer.ring).start()
    assert bell.wait(30)
    bell.close()


def test_many_rings_are_heard_as_one() -> None:
    bell = Bell()
    ringer = Ringer(bell.address)
    ringer.ring()
    assert bell.wait(30)  # it is connected
    for _ in range(10 * WAITING):
        ringer.ring()
    assert bell.wait(30)
    bell.close()


def test_silence_ends_the_wait_too() -> None:
    bell = Bell()
    assert not bell.wait(0.01)
    bell.close()
