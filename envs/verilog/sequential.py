"""Families of clocked modules. Each draws its names, widths, constants and kind of reset from a seed."""

from __future__ import annotations

import random

from agentrl.envs.verilog.combinational import names
from agentrl.envs.verilog.modules import Module, Values, clocked
from agentrl.rewards.verilog import Port


def counter(rng: random.Random) -> Module:
    width = rng.randint(3, 6)
    last, down = rng.randint(4, min(20, (1 << width) - 2)), rng.random() < 0.5
    enable, out, wrap = names(rng, 3)
    ends, starts, sign = (0, last, "-") if down else (last, 0, "+")

    def step(state: int, v: Values) -> int:
        if not v[enable]:
            return state
        return starts if state == ends else state + (-1 if down else 1)

    return clocked(
        rng, "counter", [Port(enable)], [Port(out, width), Port(wrap)],
        f"{out} counts {'down' if down else 'up'} by one at each rising edge of clk where {enable} is 1, and "
        f"after {ends} goes on with {starts}. {wrap} is 1 while {out} is {ends} and {enable} is 1.",
        declare=f"reg [{width - 1}:0] count;",
        begin=f"count <= {width}'d{starts};",
        then=f"if ({enable}) count <= count == {ends} ? {width}'d{starts} : count {sign} 1'd1;",
        after=f"assign {out} = count;\n  assign {wrap} = {enable} & count == {ends};",
        state=starts,
        step=step,
        show=lambda state, v: {out: state, wrap: v[enable] & (state == ends)},
        begins=f"{out} becomes {starts}.",
        often={enable: 0.85},
    )  # fmt: skip


def loadable(rng: random.Random) -> Module:
    width = rng.randint(3, 10)
    load, data, up, out = names(rng, 4)
    most, begins = (1 << width) - 1, rng.randint(0, 6)
    return clocked(
        rng, "loadable", [Port(load), Port(data, width), Port(up)], [Port(out, width)],
        f"At each rising edge of clk, {out} becomes {data} if {load} is 1; else it counts up if {up} is 1 "
        f"and down if it is 0, by one, over the ends of its {width} bits.",
        declare=f"reg [{width - 1}:0] count;",
        begin=f"count <= {width}'d{begins};",
        then=f"if ({load}) count <= {data};\n      else count <= {up} ? count + 1'd1 : count - 1'd1;",
        after=f"assign {out} = count;",
        state=begins,
        step=lambda state, v: v[data] if v[load] else state + (1 if v[up] else -1) & most,
        show=lambda state, _: {out: state},
        begins=f"{out} becomes {begins}.",
        often={load: 0.2},
    )  # fmt: skip


def shifter(rng: random.Random) -> Module:
    width, left = rng.randint(3, 12), rng.random() < 0.5
    load, data, bit, out = names(rng, 4)
    shifted = f"{{r[{width - 2}:0], {bit}}}" if left else f"{{{bit}, r[{width - 1}:1]}}"
    most = (1 << width) - 1

    def step(state: int, v: Values) -> int:
        if v[load]:
            return v[data]
        return (state << 1 | v[bit]) & most if left else state >> 1 | v[bit] << (width - 1)

    return clocked(
        rng, "shifter", [Port(load), Port(data, width), Port(bit)], [Port(out, width)],
        f"At each rising edge of clk, {out} becomes {data} if {load} is 1; else it shifts by one bit to the "
        f"{'left' if left else 'right'}, and {bit} fills the bit that becomes free.",
        declare=f"reg [{width - 1}:0] r;",
        begin=f"r <= {width}'d0;",
        then=f"if ({load}) r <= {data};\n      else r <= {shifted};",
        after=f"assign {out} = r;",
        state=0,
        step=step,
        show=lambda state, _: {out: state},
        begins=f"{out} becomes 0.",
        often={load: 0.2},
    )  # fmt: skip


