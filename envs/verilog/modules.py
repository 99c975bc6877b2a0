"""Modules that can be asked for: a specification, Verilog that meets it, and a model of it in Python.

The model says what the outputs should be. It is written apart from the Verilog, and the two are tested
against each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrl.rewards.verilog import Bench, Interface, Port

Values = Mapping[str, int]
"""The value of each port, by name; unsigned."""

EXHAUSTIVE_BITS = 4
"""Of a combinational module with so few bits of input, one bench tries all values."""
CYCLES = 48
"""Of any other bench."""
REDRAWN = 50
"""How often a bench is drawn anew because an output never changes in it."""
RESETS = 0.05
"""How often a cycle resets a clocked module, beside the first one."""


@dataclass(frozen=True)
class Reset:
    """How a clocked module is put into its first state."""

    port: str
    active: int
    waits: bool  # for the clock: synchronous
    state: Any


@dataclass(frozen=True)
class Module:
    """A module as it is wanted.

    Args:
        interface: what it is called and its ports.
        spec: what it does, in words.
        body: Verilog that does it, without the header and ``endmodule``.
        show: the outputs, of the state and the inputs.
        step: with a clock, the next state, of the state and the inputs.
        reset: with a clock, how it begins.
        often: how often the bits of an input are 1 in a bench; half the time by default.
        draw: instead, the values of the inputs for a number of cycles.
        stub: a module that is shown instead of the specification, to be mended.
    """

    interface: Interface
    spec: str
    body: str
    show: Callable[[Any, Values], Values]
    step: Callable[[Any, Values], Any] | None = None
    reset: Reset | None = None
    often: Mapping[str, float] = field(default_factory=dict)
    draw: Callable[[random.Random, int], list[dict[str, int]]] | None = None
    stub: str = ""

    @property
    def code(self) -> str:
        """The module in Verilog."""
        return whole(self.interface, self.body)

    def outputs(self, stimuli: Sequence[Values]) -> list[Values | None]:
        """What the model shows: once per cycle, or with a clock twice; None before the first reset."""
        if self.step is None or self.reset is None:
            return [self.show(None, values) for values in stimuli]
        state, shown = None, []
        for values in stimuli:
            resets = values[self.reset.port] == self.reset.active
            if resets and not self.reset.waits:
                state = self.reset.state
            shown.append(None if state is None else self.show(state, values))
            if resets:
                state = self.reset.state
            elif state is not None:
                state = self.step(state, values)
            shown.append(None if state is None else self.show(state, values))
        return shown

    def benches(self, rng: random.Random, count: int) -> list[Bench]:
        """Benches for it: one with all values where those are few, else ``count`` drawn ones.

        In each of them every output takes several values, so that a module that always shows the same passes
        none.
        """
        bits = sum(port.width for port in self.interface.inputs)
        if self.step is None and bits <= EXHAUSTIVE_BITS:
            return [self._bench([self._split(word, bits) for word in range(1 << bits)])]
        return [self._drawn(rng, corners=number == 0) for number in range(count)]

    def _drawn(self, rng: random.Random, *, corners: bool) -> Bench:
        for _ in range(REDRAWN):
            stimuli = self._stimuli(rng, corners=corners)
            shown = [values for values in self.outputs(stimuli) if values is not None]
            if all(len({values[port.name] for values in shown}) > 1 for port in self.interface.outputs):
                return self._bench(stimuli)
        raise AssertionError(f"An output of {self.interface.name} hardly ever changes: {self.spec}")

    def _stimuli(self, rng: random.Random, *, corners: bool) -> list[dict[str, int]]:
        if self.draw is not None:
            stimuli = self.draw(rng, CYCLES)
        else:
            stimuli = [{port.name: self._value(port, rng, corners) for port in self.interface.inputs}
                       for _ in range(CYCLES)]  # fmt: skip
        if self.reset is not None:
            for cycle, values in enumerate(stimuli):
                resets = cycle == 0 or rng.random() < RESETS
                values[self.reset.port] = self.reset.active if resets else 1 - self.reset.active
        return stimuli

    def _value(self, port: Port, rng: random.Random, corners: bool) -> int:
        """Any value; in the bench of corners mostly one of the smallest and largest."""
        most = (1 << port.width) - 1
        if port.name not in self.often and corners and port.width > 1 and rng.random() < 0.75:
            return rng.choice((0, 1, most - 1, most, most >> 1, (most >> 1) + 1))
        chance = self.often.get(port.name, 0.5)
        return sum((rng.random() < chance) << bit for bit in range(port.width))

    def _split(self, word: int, bits: int) -> dict[str, int]:
        values = {}
        for port in self.interface.inputs:
            bits -= port.width
            values[port.name] = word >> bits & ((1 << port.width) - 1)
        return values

    def _bench(self, stimuli: Sequence[Values]) -> Bench:
        shown = self.outputs(stimuli)
        return Bench(
            tuple(words(self.interface.inputs, values) for values in stimuli),
            tuple(words(self.interface.outputs, values) for values in shown),
        )


def words(ports: Sequence[Port], values: Values | None) -> str:
    """The bits of all ports, the first port's first; without values, any will do."""
    if values is None:
        return "-" * sum(port.width for port in ports)
    return "".join(format(values[port.name], f"0{port.width}b") for port in ports)


def whole(interface: Interface, body: str) -> str:
    """A module of its body: on one line if the body is one."""
    if "\n" not in body.strip():
        return f"{interface.header()} {body.strip()} endmodule"
    return f"{interface.header()}\n{body.strip(chr(10))}\nendmodule"


def signed(value: int, width: int) -> int:
    """What the bits mean in two's complement."""
    return value - (1 << width) if value >> (width - 1) else value


def condition(reset: Reset) -> str:
    """The condition in Verilog under which a module is reset."""
    return reset.port if reset.active else f"!{reset.port}"


def clocked(
    rng: random.Random,
    name: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    spec: str,
    *,
    declare: str,
    begin: str,
    then: str,
    after: str,
    state: Any,
    step: Callable[[Any, Values], Any],
    show: Callable[[Any, Values], Values],
    begins: str,
    often: Mapping[str, float] | None = None,
    draw: Callable[[random.Random, int], list[dict[str, int]]] | None = None,
) -> Module:
    """A clocked module with a reset of one of four kinds.

    Args:
        declare, begin, then, after: Verilog: declarations; statements at a reset; statements at any other
            rising edge; what follows the ``always`` block.
        begins: what a reset does, in words.
    """
    active, waits = rng.randint(0, 1), rng.random() < 0.5
    reset = Reset(rng.choice(("rst", "reset", "clear")) + ("" if active else "_n"), active, waits, state)
    kind = "synchronous" if waits else "asynchronous"
    edge = "" if waits else f" or {'posedge' if active else 'negedge'} {reset.port}"
    body = (
        f"  {declare}\n  always @(posedge clk{edge})\n    if ({condition(reset)}) begin\n      {begin}\n"
        f"    end else begin\n      {then}\n    end\n  {after}"
    )
    interface = Interface(name, (Port(reset.port), *inputs), tuple(outputs), clock="clk")
    told = f"{spec} {reset.port} is an active-{'high' if active else 'low'} {kind} reset: {begins}"
    return Module(interface, told, body, show, step, reset, often or {}, draw)
