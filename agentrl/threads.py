"""How the threads of one computation wait for each other. Set before torch is imported."""

from __future__ import annotations

import os

SPIN = {"GOMP_SPINCOUNT": "1000"}
"""Turns of an idle loop before a thread of an OpenMP pool sleeps.

By default GNU's OpenMP turns for milliseconds. Where two processes compute on the same cores, each then
keeps from the other the core that it waits for: two warm-ups side by side on two cores took 50 times as
long as one alone.
"""


def environment() -> dict[str, str]:
    """Variables with which a process's threads sleep early; none where the user has set how they wait."""
    return {} if {"OMP_WAIT_POLICY", *SPIN} & os.environ.keys() else dict(SPIN)


def share_cores() -> None:
    """Have this process and those it starts sleep rather than spin."""
    os.environ.update(environment())
