"""Does a Verilog module do what it should? It is compiled with Icarus Verilog and driven by test benches.

What is wanted never enters the sandbox. A bench there applies stimuli and writes down what the module's
outputs are; whether they are right is decided here, afterwards. So a module that prints PASS, ends the
simulation, reads the bench's files or writes over them gains nothing: it would have to know the right
outputs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl import ConfigError, ToolContext

__all__ = ["Bench", "Interface", "Port", "Verdict", "extract_verilog", "simulate"]

SEARCHED = 40_000
"""Characters at the end of a text in which a module is searched."""
MOST_CODE = 20_000
"""Characters of a module that is compiled; a longer one is wrong."""
MOST_MESSAGES = 4000
MEMORY_MB = 512
SLACK = 4
"""How many times its CPU seconds a simulation may take on a busy machine."""
NOT_FOUND = 127

_FENCED = re.compile(
    r"^[ \t]*```verilog[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE
)


@dataclass(frozen=True)
class Port:
    """A port of a module, ``width`` bits wide."""

    name: str
    width: int = 1

    def declared(self, kind: str) -> str:
        """As it stands in a module's header; ``kind`` is ``input`` or ``output``."""
        return f"{kind} {self.name}" if self.width == 1 else f"{kind} [{self.width - 1}:0] {self.name}"