def detector(rng: random.Random) -> Module:
    length, overlapping = rng.randint(3, 5), rng.random() < 0.5
    pattern, border = rng.choice(_bordered(length))
    wanted, most, width = int(pattern, 2), (1 << length) - 1, length.bit_length()
    bit, found = names(rng, 2)

    def step(state: tuple[int, int, int], v: Values) -> tuple[int, int, int]:
        seen, count, _ = state
        seen, count = (seen << 1 | v[bit]) & most, min(count + 1, length)
        hit = int(seen == wanted and (overlapping or count == length))
        return seen, 0 if hit else count, hit

    def draw(rng: random.Random, count: int) -> list[dict[str, int]]:
        bits = ""
        while len(bits) < count:  # some sequences, some that overlap, and noise
            bits += rng.choice((pattern, pattern + pattern[border:], "0", "1", "0", "1"))
        return [{bit: int(value)} for value in bits[:count]]

    count, enough, zero, counts, begins = "", "", "", "", "all bits before count as 0."
    if not overlapping:
        count, enough = f"  reg [{width - 1}:0] count;\n", f" && count >= {length - 1}"
        zero, begins = f"\n      count <= {width}'d0;", "no bits count as read."
        counts = f"\n      count <= match ? {width}'d0 : count == {length} ? count : count + 1'd1;"
    return clocked(
        rng, "detector", [Port(bit)], [Port(found)],
        f"At each rising edge of clk one bit is read from {bit}. {found} is 1 for one cycle after an edge at "
        f"which the last {length} bits were {pattern}, the oldest first. "
        + ("Bits may be part of several such sequences." if overlapping
           else "Bits of one such sequence are not part of the next one."),
        declare=f"reg [{length - 1}:0] seen;\n  reg hit;\n{count}"
        f"  wire [{length - 1}:0] next = {{seen[{length - 2}:0], {bit}}};\n"
        f"  wire match = next == {length}'b{pattern}{enough};",
        begin=f"seen <= {length}'d0;\n      hit <= 1'b0;{zero}",
        then=f"seen <= next;\n      hit <= match;{counts}",
        after=f"assign {found} = hit;",
        state=(0, 0, 0),
        step=step,
        show=lambda state, _: {found: state[2]},
        begins=f"{found} becomes 0, and {begins}",
        draw=draw,
    )  # fmt: skip


def _bordered(length: int) -> list[tuple[str, int]]:
    """Sequences that can overlap themselves, not of one digit alone, each with how many bits at most."""
    found = []
    for value in range(1, (1 << length) - 1):
        pattern = format(value, f"0{length}b")
        borders = [size for size in range(1, length) if pattern.endswith(pattern[:size])]
        if borders:
            found.append((pattern, max(borders)))
    return found


def edges(rng: random.Random) -> Module:
    kind = rng.choice(("rising", "falling", "any"))
    width = rng.randint(1, 8)
    bits, out = names(rng, 2)
    code = {"rising": f"{bits} & ~old", "falling": f"old & ~{bits}", "any": f"{bits} ^ old"}[kind]

    def step(state: tuple[int, int], v: Values) -> tuple[int, int]:
        old, now = state[0], v[bits]
        return now, {"rising": now & ~old, "falling": old & ~now, "any": old ^ now}[kind]

    told = {"rising": "0 at the edge before and is 1", "falling": "1 at the edge before and is 0",
            "any": "another one at the edge before"}[kind]  # fmt: skip
    return clocked(
        rng, "edges", [Port(bits, width)], [Port(out, width)],
        f"At each rising edge of clk, {'each bit of ' if width > 1 else ''}{out} becomes 1 if "
        f"{'the same bit of ' if width > 1 else ''}{bits} was {told} at this one, else 0.",
        declare=f"reg [{width - 1}:0] old, changed;",
        begin=f"old <= {width}'d0;\n      changed <= {width}'d0;",
        then=f"old <= {bits};\n      changed <= {code};",
        after=f"assign {out} = changed;",
        state=(0, 0),
        step=step,
        show=lambda state, _: {out: state[1]},
        begins=f"{out} becomes 0, and {bits} counts as having been 0.",
    )  # fmt: skip


