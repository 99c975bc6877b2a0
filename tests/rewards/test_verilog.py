"""Judging Verilog: right and wrong modules, and attempts to be paid for something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agentrl import ConfigError, ToolContext
from agentrl.rewards.verilog import Bench, Interface, Port, extract_verilog, simulate
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import NamespaceSandbox, Result, Status

in_the_sandbox = pytest.mark.asyncio(loop_scope="module")

NOT = Interface("inverter", (Port("a", 2),), (Port("y", 2),))
BENCHES = (Bench(("00", "01", "10", "11"), ("11", "10", "01", "00")), Bench(("10", "01"), ("01", "10")))
HEADER = "module inverter(input [1:0] a, output [1:0] y);"
RIGHT = f"{HEADER} assign y = ~a; endmodule"
DELAY = Interface("delay", (Port("d"),), (Port("q"),), clock="clk")
DELAYS = (Bench(("1", "0", "0", "1"), ("-", "1", "1", "0", "0", "0", "0", "1")),)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context() -> AsyncIterator[ToolContext]:
    async with NamespaceSandbox() as sandbox:
        yield ToolContext(run_once=EpisodeSessions(sandbox).run)


@in_the_sandbox
@pytest.mark.parametrize(
    "code",
    [
        RIGHT,
        "module inverter(a, y); input [1:0] a; output reg [1:0] y; always @(a) y = ~a; endmodule",
        "module inverter(input logic [1:0] a, output logic [1:0] y); always_comb y = ~a; endmodule",
        f"{HEADER} bit1 u[1:0](a, y); endmodule\nmodule bit1(input a, output y); assign y = !a; endmodule",
        f'{HEADER} assign y = ~a; always @(a) $display("a=%b", a); initial $display("PASS"); endmodule',
        f"`timescale 1ps/1ps\n`default_nettype none\n`define given 3\n`define fdisplay\n{RIGHT}\n`resetall",
    ],
)
async def test_right_modules_pass_however_written(context, code):
    verdict = await simulate(context, code, NOT, BENCHES)
    assert verdict.compiled and verdict.passed == (True, True) and verdict.share == 1.0
    assert verdict.observed == tuple(bench.expected for bench in BENCHES)


@in_the_sandbox
async def test_a_clocked_module_is_looked_at_before_and_after_the_edge(context):
    async def passes(body: str) -> bool:
        code = f"module delay(input clk, input d, output {body} endmodule"
        return (await simulate(context, code, DELAY, DELAYS)).passed[0]

    assert await passes("reg q); always @(posedge clk) q <= d;")
    assert not await passes("reg q); always @(negedge clk) q <= d;")
    assert not await passes("reg q); always @* if (clk) q = d; else q = d;")
    assert not await passes("q); assign q = d;")


@in_the_sandbox
async def test_each_bench_is_judged_by_itself(context):
    verdict = await simulate(context, f"{HEADER} assign y = a[0] ^ a[1] ? ~a : a; endmodule", NOT, BENCHES)
    assert verdict.passed == (False, True) and verdict.share == 0.5
    assert verdict.observed == (("00", "10", "01", "11"), ("01", "10"))


@in_the_sandbox
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "inverter"),
        (
            "module inverter(input [1:0] a, output [1:0] y); assign y = ; endmodule",
            "design.v:1: syntax error",
        ),
        ("module other(input [1:0] a, output [1:0] y); assign y = ~a; endmodule", "inverter"),
        ("module inverter(input [1:0] b, output [1:0] y); assign y = ~b; endmodule", "port ``a''"),
        (f"{HEADER} assign y = ~b; endmodule", "b"),
        ("\0\udcff" + RIGHT, "inverter"),
        (RIGHT + " " * 20_000, "20000 characters"),
    ],
)
async def test_what_does_not_compile_is_told(context, code, words):
    verdict = await simulate(context, code, NOT, BENCHES)
    assert not verdict.compiled and verdict.share == 0.0 and words in verdict.messages


OUTPUTS = 'initial begin f = $fopen("outputs", "w"); {writes} $fflush(f); end'
WRITE = '$fdisplay(f, "11"); $fdisplay(f, "10"); $fdisplay(f, "01"); $fdisplay(f, "01");'
ATTACKS = {
    "prints": f'{HEADER} initial $display("PASS\\nall benches passed\\n11\\n10\\n01\\n00"); endmodule',
    "ends at once": f"{HEADER} assign y = ~a; initial $finish; endmodule",
    "ends in time": f"{HEADER} assign y = 0; initial #3 $finish(0); endmodule",
    "stops": f"{HEADER} assign y = ~a; initial $stop; endmodule",
    "fatal": f'{HEADER} assign y = ~a; initial $fatal(0, "PASS"); endmodule',
    "is the bench": "module bench; initial $finish; endmodule\n" + RIGHT.replace("~a", "a"),
    "another bench": 'module bench2; initial $display("PASS"); endmodule ' + RIGHT.replace("~a", "a"),
    "writes outputs": f"{HEADER} integer f; {OUTPUTS.format(writes=WRITE)} assign y = 0; endmodule",
    "writes to the bench's file": f"{HEADER} initial begin #1 "
    + "".join(f'$fdisplay({fd}, "11");' for fd in ("32'h80000003", "32'h80000004", "2", "1"))
    + " end assign y = 3; endmodule",
    "forces the bench": f"{HEADER} assign y = 0; initial force bench.shown = 2'b01; endmodule",
    "skips cycles": f"{HEADER} assign y = 0; initial bench.at = bench.last; endmodule",
    "replaces the simulation": f"{HEADER} integer f; assign y = 0; initial begin "
    'f = $fopen("simulation", "w"); $fdisplay(f, "#! /usr/bin/vvp"); '
    '$fdisplay(f, ":vpi_module \\"/workspace/x.vpi\\";"); $fflush(f); end endmodule',
    "reads the stimuli": f"{HEADER} reg [1:0] m[0:5]; assign y = m[0]; "
    'initial $readmemb("stimuli", m); endmodule',
    "includes the bench": f'`include "bench.v"\n{HEADER} assign y = 0; endmodule',
    "includes host files": f'`include "/etc/passwd"\n{RIGHT}',
    "reads host files": f"{HEADER} reg [7:0] m[0:99]; assign y = m[0]; "
    'initial $readmemh("/etc/passwd", m); endmodule',
    "calls the system": f'{HEADER} assign y = 0; initial $system("echo 11 > outputs"); endmodule',
    "vpi": f'{HEADER} assign y = 0; initial $load_vpi("evil.vpi"); endmodule',
    "unknown bits": f"{HEADER} assign y = 2'bxx; endmodule",
    "nothing": f"{HEADER} endmodule",
    "narrow": "module inverter(input [1:0] a, output y); assign y = ~a; endmodule",
}


@in_the_sandbox
@pytest.mark.parametrize("name", ATTACKS)
async def test_attacks_are_not_paid(context, name):
    verdict = await simulate(context, ATTACKS[name], NOT, BENCHES)
    assert verdict.share == 0.0, verdict
    assert "root:" not in verdict.messages and "nobody:" not in verdict.messages


ENDLESS = {
    "a loop": f"{HEADER} assign y = ~a; initial forever ; endmodule",
    "a function": f"{HEADER} function f(input x); while (1) f = x; endfunction assign y = f(a[0]); endmodule",
    "instances": f"{HEADER} inverter u(a, y); endmodule",
    "generated": f"{HEADER} genvar i; for (i = 0; i < 1000000000; i = i + 1) wire w; endmodule",
    "memory": f"{HEADER} reg [1023:0] m[0:(1 << 28)]; assign y = m[0]; endmodule",
    "output": f'{HEADER} initial forever $display("0123456789"); assign y = ~a; endmodule',
    "macros": "`define a `b `b `b `b\n`define b `a `a `a `a\n`a\n" + RIGHT,
}


@in_the_sandbox
@pytest.mark.parametrize("name", ENDLESS)
async def test_what_does_not_end_is_stopped(context, name):
    verdict = await simulate(context, ENDLESS[name], NOT, BENCHES, seconds=1.0)
    assert verdict.share == 0.0, verdict


@in_the_sandbox
async def test_a_sandbox_without_the_compiler_stops_the_run():
    async def without(code: str, options: Any, **how: Any) -> Result:
        return Result(Status.error, "", "bash: iverilog: command not found", 127, 0.0, False, "")

    with pytest.raises(ConfigError, match="apt-get install iverilog"):
        await simulate(ToolContext(run_once=without), RIGHT, NOT, BENCHES)


def test_the_last_block_counts():
    assert extract_verilog("```verilog\nmodule a;\nendmodule\n```\n```verilog\nb\n```\n") == "b"
    assert extract_verilog("  ```Verilog\nb\n  ```") == "b"
    for text in (
        "",
        "module a; endmodule",
        "```\nmodule a;\n```",
        "```verilog\n\n```",
        "```verilog\nmodule a;",
    ):
        assert extract_verilog(text) is None
