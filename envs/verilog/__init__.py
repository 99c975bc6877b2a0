"""Verilog modules, written from specifications and judged by hidden test benches.

The model may try modules on an example bench and write benches of its own; it is paid for a final module
whose outputs are right in every bench that it has not seen.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from agentrl import (
    ConfigError,
    Env,
    Expert,
    Message,
    Observation,
    Splits,
    Task,
    Trajectory,
    call,
    reward,
    say,
    split_size,
    tool,
)
from agentrl.envs.levels import chosen_kinds
from agentrl.envs.verilog.families import FAMILIES, GATES, build, filled, mutants, read_gate
from agentrl.envs.verilog.modules import Module
from agentrl.envs.verilog.report import report
from agentrl.rewards.verilog import SLACK, Bench, Verdict, extract_verilog, simulate
from agentrl.tools.verilog import MARGIN_SECONDS
from agentrl.tools.verilog import Verilog as VerilogTool

if TYPE_CHECKING:
    from agentrl.tool import FunctionTool

TEST_SIZE = 256
SEEDS = 1 << 32
"""Seeds of one split."""
TRIES = 200
"""Draws in a row without a new task before a family is taken to have run out."""
MOST_BENCHES = 16
MOST_SECONDS = 60
MOST_MESSAGES = 1000
"""Characters of the compiler's messages that are kept in an episode's record."""


class Verilog(Env):
    """Write a module as specified, or find the fault in one.

    Args:
        difficulty: 1 (a gate), 2 (combinational modules) or 3 (clocked ones).
        families: instead, names of :data:`agentrl.envs.verilog.families.FAMILIES`.
        repair: the share of the tasks that show a faulty module to be mended.
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: of the tasks.
        benches: hidden test benches of a task.
        share: what is paid for the share of benches passed, beside the 1 for all of them.
        seconds: of CPU time, to compile and for each bench.
        expert_rate: how often the expert tries a module before it answers; else it guesses.

    Raises:
        ConfigError: an option does not fit.
    """

    name = "verilog"
    prompt = (
        "Write the Verilog module. Call test to try it. Answer with all of it in a block:\n"
        "```verilog\nmodule ...\nendmodule\n```"
    )
    success = "correct"
    _verdict: Verdict | None

    def __init__(
        self,
        difficulty: int = 2,
        families: Sequence[str] | None = None,
        repair: float = 0.25,
        size: int = 2000,
        seed: int = 0,
        benches: int = 4,
        share: float = 0.0,
        seconds: float = 5.0,
        expert_rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.families = chosen_kinds(FAMILIES, difficulty, families, one="family", option="families")
        _check(repair=(repair, 0, 1), expert_rate=(expert_rate, 0, 1), share=(share, 0, 100))
        _check(benches=(benches, 1, MOST_BENCHES), seconds=(seconds, 1, MOST_SECONDS))
        if size < len(self.families) * 4:
            raise ConfigError(
                f"size={size} is too small for {len(self.families)} families; give at least 4 per family."
            )
        self.repair, self.size, self.seed, self.count = repair, size, seed, benches
        self.seconds, self.expert_rate = seconds, expert_rate
        if any(FAMILIES[name].level > 1 for name in self.families):
            self.tools = (VerilogTool(seconds=2 * seconds),)
        self.rewards = (share * Verilog.passed,)  # and correct
        self._splits = Splits(self._make)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made once; no prompt stands in both.

        Raises:
            ConfigError: the split is unknown, or the families have too few modules.
        """
        return self._splits(split)

    async def reset(self, task: Task) -> None:
        """Nothing has been judged yet."""
        self._verdict = None
        self._module = build(task.metadata["family"], task.metadata["seed"])

    def own_tools(self) -> list[FunctionTool]:
        """``test``, which may take as long as the sandbox lets it compile and run one bench."""
        tools = super().own_tools()
        for each in tools:
            if each.name == "test":
                each.seconds = self.seconds * SLACK * 2 + MARGIN_SECONDS
        return tools

    @tool
    async def test(self, code: str) -> Observation:
        """Compile a module, run an example test bench on it, and show which outputs are wrong.

        Args:
            code: the module in Verilog
        """
        module, bench = self._module, self._benches("example", 1)[0]
        verdict = await simulate(self.context, code, module.interface, [bench], seconds=self.seconds)
        text = report(module.interface, bench, verdict)
        return Observation(text, error=not verdict.compiled, metadata={"passed": verdict.passed[0]})

    @reward
    async def correct(self, episode: Trajectory) -> float:
        """1.0 if the final module passes all hidden benches, else 0.0."""
        return float(all((await self._judge(episode)).passed))

    @reward
    async def passed(self, episode: Trajectory) -> float:
        """The share of the hidden benches that the final module passes."""
        return (await self._judge(episode)).share

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Tries a module on the example bench and answers with a right one; or guesses, see ``expert_rate``.

        At a gate it tries what is there and reads from the wrong outputs which gate is wanted. Elsewhere it
        first tries a faulty module, one time in three, and always where one is to be mended.
        """
        module = build(task.metadata["family"], task.metadata["seed"])
        if rng.random() >= self.expert_rate:
            yield _fenced(rng.choice(guesses(module)))
        elif module.stub:
            [shown] = yield call("test", code=module.stub)
            yield _fenced(read_gate(module, shown) or module.stub)
        else:
            if "faulty" in task.metadata or rng.random() < 1 / 3:
                yield call("test", code=task.metadata.get("faulty") or rng.choice(mutants(module)))
            yield call("test", code=task.answer)
            yield _fenced(task.answer)

    def _benches(self, purpose: str, count: int) -> list[Bench]:
        drawn = random.Random(f"{self._module.code} {purpose}")
        return self._module.benches(drawn, count)

    async def _judge(self, episode: Trajectory) -> Verdict:
        """What came of the final module; found out once an episode."""
        if self._verdict is None:
            code = extract_verilog(episode.final_text)
            if code is None:
                self._verdict = Verdict(False, (False,), messages="There is no block with a module.")
            else:
                benches = self._benches("hidden", self.count)
                self._verdict = await simulate(
                    self.context, code, self._module.interface, benches, seconds=self.seconds
                )
            episode.metadata["verdict"] = {
                "compiled": self._verdict.compiled,
                "passed": list(self._verdict.passed),
                "messages": self._verdict.messages[:MOST_MESSAGES],
            }
        return self._verdict

    def _make(self, split: str, used: set[Hashable]) -> list[Task]:
        count, rest = divmod(split_size(split, self.size, TEST_SIZE), len(self.families))
        first = (2 * self.seed + (split == "test")) * SEEDS
        tasks: list[Task] = []
        for position, family in enumerate(self.families):
            tasks += self._draw(family, first, count + (position < rest), used)
        random.Random(f"{self.seed} {split}").shuffle(tasks)
        return tasks

    def _draw(self, family: str, first: int, count: int, used: set[Hashable]) -> list[Task]:
        """``count`` tasks of a family; their prompts are added to ``used``."""
        drawn: list[Task] = []
        misses, seed = 0, first
        while len(drawn) < count:
            task = self._task(family, seed)
            seed += 1
            if task.prompt in used:
                misses += 1
                if misses == TRIES:
                    raise ConfigError(
                        f"The family {family!r} has too few modules for size={self.size}: lower it."
                    )
                continue
            misses = 0
            used.add(task.prompt)
            drawn.append(task)
        return drawn

    def _task(self, family: str, seed: int) -> Task:
        module = build(family, seed)
        metadata: dict[str, object] = {"family": family, "seed": seed}
        if module.stub:
            return Task(module.stub, answer=module.code, metadata=metadata)
        rng = random.Random(f"{seed} {family} task")
        if rng.random() >= self.repair:
            prompt = f"{module.spec}\n\n{module.interface.header()}"
        else:
            metadata["faulty"] = rng.choice(mutants(module))
            prompt = f"{module.spec}\n\nThis one has a fault:\n{metadata['faulty']}"
        return Task(prompt, answer=module.code, metadata=metadata)


def guesses(module: Module) -> list[str]:
    """Modules that someone might answer with who has not tried any."""
    if not module.stub:
        return mutants(module)
    return [filled(module, expression) for expression in GATES]


def _fenced(code: str) -> Message:
    return say(f"```verilog\n{code}\n```")


def _check(**options: tuple[float, float, float]) -> None:
    for name, (value, least, most) in options.items():
        if not least <= value <= most:
            raise ConfigError(f"{name}={value!r} must be from {least} to {most}.")