def accumulator(rng: random.Random) -> Module:
    width = rng.randint(2, 6)
    wide, keeps = width + rng.randint(1, 3), rng.random() < 0.5
    add, data, out = names(rng, 3)
    most = (1 << wide) - 1
    total = f"total + {data}"
    if keeps:
        total = f"total > {wide}'d{most} - {data} ? {wide}'d{most} : {total}"

    def step(state: int, v: Values) -> int:
        added = state + v[add] * v[data]
        return min(most, added) if keeps else added & most

    return clocked(
        rng, "accumulator", [Port(add), Port(data, width)], [Port(out, wide)],
        f"At each rising edge of clk where {add} is 1, the unsigned {data} is added to {out}, which "
        + (f"stays {most} where it would become more." if keeps else f"keeps the sum's lowest {wide} bits."),
        declare=f"reg [{wide - 1}:0] total;",
        begin=f"total <= {wide}'d0;",
        then=f"if ({add}) total <= {total};",
        after=f"assign {out} = total;",
        state=0,
        step=step,
        show=lambda state, _: {out: state},
        begins=f"{out} becomes 0.",
        often={add: 0.7},
    )  # fmt: skip


def ticker(rng: random.Random) -> Module:
    every = rng.randint(3, 9)
    enable, out, level = names(rng, 3)
    width = every.bit_length() + 1  # of a counter just wide enough, down would be as good as up

    def step(state: tuple[int, int, int], v: Values) -> tuple[int, int, int]:
        count, _, high = state
        if not v[enable]:
            return count, 0, high
        return (0, 1, 1 - high) if count == every - 1 else (count + 1, 0, high)

    return clocked(
        rng, "ticker", [Port(enable)], [Port(out), Port(level)],
        f"Of the rising edges of clk where {enable} is 1, every {every}th makes {out} 1, and all other edges "
        f"make it 0. {level} changes whenever {out} becomes 1.",
        declare=f"reg [{width - 1}:0] count;\n  reg tick, high;\n"
        f"  wire last = {enable} & count == {every - 1};",
        begin=f"count <= {width}'d0;\n      tick <= 1'b0;\n      high <= 1'b0;",
        then=f"tick <= last;\n      if (last) high <= !high;\n"
        f"      if ({enable}) count <= last ? {width}'d0 : count + 1'd1;",
        after=f"assign {out} = tick;\n  assign {level} = high;",
        state=(0, 0, 0),
        step=step,
        show=lambda state, _: {out: state[1], level: state[2]},
        begins=f"{out} and {level} become 0 and the counting begins anew.",
        often={enable: 0.85},
    )  # fmt: skip


def debouncer(rng: random.Random) -> Module:
    cycles = rng.randint(2, 5)
    noisy, out = names(rng, 2)
    width = cycles.bit_length() + 1

    def step(state: tuple[int, int], v: Values) -> tuple[int, int]:
        level, count = state
        if v[noisy] == level:
            return level, 0
        return (v[noisy], 0) if count == cycles - 1 else (level, count + 1)

    def draw(rng: random.Random, count: int) -> list[dict[str, int]]:
        bits: list[int] = []
        while len(bits) < count:
            bits += [rng.randint(0, 1)] * rng.randint(1, cycles + 2)
        return [{noisy: value} for value in bits[:count]]

    return clocked(
        rng, "debouncer", [Port(noisy)], [Port(out)],
        f"{out} takes another value as soon as {noisy} has had that value at {cycles} rising edges of clk in "
        "a row.",
        declare=f"reg level;\n  reg [{width - 1}:0] count;",
        begin=f"level <= 1'b0;\n      count <= {width}'d0;",
        then=f"if ({noisy} == level) count <= {width}'d0;\n"
        f"      else if (count == {cycles - 1}) begin\n        level <= {noisy};\n"
        f"        count <= {width}'d0;\n      end else count <= count + 1'd1;",
        after=f"assign {out} = level;",
        state=(0, 0),
        step=step,
        show=lambda state, _: {out: state[0]},
        begins=f"{out} becomes 0 and the counting begins anew.",
        draw=draw,
    )  # fmt: skip


def ring(rng: random.Random) -> Module:
    width, twisted = rng.randint(3, 8), rng.random() < 0.5
    enable, out = names(rng, 2)
    most, start = (1 << width) - 1, 0 if twisted else 1
    return clocked(
        rng, "ring", [Port(enable)], [Port(out, width)],
        f"At each rising edge of clk where {enable} is 1, {out} shifts by one bit to the left, and its "
        f"lowest bit becomes what its highest bit was{', inverted' if twisted else ''}.",
        declare=f"reg [{width - 1}:0] r;",
        begin=f"r <= {width}'d{start};",
        then=f"if ({enable}) r <= {{r[{width - 2}:0], {'!' if twisted else ''}r[{width - 1}]}};",
        after=f"assign {out} = r;",
        state=start,
        step=lambda state, v: (state << 1 | (state >> (width - 1) ^ twisted)) & most if v[enable] else state,
        show=lambda state, _: {out: state},
        begins=f"{out} becomes {start}.",
        often={enable: 0.85},
    )  # fmt: skip