@dataclass(frozen=True)
class Interface:
    """A module as seen from outside.

    Args:
        name: of the module.
        inputs: without the clock.
        outputs: at least one.
        clock: the name of the clock's port; empty for a combinational module.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    clock: str = ""

    def header(self) -> str:
        """The line that begins the module."""
        clock = [f"input {self.clock}"] if self.clock else []
        inputs = [port.declared("input") for port in self.inputs]
        outputs = [port.declared("output") for port in self.outputs]
        return f"module {self.name}({', '.join([*clock, *inputs, *outputs])});"


@dataclass(frozen=True)
class Bench:
    """What is applied to a module, and what it should answer.

    Args:
        stimuli: for each cycle the bits of all inputs, in their order.
        expected: the bits of all outputs, ``-`` where any will do: once per cycle, or with a clock twice,
            before its rising edge and after it.
    """

    stimuli: tuple[str, ...]
    expected: tuple[str, ...]

    def passes(self, observed: Sequence[str]) -> bool:
        """Whether the outputs are those that were wanted, to the last one."""
        return len(observed) == len(self.expected) and all(map(agree, self.expected, observed))


@dataclass(frozen=True)
class Verdict:
    """What came of a module.

    ``observed`` are the outputs in each bench, of one that was stopped those until then. ``messages`` are the
    compiler's.
    """

    compiled: bool
    passed: tuple[bool, ...]
    observed: tuple[tuple[str, ...], ...] = ()
    messages: str = ""

    @property
    def share(self) -> float:
        """Of the benches, how many were passed."""
        return sum(self.passed) / len(self.passed)


def extract_verilog(text: str) -> str | None:
    """The code in the last block of a text that is fenced by ```` ```verilog ```` and ```` ``` ````, or
    ``None``.

    Only the last 40,000 characters are searched; an empty block is none.
    """
    found = _FENCED.findall(text[-SEARCHED:])
    return (found[-1].strip() or None) if found else None


def agree(expected: str, observed: str) -> bool:
    """Whether bits are the wanted ones; x and z are never."""
    return len(expected) == len(observed) and all(
        want in ("-", bit) for want, bit in zip(expected, observed, strict=True)
    )


async def simulate(
    context: ToolContext, code: str, interface: Interface, benches: Sequence[Bench], *, seconds: float = 5.0
) -> Verdict:
    """Compile a module and run benches on it, in an empty sandbox.

    Args:
        context: the episode's; ``Env.context``.
        code: the module, and those it is made of; untrusted.
        interface: what the benches connect to.
        benches: at least one. After one that does not end, the others count as failed.
        seconds: of CPU time, to compile and for each bench.

    Raises:
        ConfigError: the sandbox has no Icarus Verilog.
        SandboxUnavailable: this machine or run offers no isolation.
    """
    failed = (False,) * len(benches)
    if len(code) > MOST_CODE:
        return Verdict(False, failed, messages=f"The module has more than {MOST_CODE} characters.")
    mark = secrets.token_hex(8)
    result = await context.run(
        _script(interface, benches, seconds, mark),
        language="bash",
        stdin=code.encode(errors="replace"),
        wall_seconds=seconds * SLACK * (len(benches) + 1),
        cpu_seconds=seconds * (len(benches) + 1),
        memory_mb=MEMORY_MB,
        output_bytes=MOST_MESSAGES + sum(map(_room, benches)) + 4096,
    )
    if result.exit_code == NOT_FOUND:
        await _require_compiler(context)
    messages, *shown = result.stdout.split(f"{mark}\n")
    if not shown:
        return Verdict(
            False, failed, messages=messages.strip() or result.detail or "The compiler was stopped."
        )
    observed = [tuple(lines.splitlines()) for lines in shown[: len(benches)]]
    observed += [()] * (len(benches) - len(observed))
    passed = tuple(bench.passes(lines) for bench, lines in zip(benches, observed, strict=True))
    return Verdict(True, passed, tuple(observed), messages.strip())


async def _require_compiler(context: ToolContext) -> None:
    """Tell a sandbox without a compiler from a module that made the script end as if there were none."""
    found = await context.run("command -v iverilog vvp", language="bash")
    if found.exit_code != 0:
        raise ConfigError(
            "The sandbox has no Icarus Verilog. Install it where sessions run: apt-get install iverilog; for "
            "the docker backend, agentrl sandbox image builds an image that has it."
        )


def _script(interface: Interface, benches: Sequence[Bench], seconds: float, mark: str) -> str:
    """Compiles the module that comes by standard input and simulates each bench.

    What the compiler said and then each bench's outputs are printed, ``mark`` before each of them; what the
    module prints is thrown away.
    """
    stimuli = "\n".join(word for bench in benches for word in bench.stimuli)
    lines = [
        f"ulimit -t {max(1, round(seconds))}",
        f"cat >design.v; cat >bench.v <<'END'\n{_harness(interface, benches)}END",
        f"cat >stimuli <<'END'\n{stimuli}\nEND",
        "iverilog -g2012 -s bench -o simulation bench.v design.v >messages 2>&1",
        f"status=$?; head -c {MOST_MESSAGES} messages; echo; [ $status -eq 0 ] || exit $status",
    ]
    first = 0
    for bench in benches:
        last = first + len(bench.stimuli) - 1
        lines += [
            f"rm -f outputs; vvp -n simulation +first={first} +last={last} </dev/null >/dev/null 2>&1",
            f"status=$?; echo {mark}; head -c {_room(bench)} outputs; [ $status -eq 0 ] || exit 0",
        ]
        first = last + 1
    return "\n".join(lines)


def _room(bench: Bench) -> int:
    """Bytes of its outputs that are read: those that are wanted, and enough to see that there are more."""
    return sum(len(word) + 1 for word in bench.expected) + 256


def _harness(interface: Interface, benches: Sequence[Bench]) -> str:
    """The bench as Verilog. It stands before the module, whose directives therefore do not reach it."""
    inputs, outputs = _slices("given", interface.inputs), _slices("shown", interface.outputs)
    clock = [f".{interface.clock}(clock)"] if interface.clock else []
    cycle = 'given = stimuli[at]; #2 $fdisplay(into, "%b", shown);'
    if interface.clock:
        cycle += ' #3 clock = 1; #2 $fdisplay(into, "%b", shown); #3 clock = 0; #2;'
    return f"""`timescale 1ns/1ns
module bench;
  reg clock = 0;
  reg [{_width(interface.inputs) - 1}:0] given;
  wire [{_width(interface.outputs) - 1}:0] shown;
  reg [{_width(interface.inputs) - 1}:0] stimuli [0:{sum(len(bench.stimuli) for bench in benches) - 1}];
  integer first, last, at, into;
  {interface.name} tested({", ".join([*clock, *inputs, *outputs])});
  initial begin
    $readmemb("stimuli", stimuli);
    if (!$value$plusargs("first=%d", first) || !$value$plusargs("last=%d", last)) $finish;
    into = $fopen("outputs", "w");
    for (at = first; at <= last; at = at + 1) begin {cycle} end
    $finish;
  end
endmodule
"""


def _width(ports: Sequence[Port]) -> int:
    return sum(port.width for port in ports)


def _slices(bus: str, ports: Sequence[Port]) -> list[str]:
    """Connections of ports to their bits of a bus, the first port at its upper end."""
    connections, high = [], _width(ports) - 1
    for port in ports:
        connections.append(f".{port.name}({bus}[{high}:{high - port.width + 1}])")
        high -= port.width
    return connections
