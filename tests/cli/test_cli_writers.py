"""The commands for writers: init, tools call, envs play, check and audit."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fake_training import ROOT
from typer.testing import CliRunner

from agentrl.cli.main import app
from agentrl.registry import find_env, find_tool

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
CHEATED = """
from agentrl import Env, Task, reward, say
class Cheated(Env):
    def tasks(self, split):
        return [Task(f"{split}: which of {n} and {n + 1} is larger?", answer=str(n + 1)) for n in range(9)]
    @reward
    def right(self, episode):
        return float(episode.task.answer in episode.final_text)
    def expert(self, task, rng):
        yield say(task.answer)
"""


def call(*words: str, stdin: str = "") -> Any:
    return CliRunner().invoke(app, list(words), input=stdin)


# ---- init ---------------------------------------------------------------------------------------


def test_what_init_writes_passes_its_own_test(folder: Path) -> None:
    for kind in ("tool", "env", "reward"):
        result = call("init", kind, f"{kind}_of_mine", "--folder", "new/place")
        assert result.exit_code == 0, result.output
        assert f"Wrote new/place/{kind}_of_mine.py and new/place/test_{kind}_of_mine.py" in result.output
    assert "my_" not in "".join(file.read_text() for file in Path("new/place").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "new/place"],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 passed" in done.stdout


def test_what_init_writes_has_the_name(folder: Path) -> None:
    assert call("init", "env", "price_list").exit_code == 0
    assert call("init", "tool", "weigh").exit_code == 0
    assert find_env("./price_list.py").name == "price_list"
    assert find_tool("./weigh.py").name == "weigh"
    assert "agentrl train ./price_list.py" in Path("price_list.py").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Shop", "small letters"),
        ("my-shop", "small letters"),
        ("../shop", "small letters"),
        ("7up", "small letters"),
        ("", "small letters"),
        ("x" * 61, "60 at most"),
        ("class", "word of Python's own"),
        ("match", "word of Python's own"),
        ("random", "would hide the module 'random'"),
        ("agentrl", "would hide the module 'agentrl'"),
        ("test_shop", "for a test"),
    ],
)
def test_init_refuses_names_that_do_not_work(folder: Path, name: str, words: str) -> None:
    before = sorted(folder.rglob("*"))
    result = call("init", "env", name)
    assert result.exit_code == 2 and words in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("taken", ["shop.py", "test_shop.py"])
def test_init_overwrites_nothing(folder: Path, taken: str) -> None:
    (folder / taken).write_text("mine")
    result = call("init", "reward", "shop")
    assert result.exit_code == 2 and f"'{taken}' exists already" in result.stderr
    assert (folder / taken).read_text() == "mine"
    assert sum("shop" in path.name for path in folder.iterdir()) == 1


# ---- tools call ---------------------------------------------------------------------------------


def test_one_tool_of_an_mcp_server_is_called_by_its_name() -> None:
    server = f"mcp:{sys.executable} {ROOT / 'tests/tools/small_mcp_server.py'}"
    done = call("tools", "call", f"{server}#add", "a=2", "b=3")
    assert (done.exit_code, done.stdout) == (0, "5\n"), done.output
    unnamed = call("tools", "call", server, "a=2", "b=3")
    assert unnamed.exit_code == 2
    assert "offers 3 tools (add, hang, die)" in " ".join(unnamed.output.split()) and "#NAME" in unnamed.output


def test_a_tool_is_called_in_a_sandbox_with_its_options() -> None:
    done = call("tools", "call", "python{stateful: false}", "code=print(6 * 7)")
    assert (done.exit_code, done.stdout) == (0, "42\n"), done.stderr
    assert done.stderr.startswith("[ok, ")


def test_several_calls_share_a_session() -> None:
    lines = 'code=x = "a b"\n\ncode=def f(y):\\\n    return x + y\n{"code": "print(f(\'c\'))"}\n'
    done = call("tools", "call", "python", "-", stdin=lines)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a bc"
    assert done.stderr.count("[ok, ") == 3


def test_what_a_model_would_be_told_is_told(folder: Path) -> None:
    assert call("init", "tool", "length").exit_code == 0
    done = call("tools", "call", "./length.py", "unit=ells", "--json", '{"amount": "3"}')
    assert (done.exit_code, done.stdout) == (1, "I know feet and miles, not 'ells'.\n")
    done = call("tools", "call", "./length.py", "amount=3")
    assert done.exit_code == 1 and "unit is required" in done.stdout and "[invalid" in done.stderr


def test_a_call_has_the_limits_of_an_episode(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import asyncio\nfrom agentrl import tool\n@tool\nasync def slow(n: int) -> str:\n"
        "    '''Wait.'''\n    await asyncio.sleep(100 if n == 0 else 0)\n    return 'ä' * n\n"
    )
    done = call("tools", "call", "./slow.py", "n=0", "--seconds", "0.2")
    assert done.exit_code == 1 and "it took longer than 0.2 s" in done.stdout and "[timeout" in done.stderr
    done = call("tools", "call", "./slow.py", "n=5000", "--tokens", "50")
    assert len(done.stdout.strip().encode()) <= 200 and "shortened" in done.stderr
    assert "tokens left out" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_tool"], "no tool 'no_such_tool'"),
        (["python{seconds: soon"], "python{seconds: soon"),
        (["python{color: red}", "code=1"], "takes no option 'color'"),
        (["python", "print(1)"], "'print(1)' is no key=value; the parameters are: code"),
        (["python", "--json", "[1]"], "is no JSON object"),
        (["python", "-", "--json", "{}"], "leave out either"),
        (["python", "code=1", "--sandbox", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_in_a_call_by_hand(words: list[str], message: str) -> None:
    done = call("tools", "call", *words)
    assert done.exit_code == 2 and message in done.stderr


def test_a_line_of_a_pipe_that_is_no_call_ends_it() -> None:
    done = call("tools", "call", "python", "-", stdin="print(1)\ncode=print(2)\n")
    assert done.exit_code == 2 and "'print(1)' is no key=value" in done.stderr and "2" not in done.stdout


# ---- envs play ----------------------------------------------------------------------------------


PAINTER = """
import io
from PIL import Image as Pillow
from agentrl import Env, Image, Task, reward, tool
class Painter(Env):
    def tasks(self, split):
        return [Task(f"{split}: which colour?", answer="red")]
    @tool
    def look(self, wide: int) -> Image:
        file = io.BytesIO()
        Pillow.new("RGB", (wide, 40), "red").save(file, "PNG")
        return Image(file.getvalue())
    @reward
    def right(self, episode):
        return float(episode.final_text == episode.task.answer)
