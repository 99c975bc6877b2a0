"""Families of combinational modules. Each draws its names, widths and variants from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from agentrl.envs.verilog.modules import Module, Values, signed, whole
from agentrl.rewards.verilog import Interface, Port

NAMES = (
    *"abcdefghkmnpqstuvwxyz",
    *("data", "word", "left", "right", "first", "second", "value", "in0", "in1", "source"),
)
"""Of ports. ``r`` is a register within."""


def names(rng: random.Random, count: int) -> list[str]:
    """Different names for ports."""
    return rng.sample(NAMES, count)


def plain(
    name: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    spec: str,
    body: str,
    show: Callable[[Values], Values],
    draw: Callable[[random.Random, int], list[dict[str, int]]] | None = None,
) -> Module:
    """A combinational module; ``show`` gives the outputs for the inputs."""
    interface = Interface(name, tuple(inputs), tuple(outputs))
    return Module(interface, spec, body, lambda _, values: show(values), draw=draw)


# ---- of two bits ---------------------------------------------------------------------------------

GATES: dict[str, tuple[int, int, int, int]] = {
    "a & b": (0, 0, 0, 1),
    "a | b": (0, 1, 1, 1),
    "a ^ b": (0, 1, 1, 0),
    "a ~^ b": (1, 0, 0, 1),
    "a & ~b": (0, 0, 1, 0),
    "~a & b": (0, 1, 0, 0),
    "a | ~b": (1, 0, 1, 1),
    "~a | b": (1, 1, 0, 1),
}
"""Expressions, and their values for ab = 00, 01, 10 and 11."""
NUMBERS = range(10, 100)
"""Of their outputs."""


def gate(rng: random.Random) -> Module:
    """A function of two bits that is not told: the example bench shows it."""
    one, two = (f"i{number}" for number in rng.sample(range(10), 2))
    out = f"o{rng.choice(NUMBERS)}"
    expression, values = rng.choice(list(GATES.items()))
    interface = Interface("m", (Port(one), Port(two)), (Port(out),))
    return Module(
        interface,
        spec=f"{out} is what the test wants.",
        body=_gate(interface, expression),
        show=lambda _, given: {out: values[given[one] * 2 + given[two]]},
        stub=whole(interface, f"assign {out} = 0;"),
    )


def filled(module: Module, expression: str) -> str:
    """A module of :func:`gate` with one of the GATES in it."""
    return whole(module.interface, _gate(module.interface, expression))


def read_gate(module: Module, shown: str) -> str | None:
    """The module of the gate that is 1 where the example bench finds the stub's 0 wrong, if there is one."""
    one, two = (port.name for port in module.interface.inputs)
    wanted = tuple(int(f"{one}={i >> 1} {two}={i & 1}:" in shown) for i in range(4))
    found = next((expression for expression, values in GATES.items() if values == wanted), None)
    return None if found is None else filled(module, found)


def _gate(interface: Interface, expression: str) -> str:
    one, two = (port.name for port in interface.inputs)
    return f"assign {interface.outputs[0].name} = {expression.translate({ord('a'): one, ord('b'): two})};"


# ---- of words ------------------------------------------------------------------------------------


def mux(rng: random.Random) -> Module:
    count, width = rng.choice((2, 3, 4)), rng.randint(2, 16)
    *data, select, out = names(rng, count + 2)
    sel = Port(select, 1 if count == 2 else 2)
    chosen = "".join(f"{select} == {i} ? {name} : " for i, name in enumerate(data)) + f"{width}'d0"
    told = ", ".join(f"{name} if {select} is {i}" for i, name in enumerate(data))
    return plain(
        "mux", [*(Port(name, width) for name in data), sel], [Port(out, width)],
        f"{out} is {told}{' and 0 if it is 3' if count == 3 else ''}.",
        f"  assign {out} = {chosen};\n",
        lambda v: {out: v[data[v[select]]] if v[select] < count else 0},
    )  # fmt: skip


