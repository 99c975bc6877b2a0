"""What a test bench tells about a module, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentrl.rewards.verilog import Bench, Interface, Port, Verdict, agree

SHOWN = 6
"""Wrong samples that are shown."""
MOST_MESSAGES = 1000
"""Characters of the compiler's messages that are shown."""
BITS = frozenset("01xz")
"""What a bench writes for a bit."""


def report(interface: Interface, bench: Bench, verdict: Verdict) -> str:
    """The compiler's messages; or the first wrong outputs with their inputs, and how many are right."""
    if not verdict.compiled:
        return f"It does not compile.\n{verdict.messages[:MOST_MESSAGES]}"
    [observed] = verdict.observed
    if verdict.passed[0]:
        return f"All {len(bench.expected)} outputs are right."
    pairs = list(zip(bench.expected, observed, strict=False))
    right = sum(agree(want, seen) for want, seen in pairs)
    lines = list(_wrong(interface, bench, observed))
    if len(observed) > len(bench.expected) or not all(_by_the_bench(seen, want) for want, seen in pairs):
        lines.append("The module wrote to the bench's files.")
    elif len(observed) < len(bench.expected):
        lines.append("The simulation ended early or did not end.")
    return "\n".join([*lines, f"{right} of {len(bench.expected)} right."])


def _wrong(interface: Interface, bench: Bench, observed: Sequence[str]) -> Iterator[str]:
    per_cycle = len(bench.expected) // len(bench.stimuli)
    shown = 0
    for number, (want, seen) in enumerate(zip(bench.expected, observed, strict=False)):
        if agree(want, seen) or not _by_the_bench(seen, want):
            continue
        if shown == SHOWN:
            yield "..."
            return
        shown += 1
        cycle, after = divmod(number, per_cycle)
        given = " ".join(
            f"{port.name}={value(bits)}" for port, bits in parts(interface.inputs, bench.stimuli[cycle])
        )
        if per_cycle > 1:
            given = f"cycle {cycle}, {'after' if after else 'before'} the edge, {given}"
        both = zip(parts(interface.outputs, want), parts(interface.outputs, seen), strict=True)
        wrong = ", ".join(
            f"{port.name}={value(bits)}, want {value(wanted)}"
            for (port, wanted), (_, bits) in both
            if not agree(wanted, bits)
        )
        yield f"{given}: {wrong}"


def _by_the_bench(seen: str, want: str) -> bool:
    """Whether a line is one that a bench can have written; a module can write any into the same file."""
    return len(seen) == len(want) and BITS.issuperset(seen)


def parts(ports: Sequence[Port], word: str) -> Iterator[tuple[Port, str]]:
    """Each port with its bits of a word."""
    at = 0
    for port in ports:
        yield port, word[at : at + port.width]
        at += port.width


def value(bits: str) -> str:
    """Bits as a number; as they are if some have no value."""
    return str(int(bits, 2)) if set(bits) <= {"0", "1"} else bits
