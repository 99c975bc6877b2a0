"""The verilog environment: its modules and mutants in real simulations, and episodes through the loop."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, Task, ToolContext, Trajectory
from agentrl.config import load_config
from agentrl.envs.verilog import Verilog, combinational
from agentrl.envs.verilog.families import FAMILIES, build, mutants
from agentrl.envs.verilog.modules import Module, whole
from agentrl.registry import find_env, source_folder
from agentrl.rewards.verilog import simulate
from agentrl.rollout import ScriptedPolicy
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import NamespaceSandbox

LIMITS = {"tool_seconds": 60.0, "episode_seconds": 110.0, "max_observation_tokens": 3000,
          "max_turn_tokens": 4000, "max_trajectory_tokens": 20_000, "retries": 0}  # fmt: skip
in_the_sandbox = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


def final(code: str) -> str:
    return f"```verilog\n{code}\n```"


def constant(module: Module, digit: str) -> str:
    """A module that always shows the same."""
    parts = ", ".join(f"{{{port.width}{{1'b{digit}}}}}" for port in module.interface.outputs)
    names = ", ".join(port.name for port in module.interface.outputs)
    return whole(module.interface, f"assign {{{names}}} = {{{parts}}};")


# ---- tasks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_splits_are_disjoint_and_repeatable(difficulty):
    env = Verilog(difficulty=difficulty, size=400)
    train, test = env.tasks("train"), env.tasks("test")
    prompts = [task.prompt for task in train + test]
    assert (len(train), len(test)) == (400, 100) and len(set(prompts)) == len(prompts)
    assert {FAMILIES[task.metadata["family"]].level for task in test} == {difficulty}
    again = Verilog(difficulty=difficulty, size=400)
    assert again.tasks("train") == train and again.tasks("test") == test
    assert {task.prompt for task in Verilog(difficulty=difficulty, size=400, seed=1).tasks("test")} != {
        task.prompt for task in test
    }


def test_the_module_is_not_told_and_a_share_shows_a_faulty_one():
    tasks = Verilog(families=list(FAMILIES), size=400, repair=0.5).tasks("train")
    assert not [task for task in tasks if task.answer in task.prompt]
    faulty = [task for task in tasks if "faulty" in task.metadata]
    assert 100 < len(faulty) < 300
    assert all(task.metadata["faulty"] in task.prompt != task.answer for task in faulty)
    assert not [task for task in Verilog(size=100, repair=0.0).tasks("train") if "faulty" in task.metadata]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"families": ["muxer"]}, "known: accumulator"),
        ({"families": []}, "empty"),
        ({"difficulty": 9}, "1, 2 or 3"),
        ({"size": 1}, "too small"),
        ({"repair": 2}, "repair=2 must be from 0 to 1"),
        ({"benches": 0}, "benches=0 must be from 1 to 16"),
        ({"seconds": 0}, "seconds=0 must"),
        ({"share": -1.0}, "share=-1.0 must"),
        ({"dificulty": 1}, "Did you mean 'difficulty'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        find_env("agentrl.envs.verilog:Verilog", options)


def test_a_family_that_runs_out_and_an_unknown_split_are_told(monkeypatch):
    monkeypatch.setattr(combinational, "NUMBERS", range(1))
    with pytest.raises(ConfigError, match="'gate' has too few modules"):
        Verilog(difficulty=1, size=100).tasks("train")
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Verilog().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Verilog())
    config = load_config("agentrl.envs.verilog:Verilog", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.verilog:Verilog", config.environment_options)
    assert (folder / "README.md").is_file()


# ---- modules and mutants ----------------------------------------------------------------------


@in_the_sandbox
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_module_passes_and_its_mutants_do_not(family, sandbox):
    """The Verilog agrees with the model in Python, which was written apart from it."""
    context = ToolContext(run_once=EpisodeSessions(sandbox).run)
    rng = random.Random(family)
    module = build(family, rng.getrandbits(32))
    benches = module.benches(rng, 4)
    right = await simulate(context, module.code, module.interface, benches)
    assert all(right.passed) and not right.messages, (module.code, right)
    for mutant in rng.sample(mutants(module), k=min(2, len(mutants(module)))):
        verdict = await simulate(context, mutant, module.interface, benches)
        assert verdict.compiled and not all(verdict.passed), mutant


@pytest.mark.parametrize("family", FAMILIES)
def test_no_bench_is_passed_by_a_module_that_always_shows_the_same(family):
    for seed in range(10):
        module = build(family, seed)
        for bench in module.benches(random.Random(seed), 4):
            assert len({word for word in bench.expected if "-" not in word}) > 1


# ---- episodes ---------------------------------------------------------------------------------


async def play(env: Verilog, policy, sandbox, task: Task) -> Trajectory:
    runner, _ = make_runner(env, policy, sandbox=sandbox, **LIMITS)
    return await runner.run(task, episode_id="a")


def first(env: Verilog, **wanted: object) -> Task:
    return next(task for task in env.tasks("test") if wanted.items() <= task.metadata.items())


@in_the_sandbox
@pytest.mark.parametrize("difficulty", [1, 2, 3])
async def test_the_expert_solves_tasks_with_the_tools(difficulty, sandbox):
    env = Verilog(difficulty=difficulty, size=48, repair=0.5)
    for task in env.tasks("test")[:6]:
        episode = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
        assert (episode.status, episode.reward) == ("finished", 1.0), (task, episode.metadata)
        assert episode.calls and all(call.name == "test" for call in episode.calls)
        assert episode.rewards["passed"] == 1.0 and episode.metadata["verdict"]["compiled"]


@in_the_sandbox
async def test_an_expert_that_guesses_is_seldom_right(sandbox):
    env = Verilog(difficulty=1, size=40, expert_rate=0.0)
    episodes = [await play(env, ScriptedPolicy(make_chat()), sandbox, task) for task in env.tasks("test")]
    assert not any(episode.calls for episode in episodes)
    assert [episode.reward for episode in episodes].count(1.0) < len(episodes) / 2


@in_the_sandbox
async def test_the_example_bench_tells_what_is_wrong(sandbox):
    env = Verilog(difficulty=3, families=["counter"], size=40, repair=0.0)
    [task, *_] = env.tasks("test")
    stuck = constant(build("counter", task.metadata["seed"]), "0")
    steps = [write_call("test", code=code) for code in (task.answer, stuck, "module counter(; endmodule")]
    episode = await play(env, Lines(*steps, final(task.answer)), sandbox, task)
    right, wrong, broken = (call.observation for call in episode.calls)
    assert right.text == "All 96 outputs are right." and right.metadata["passed"]
    assert "after the edge" in wrong.text and "want" in wrong.text and "right." in wrong.text
    assert not wrong.metadata["passed"] and len(wrong.text.splitlines()) <= 8
    assert broken.error and "design.v:1: syntax error" in broken.text
    assert episode.reward == 1.0


@in_the_sandbox
@pytest.mark.parametrize("line", ["", "1", "1" * 200, "what is this"])
async def test_lines_that_the_module_wrote_itself_are_told(line, sandbox):
    env = Verilog(families=["adder"], size=40, repair=0.0)
    [task, *_] = env.tasks("test")
    interface = build("adder", task.metadata["seed"]).interface
    writing = f'integer f; initial begin f = $fopen("outputs", "w"); $fdisplay(f, "{line}"); $finish; end'
    steps = write_call("test", code=whole(interface, writing)), final(task.answer)
    episode = await play(env, Lines(*steps), sandbox, task)
    [called] = episode.calls
    assert called.status == "ok" and not called.observation.metadata["passed"]
    told, right = called.observation.text.splitlines()
    assert (told, right.split()[0]) == ("The module wrote to the bench's files.", "0")


def test_a_call_of_test_may_take_as_long_as_its_simulation():
    [short], [long] = (Verilog(difficulty=1, seconds=seconds).own_tools() for seconds in (5, 20))
    assert (short.seconds, long.seconds) == (5 * 4 * 2 + 10, 20 * 4 * 2 + 10)


@in_the_sandbox
async def test_what_solves_nothing(sandbox):
    env = Verilog(families=["adder"], size=40, repair=1.0)
    [task, *_] = env.tasks("test")
    module = build("adder", task.metadata["seed"])
    answers = {
        "": 0.0,
        task.answer: 0.0,  # not in a block
        final(""): 0.0,
        final(task.prompt): 0.0,
        final(str(task.metadata["faulty"])): 0.0,
        final(constant(module, "0")): 0.0,
        final(constant(module, "x")): 0.0,
        final(f'{module.interface.header()} initial begin $display("PASS"); $finish; end endmodule'): 0.0,
        final(str(task.metadata["faulty"])) + "\n" + final(task.answer): 1.0,
    }
    for text, reward in answers.items():
        episode = await play(env, Lines(text), sandbox, task)
        assert (episode.status, episode.reward) == ("finished", reward), text
        assert episode.rewards["passed"] == reward


@in_the_sandbox
async def test_a_share_of_the_benches_can_be_paid(sandbox):
    env = Verilog(families=["saturate"], size=40, repair=0.0, share=0.5)
    [task, *_] = env.tasks("test")
    module = build("saturate", task.metadata["seed"])
    episode = await play(env, Lines(final(task.answer)), sandbox, task)
    assert episode.reward == 1.5 and set(episode.rewards) == {"correct", "passed"}
    episode = await play(env, Lines(final(constant(module, "0"))), sandbox, task)
    assert episode.reward == 0.0


@in_the_sandbox
async def test_the_verilog_tool_is_there_where_modules_are_to_be_written(sandbox):
    env = Verilog(families=["mux"], size=40)
    [task, *_] = env.tasks("test")
    top = "module top; initial begin $display(42); $finish; end endmodule"
    steps = (
        write_call("verilog", files={"design.v": task.answer, "top.v": top}, top="top"),
        final(task.answer),
    )
    episode = await play(env, Lines(*steps), sandbox, task)
    assert "42" in episode.calls[0].observation.text and episode.reward == 1.0
    simple = Verilog(difficulty=1, size=40)
    assert not simple.tools and [tool.name for tool in simple.own_tools()] == ["test"]