def adder(rng: random.Random) -> Module:
    width = rng.randint(3, 16)
    one, two, out = names(rng, 3)
    most = (1 << width) - 1
    return plain(
        "adder", [Port(one, width), Port(two, width), Port("cin")], [Port(out, width), Port("cout")],
        f"{out} is the sum of {one}, {two} and the carry cin; cout is the carry out of its highest bit.",
        f"  assign {{cout, {out}}} = {one} + {two} + cin;\n",
        lambda v: {out: v[one] + v[two] + v["cin"] & most, "cout": v[one] + v[two] + v["cin"] >> width},
    )  # fmt: skip


def difference(rng: random.Random) -> Module:
    width = rng.randint(3, 16)
    one, two, out = names(rng, 3)
    return plain(
        "difference", [Port(one, width), Port(two, width)], [Port(out, width)],
        f"{out} is the absolute difference of the unsigned numbers {one} and {two}.",
        f"  assign {out} = {one} > {two} ? {one} - {two} : {two} - {one};\n",
        lambda v: {out: abs(v[one] - v[two])},
    )  # fmt: skip


def compare(rng: random.Random) -> Module:
    width, with_sign = rng.randint(2, 12), rng.random() < 0.5
    one, two = names(rng, 2)
    kind = "signed, in two's complement" if with_sign else "unsigned"

    def read(value: int) -> int:
        return signed(value, width) if with_sign else value

    def draw(rng: random.Random, count: int) -> list[dict[str, int]]:
        drawn = [{one: rng.getrandbits(width), two: rng.getrandbits(width)} for _ in range(count)]
        for values in drawn[::4]:
            values[two] = values[one]
        return drawn

    shown = [f"$signed({one})", f"$signed({two})"] if with_sign else [one, two]
    return plain(
        "compare", [Port(one, width), Port(two, width)], [Port("less"), Port("same"), Port("more")],
        f"{one} and {two} are {kind}. less is 1 if {one} is "
        f"below {two}, same if they are equal, more if {one} is above {two}.",
        f"  assign less = {shown[0]} < {shown[1]};\n  assign same = {one} == {two};\n"
        f"  assign more = {shown[0]} > {shown[1]};\n",
        lambda v: {"less": int(read(v[one]) < read(v[two])), "same": int(v[one] == v[two]),
                   "more": int(read(v[one]) > read(v[two]))},
        draw,
    )  # fmt: skip


def decoder(rng: random.Random) -> Module:
    width, low = rng.choice((2, 3, 4)), rng.random() < 0.5
    code, enable, out = names(rng, 3)
    lines, most = 1 << width, (1 << (1 << width)) - 1
    hot, none = (f"~({lines}'d1 << {code})", most) if low else (f"{lines}'d1 << {code}", 0)
    return plain(
        "decoder", [Port(code, width), Port(enable)], [Port(out, lines)],
        f"If {enable} is 1, the bit of {out} that {code} numbers is {0 if low else 1} and all others are "
        f"{1 if low else 0}; if {enable} is 0, all are {1 if low else 0}.",
        f"  assign {out} = {enable} ? {hot} : {lines}'d{none};\n",
        lambda v: {out: (v[enable] << v[code]) ^ (most if low else 0)},
    )  # fmt: skip


def encoder(rng: random.Random) -> Module:
    width, highest = rng.choice((4, 8)), rng.random() < 0.5
    word, out, valid = names(rng, 3)
    bits = (width - 1).bit_length()
    order = range(width - 1, -1, -1) if highest else range(width)
    chosen = "".join(f"{word}[{i}] ? {bits}'d{i} : " for i in order if i or not highest) + f"{bits}'d0"
    return plain(
        "encoder", [Port(word, width)], [Port(out, bits), Port(valid)],
        f"{out} is the number of the {'highest' if highest else 'lowest'} bit of {word} that is 1, or 0 if "
        f"there is none; {valid} tells whether there is one.",
        f"  assign {valid} = {word} != 0;\n  assign {out} = {chosen};\n",
        lambda v: {out: next((i for i in order if v[word] >> i & 1), 0), valid: int(v[word] != 0)},
        lambda rng, count: [{word: rng.getrandbits(width) & rng.getrandbits(width) & rng.getrandbits(width)}
                            for _ in range(count)],
    )  # fmt: skip


