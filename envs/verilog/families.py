"""All families of modules by name, and mutants of modules."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agentrl.envs.verilog import combinational as words
from agentrl.envs.verilog import sequential as clocks
from agentrl.envs.verilog.combinational import GATES, filled, read_gate
from agentrl.envs.verilog.modules import Module, whole

__all__ = ["FAMILIES", "GATES", "Family", "build", "filled", "mutants", "read_gate"]


@dataclass(frozen=True)
class Family:
    """Modules of one kind: ``make`` draws one; ``level`` says how hard they are."""

    level: int
    make: Callable[[random.Random], Module]


FAMILIES: dict[str, Family] = {
    "gate": Family(1, words.gate),
    **{
        make.__name__: Family(2, make)
        for make in (
            words.mux, words.adder, words.difference, words.compare, words.decoder, words.encoder, words.ones,
            words.gray, words.rotate, words.saturate, words.largest, words.alu,
        )
    },
    **{
        make.__name__: Family(3, make)
        for make in (
            clocks.counter, clocks.loadable, clocks.shifter, clocks.detector, clocks.edges,
            clocks.accumulator, clocks.ticker, clocks.debouncer, clocks.ring, clocks.lfsr, clocks.record,
            clocks.light,
        )
    },
}  # fmt: skip


def build(family: str, seed: int) -> Module:
    """The module of a family that a seed stands for."""
    return FAMILIES[family].make(random.Random(f"{family} {seed}"))


_FAULTS: tuple[tuple[str, str], ...] = (
    (r"posedge clk", "negedge clk"),
    (r" or (pos|neg)edge \w+", ""),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" & ", " | "),
    (r" \| ", " & "),
    (r" ~\^ ", " ^ "),
    (r" \^ ", " & "),
    (r" == ", " != "),
    (r" > ", " < "),
    (r" < ", " > "),
    (r" << ", " >> "),
    (r" >> ", " << "),
    (r"(?<=[=(,] )~(?=[\w(])", ""),
    (r"if \((\w+)\)", r"if (!\1)"),
    (r"if \(!(\w+)\)", r"if (\1)"),
    (r"\? ([^:?]+) : ([^:?;]+);", r"? \2 : \1;"),
)
"""Slips of the pen: what is replaced, and by what."""


def mutants(module: Module) -> list[str]:
    """The module with one slip of the pen each: every fault at each place where it can be made."""
    return list(dict.fromkeys(_mutants(module)))


def _mutants(module: Module) -> Iterator[str]:
    for pattern, replacement in _FAULTS:
        for found in re.finditer(pattern, module.body):
            changed = found.expand(replacement)
            body = module.body[: found.start()] + changed + module.body[found.end() :]
            yield whole(module.interface, body)