def lfsr(rng: random.Random) -> Module:
    width = rng.randint(4, 8)
    taps = sorted(rng.sample(range(width - 1), rng.randint(1, 2)))
    enable, out = names(rng, 2)
    start, most = rng.randint(1, 7), (1 << width) - 1
    bits = [*taps, width - 1]

    def step(state: int, v: Values) -> int:
        if not v[enable]:
            return state
        return (state << 1 | sum(state >> bit & 1 for bit in bits) & 1) & most

    return clocked(
        rng, "lfsr", [Port(enable)], [Port(out, width)],
        f"At each rising edge of clk where {enable} is 1, {out} shifts by one bit to the left, and its "
        f"lowest bit becomes the exclusive or of what its bits {', '.join(map(str, bits[:-1]))} and "
        f"{bits[-1]} were.",
        declare=f"reg [{width - 1}:0] r;",
        begin=f"r <= {width}'d{start};",
        then=f"if ({enable}) r <= {{r[{width - 2}:0], {' ^ '.join(f'r[{bit}]' for bit in bits)}}};",
        after=f"assign {out} = r;",
        state=start,
        step=step,
        show=lambda state, _: {out: state},
        begins=f"{out} becomes {start}.",
        often={enable: 0.85},
    )  # fmt: skip


def record(rng: random.Random) -> Module:
    width, least = rng.randint(3, 10), rng.random() < 0.5
    data, valid, out = names(rng, 3)
    start = (1 << width) - 1 if least else 0
    pick = min if least else max
    return clocked(
        rng, "record", [Port(data, width), Port(valid)], [Port(out, width)],
        f"{out} is the {'smallest' if least else 'largest'} unsigned {data} of all rising edges of clk where "
        f"{valid} was 1.",
        declare=f"reg [{width - 1}:0] best;",
        begin=f"best <= {width}'d{start};",
        then=f"if ({valid} & ({data} {'<' if least else '>'} best)) best <= {data};",
        after=f"assign {out} = best;",
        state=start,
        step=lambda state, v: pick(state, v[data]) if v[valid] else state,
        show=lambda state, _: {out: state},
        begins=f"{out} becomes {start}.",
        often={valid: 0.6},
    )  # fmt: skip


def light(rng: random.Random) -> Module:
    times = [rng.randint(2, 5) for _ in range(3)]
    enable, go, slow, stop = names(rng, 4)
    shown = [go, slow, stop]
    nexts = "".join(
        f"        2'd{i}: if (count == {time - 1}) begin state <= 2'd{(i + 1) % 3}; count <= 4'd0; end\n"
        for i, time in enumerate(times)
    )

    def step(state: tuple[int, int], v: Values) -> tuple[int, int]:
        at, count = state
        if not v[enable]:
            return state
        return ((at + 1) % 3, 0) if count == times[at] - 1 else (at, count + 1)

    return clocked(
        rng, "light", [Port(enable)], [Port(name) for name in shown],
        f"One of {go}, {slow} and {stop} is 1, in this order round and round: {go} for {times[0]}, {slow} "
        f"for {times[1]} and {stop} for {times[2]} rising edges of clk where {enable} is 1.",
        declare="reg [1:0] state;\n  reg [3:0] count;",
        begin="state <= 2'd0;\n      count <= 4'd0;",
        then=f"if ({enable}) begin\n        count <= count + 1'd1;\n        case (state)\n{nexts}"
        "        endcase\n      end",
        after="\n  ".join(f"assign {name} = state == {i};" for i, name in enumerate(shown)),
        state=(0, 0),
        step=step,
        show=lambda state, _: {name: int(state[0] == i) for i, name in enumerate(shown)},
        begins=f"{go} begins.",
        often={enable: 0.9},
    )  # fmt: skip
