"""The verilog tool in a real session: files, the compiler's messages, simulations, and their limits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentrl import ToolContext, ToolError
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import NamespaceSandbox
from agentrl.tools.verilog import Verilog

pytestmark = pytest.mark.asyncio(loop_scope="module")

DESIGN = "module inverter(input a, output y);\n  assign y = ~a;\nendmodule\n"
BENCH = (
    "module bench;\n  reg a = 0; wire y;\n  inverter u(a, y);\n"
    '  initial begin #1 $display("y=%b", y); $finish; end\nendmodule\n'
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def tool(sandbox) -> AsyncIterator[Verilog]:
    sessions = EpisodeSessions(sandbox)
    spawned = Verilog(seconds=3.0).spawn(ToolContext(open_session=sessions.open))
    assert isinstance(spawned, Verilog)
    yield spawned
    await sessions.close(10.0)


async def test_write_compile_simulate(tool):
    written = await tool.invoke({"files": {"design.v": DESIGN.replace("~a", "~b")}})
    assert written.error and "design.v:2: error" in written.text
    compiled = await tool.invoke({"files": {"design.v": DESIGN}})
    assert (compiled.text, compiled.error) == ("Compiled.", False)
    simulated = await tool.invoke({"files": {"bench.v": BENCH}, "top": "bench"})
    assert simulated.text.splitlines()[0] == "y=1" and not simulated.error
    again = await tool.invoke({"top": "bench"})
    assert again.text == simulated.text and again.metadata == {"status": "ok", "exit_code": 0}


async def test_what_does_not_fit_is_told(tool):
    for arguments, words in (
        ({"files": {"../design.v": ""}}, "no name for a file"),
        ({"files": {"-o.v": ""}}, "no name for a file"),
        ({"files": {"run.sh": ""}}, "no name for a file"),
        ({"files": {f"f{n}.v": "" for n in range(33)}}, "32 files at most"),
        ({"top": "a; env"}, "no module's name"),
    ):
        with pytest.raises(ToolError, match=words):
            await tool.invoke(arguments)
    nothing = await tool.invoke({"top": "bench"})
    assert nothing.error and "ource" in nothing.text


async def test_a_simulation_that_does_not_end_is_stopped(tool):
    endless = "module bench; reg c = 0; always #1 c = !c; endmodule"
    stopped = await tool.invoke({"files": {"bench.v": endless}, "top": "bench"})
    assert stopped.error and "$finish" in stopped.text and stopped.metadata["status"] == "timeout"
    printing = 'module bench; initial forever $display("again and again"); endmodule'
    stopped = await tool.invoke({"files": {"bench.v": printing}, "top": "bench"})
    assert stopped.error and "Stopped: it printed too much." in stopped.text
    assert (
        await tool.invoke({"files": {"bench.v": BENCH, "design.v": DESIGN}, "top": "bench"})
    ).text == "y=1"


async def test_host_files_stay_out_of_reach(tool, tmp_path):
    secret = tmp_path / "secret.v"
    secret.write_text("module secret; initial $display(31337); endmodule\n")
    answer = await tool.invoke({"files": {"bench.v": f'`include "{secret}"\n'}, "top": "secret"})
    assert answer.error and "31337" not in answer.text