"""


def test_a_person_finds_the_images_in_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image as Pillow

    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    Path("painter.py").write_text(PAINTER)
    played = call("envs", "play", "./painter.py", stdin="look wide=60\nlook wide=50\nred\n")
    assert played.exit_code == 0 and "solved" in played.output, played.output
    shown = {line.rpartition(": ")[2].strip() for line in played.output.splitlines() if "pixels: " in line}
    paths = set(folder.glob("agentrl-play-*/*.png"))
    assert len(paths) == 2 and shown == {str(path) for path in paths}
    assert {Pillow.open(io.BytesIO(path.read_bytes())).size for path in paths} == {(60, 40), (50, 40)}


def test_a_person_plays_an_episode_to_its_rewards(folder: Path) -> None:
    assert call("init", "env", "lengths").exit_code == 0
    lines = "convert three\nconvert amount=103 unit=feet\n31.39\n"
    done = call("envs", "play", "./lengths.py", "--split", "test", "--task", "1", stdin=lines)
    assert done.exit_code == 0, done.stderr
    for expected in (
        '"description": "the unit it is in, feet or miles."',
        "Call convert, then answer",
        "How many metres are 103 ",
        "'three' is no key=value",
        "tool convert",
        "correct      +",
        "conversions  +1.000  logged only",
        "the model gave its answer",
    ):
        assert expected in done.output, expected
    task = list(find_env("./lengths.py").tasks("test"))[1]
    assert ("+1.000  solved" in done.output) == (task.answer == "31.39")


def test_math_is_played_in_the_sandbox(folder: Path) -> None:
    lines = "python code=print(1 +\\\n 1)\npython code=1/0\n\\boxed{no}\n"
    done = call("envs", "play", "math", "env_options={size: 40}", stdin=lines)
    assert done.exit_code == 0, done.stderr
    assert "ZeroDivisionError" in done.output and "not solved" in done.output
    assert "  2 " in done.output


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["--task", "20"], "", "no task 20 in split 'test'"),
        (["steps=3"], "", "does not use steps"),
        ([], "add a=1 b=2\n", "ended before the episode did"),
    ],
)
def test_mistakes_in_playing(folder: Path, words: list[str], stdin: str, message: str) -> None:
    done = call("envs", "play", "./adding.py", *words, stdin=stdin)
    assert done.exit_code == 2 and message in done.stderr


def test_playing_can_be_interrupted_while_it_waits(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agentrl.cli", "envs", "play", "./adding.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "goes on in the next" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "Interrupted.\n"


# ---- envs check and audit -----------------------------------------------------------------------


def test_check_prints_findings_and_scores_and_decides_the_exit_code(folder: Path) -> None:
    (folder / "cheated.py").write_text(CHEATED)
    good = call("envs", "check", "./cheated.py", "--tasks", "9")
    assert good.exit_code == 0, good.output
    assert "passed   tasks: 9 train, 9 test" in good.output
    row = next(line for line in good.output.splitlines() if line.startswith("expert"))
    assert row.split()[1:4] == ["100%", "[70.1%,", "100.0%]"]
    bad = call("envs", "check", "./adding.py", "--tasks", "3")  # pays whatever happens
    assert bad.exit_code == 1
    assert "failed   scores: doing nothing solves 100% of the tasks" in bad.output


def test_audit_catches_a_cheat_and_decides_the_exit_code(folder: Path) -> None:
    (folder / "cheated.py").write_text(CHEATED)
    words = ("--tasks", "4", "--only", "every number", "--only", "guess")
    bad = call("envs", "audit", "./cheated.py", *words)
    assert bad.exit_code == 1, bad.output
    rows = {line.split("  ")[0].strip(): line for line in bad.output.splitlines()}
    assert "100%" in rows["every number"] and "100%" not in rows["nothing"]
    assert "FAIL  1 of 3" in bad.output
    good = call("envs", "audit", "./cheated.py", "--tasks", "4", "--only", "malformed")
    assert good.exit_code == 0 and "pass  none of 2" in good.output


@pytest.mark.parametrize("command", ["check", "audit"])
def test_what_has_no_effect_is_refused(folder: Path, command: str) -> None:
    done = call("envs", command, "./adding.py", "model=x", "steps=3")
    assert done.exit_code == 2 and "does not use model, steps" in done.stderr


def test_help_names_the_commands_of_writers() -> None:
    for words, expected in ((("envs",), ("show", "play", "check", "audit")), (("tools",), ("call",))):
        done = call(*words, "--help")
        assert done.exit_code == 0 and all(f"\n  {name} " in done.output for name in expected)
    assert "tool|env|reward" in call("init", "--help").output