def ones(rng: random.Random) -> Module:
    width, of_zeros = rng.randint(4, 12), rng.random() < 0.5
    word, out, parity = names(rng, 3)
    bits = width.bit_length()
    total = " + ".join(f"{word}[{i}]" for i in range(width))

    def count(value: int) -> int:
        return width - value.bit_count() if of_zeros else value.bit_count()

    return plain(
        "ones", [Port(word, width)], [Port(out, bits), Port(parity)],
        f"{out} is how many bits of {word} are {0 if of_zeros else 1}; {parity} is 1 if an odd number of its "
        "bits is 1.",
        f"  assign {out} = {f'{bits}{chr(39)}d{width} - ({total})' if of_zeros else total};\n"
        f"  assign {parity} = ^{word};\n",
        lambda v: {out: count(v[word]), parity: v[word].bit_count() & 1},
    )  # fmt: skip


def gray(rng: random.Random) -> Module:
    width, back = rng.randint(3, 10), rng.random() < 0.5
    word, out = names(rng, 2)
    parts = "".join(f"  assign {out}[{i}] = {word}[{i}] ^ {out}[{i + 1}];\n" for i in range(width - 1))
    decode = f"  assign {out}[{width - 1}] = {word}[{width - 1}];\n{parts}"

    def show(v: Values) -> Values:
        value = v[word]
        if not back:
            return {out: value ^ value >> 1}
        for shift in range(1, width):
            value ^= v[word] >> shift
        return {out: value}

    return plain(
        "gray", [Port(word, width)], [Port(out, width)],
        f"{out} is the plain binary number of the Gray code {word}." if back
        else f"{out} is the Gray code of the binary number {word}.",
        decode if back else f"  assign {out} = {word} ^ ({word} >> 1);\n",
        show,
    )  # fmt: skip


def rotate(rng: random.Random) -> Module:
    width, left = rng.choice((4, 8, 16)), rng.random() < 0.5
    word, amount, out = names(rng, 3)
    bits = (width - 1).bit_length()
    twice = f"{{{word}, {word}}}"

    def show(v: Values) -> Values:
        by = v[amount] if left else -v[amount] % width
        return {out: (v[word] << by | v[word] >> (width - by)) & ((1 << width) - 1)}

    return plain(
        "rotate", [Port(word, width), Port(amount, bits)], [Port(out, width)],
        f"{out} is {word} rotated to the {'left' if left else 'right'} by {amount} bits.",
        f"  wire [{2 * width - 1}:0] twice = {twice} {'<<' if left else '>>'} {amount};\n"
        f"  assign {out} = twice[{f'{2 * width - 1}:{width}' if left else f'{width - 1}:0'}];\n",
        show,
    )  # fmt: skip


def saturate(rng: random.Random) -> Module:
    width, subtract = rng.randint(3, 12), rng.random() < 0.5
    one, two, out = names(rng, 3)
    most = (1 << width) - 1
    sign = "-" if subtract else "+"
    return plain(
        "saturate", [Port(one, width), Port(two, width)], [Port(out, width)],
        f"{one} and {two} are unsigned. {out} is {one} {'minus' if subtract else 'plus'} {two}, but "
        + ("0 where that would be negative." if subtract else f"{most} where that would be more."),
        f"  wire [{width}:0] whole = {one} {sign} {two};\n"
        f"  assign {out} = whole[{width}] ? {width}'d{0 if subtract else most} : whole[{width - 1}:0];\n",
        lambda v: {out: max(0, v[one] - v[two]) if subtract else min(most, v[one] + v[two])},
    )  # fmt: skip


