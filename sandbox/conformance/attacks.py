"""Attacks on a backend: each one beside a sibling session that must not notice, and nothing may be left."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack

from agentrl.errors import ToolError
from agentrl.sandbox.protocol import Limits, Result, Session, Status

from .attack_list import ATTACKS, Attack
from .concurrency import answers_within
from .runners import RUNNERS, Runner
from .suite import Broken, Ground, NotOffered, Promise, expect, promise
from .traces import becomes, descendants

_LIMITS = Limits(memory_mb=256, cpu_seconds=30)
_STOPPED = 1.0  # wall seconds, for what goes on until it is stopped
_PATIENT = 20.0  # wall seconds, for what ends by itself
_SIBLING = 2.0  # seconds within which a sibling must be served
_GRACE = 1.0  # seconds after its limit within which a call must be answered


def attack_promises(
    attacks: Iterable[Attack] = ATTACKS, runners: Mapping[str, Runner] = RUNNERS
) -> tuple[Promise, ...]:
    """A check for each attack. First come those that would do no harm if they worked."""
    ordered = sorted(attacks, key=lambda attack: not attack.works_outside)
    return tuple(_promise(attack, runners.get(attack.tool)) for attack in ordered)


def _promise(attack: Attack, runner: Runner | None) -> Promise:
    async def keep(ground: Ground) -> None:
        await _withstand(ground, attack, runner)

    text = (
        f"The attack ({attack.tool}) is refused or bounded, a sibling answers meanwhile, and nothing is left."
    )
    return Promise(f"{attack.category}-{attack.name}", "attacks", text, keep)


class Heartbeat:
    """Notices when the whole machine stands still, so that nobody else is blamed for it."""

    def __init__(self) -> None:
        self.lost = 0.0  # seconds
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            self.lost += max(0.0, time.monotonic() - before - 0.1)

    def stop(self) -> None:
        """Take no more notice."""
        self._beating.cancel()


async def _withstand(ground: Ground, attack: Attack, runner: Runner | None) -> None:
    if runner is None:
        raise NotOffered(f"attacks on the tool {attack.tool!r} cannot be made on a sandbox alone")
    if not attack.works_outside:
        _stop_if_it_would_hit_this_machine(ground)
    before = len(descendants(os.getpid()))
    async with AsyncExitStack() as stack:
        sibling = await stack.enter_async_context(ground.session(_LIMITS))
        await sibling.put("SIBLING_CANARY.txt", b"x")
        began = time.monotonic()
        await sibling.run_cell("ready = True", wall_seconds=60.0)
        unit = max(ground.unit, time.monotonic() - began)
        during = len(descendants(os.getpid()))
        async with ground.session(_LIMITS) as session:
            result = await _strike(ground, attack, runner, session, sibling, unit)
            await _goes_on(session, restarted=result.status not in (Status.ok, Status.error))
        settled = await becomes(lambda: len(descendants(os.getpid())) <= during, ground.settle)
        expect(settled, "no process is left of it", len(descendants(os.getpid())) - during)
        await answers_within(sibling, _SIBLING + 10 * unit)
    settled = await becomes(lambda: len(descendants(os.getpid())) <= before, ground.settle)
    expect(settled, "no process is left of it and its sibling")


def _stop_if_it_would_hit_this_machine(ground: Ground) -> None:
    """Attacks that do harm are made only where the harmless ones, which come first, have failed."""
    if not ground.availability.isolates:
        raise Broken("not made: this backend isolates nothing, so the attack would hit this machine")
    if ground.escaped:
        raise Broken(f"not made, for it might hit this machine: {', '.join(ground.escaped)} worked")


async def _strike(
    ground: Ground, attack: Attack, runner: Runner, session: Session, sibling: Session, unit: float
) -> Result:
    heart = Heartbeat()
    wall = _STOPPED if attack.stopped else _PATIENT
    began = time.monotonic()
    code = ground.targets.fill(attack.code)
    call = asyncio.create_task(runner(session, code, wall, ground.targets))
    try:
        await asyncio.sleep(0.05)
        await answers_within(sibling, _SIBLING + 10 * unit + heart.lost)
        result = await call
    finally:
        heart.stop()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    taken = time.monotonic() - began - heart.lost
    if "ESCAPED" in result.stdout + result.stderr:
        ground.escaped.append(attack.name)
        raise Broken(f"the attack works: {result!r:.600}")
    expect(result.status in attack.ends, f"it ends as one of {', '.join(sorted(attack.ends))}", result)
    limit = wall + _GRACE + 10 * unit
    if attack.stopped:
        expect(taken < limit, f"it is answered within {limit:.1f} s; it took {taken:.1f} s", result)
    if attack.attempted:
        expect("BLOCKED" in result.stdout, "the attempt is made, and fails", result)
    return result


async def _goes_on(session: Session, *, restarted: bool) -> None:
    """The session answers after the attack; from a fresh interpreter if the old one had to be stopped."""
    command = await session.exec("echo after", wall_seconds=_PATIENT)
    expect(command.stdout == "after\n", "the session runs commands afterwards", command)
    cell = await session.run_cell("print('after')", wall_seconds=_PATIENT if restarted else 2.0)
    expect(cell.status is not Status.session_lost, "the session is still there afterwards", cell)
    if restarted:
        expect(cell.stdout == "after\n", "a fresh interpreter runs cells afterwards", cell)


@promise("attacks")
async def a_link_race_yields_no_file_from_elsewhere(ground: Ground) -> None:
    """Guest code that swaps files for links while the host reads them never makes it read another file."""
    race = (
        "while :; do ln -sfn /etc/passwd r; rm -f r; echo mine > r; rm -rf d; mkdir d; echo mine > d/passwd; "
        "rm -rf d; ln -sfn /etc d; done"
    )
    async with ground.session() as session:
        await session.exec(f"({race}) >/dev/null 2>&1 &")
        for path in ["r", "d/passwd"] * 100:
            try:
                data = await session.get(path)
            except ToolError:
                continue
            expect(data in (b"mine\n", b""), f"get of {path} gives the guest's own file", data)