def largest(rng: random.Random) -> Module:
    width, with_sign, least = rng.randint(3, 12), rng.random() < 0.5, rng.random() < 0.5
    one, two, out = names(rng, 3)
    shown = [f"$signed({one})", f"$signed({two})"] if with_sign else [one, two]

    def show(v: Values) -> Values:
        pick = min if least else max
        return {out: pick((v[one], v[two]), key=lambda x: signed(x, width) if with_sign else x)}

    return plain(
        "largest", [Port(one, width), Port(two, width)], [Port(out, width)],
        f"{out} is the {'smaller' if least else 'larger'} of the {'signed' if with_sign else 'unsigned'} "
        f"numbers {one} and {two}.",
        f"  assign {out} = {shown[0]} {'<' if least else '>'} {shown[1]} ? {one} : {two};\n",
        show,
    )  # fmt: skip


OPERATIONS: dict[str, tuple[str, str, Callable[[int, int], int]]] = {
    "add": ("the sum", "{a} + {b}", lambda a, b: a + b),
    "subtract": ("{a} minus {b}", "{a} - {b}", lambda a, b: a - b),
    "and": ("bitwise {a} and {b}", "{a} & {b}", lambda a, b: a & b),
    "or": ("bitwise {a} or {b}", "{a} | {b}", lambda a, b: a | b),
    "xor": ("bitwise {a} xor {b}", "{a} ^ {b}", lambda a, b: a ^ b),
    "not": ("all bits of {a} inverted", "~{a}", lambda a, _: ~a),
    "double": ("{a} shifted left by one", "{a} << 1", lambda a, _: a << 1),
    "less": (
        "1 if {a} is below {b}, both unsigned, else 0",
        "{{{{{rest}{{1'b0}}}}, {a} < {b}}}",
        lambda a, b: a < b,
    ),
}
"""What an ALU can do: in words, in Verilog, in Python."""


def alu(rng: random.Random) -> Module:
    width = rng.choice((4, 6, 8, 12, 16))
    one, two, op, out, zero = names(rng, 5)
    chosen = [OPERATIONS[name] for name in rng.sample(list(OPERATIONS), 4)]
    most = (1 << width) - 1
    told = "; ".join(f"{i}: {words.format(a=one, b=two)}" for i, (words, _, _) in enumerate(chosen))
    cases = "".join(
        f"      2'd{i}: r = {code.format(a=one, b=two, rest=width - 1)};\n"
        for i, (_, code, _) in enumerate(chosen)
    )

    def show(v: Values) -> Values:
        value = int(chosen[v[op]][2](v[one], v[two])) & most
        return {out: value, zero: int(value == 0)}

    def draw(rng: random.Random, count: int) -> list[dict[str, int]]:
        drawn = [{one: rng.getrandbits(width), two: rng.getrandbits(width), op: rng.getrandbits(2)}
                 for _ in range(count)]  # fmt: skip
        for values in drawn[::6]:
            values.update({one: 0, two: 0})
        for values in drawn[1::6]:
            values.update({one: most, two: 1})
        for values in drawn[2::6]:
            values[two] = values[one]
        for values in drawn[3::12]:
            values.update({one: most, two: 0})
        return drawn

    return plain(
        "alu", [Port(one, width), Port(two, width), Port(op, 2)], [Port(out, width), Port(zero)],
        f"{op} says what {out} is. {told}. {zero} is 1 if {out} is 0.",
        f"  reg [{width - 1}:0] r;\n  always @*\n    case ({op})\n{cases}    endcase\n  assign {out} = r;\n"
        f"  assign {zero} = r == 0;\n",
        show,
        draw,
    )  # fmt: skip
