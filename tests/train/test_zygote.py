"""The process that starts workers by forking: what it runs is what Python would have run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentrl.train.zygote import MODULES, Zygote, parsed

SECONDS = 60.0


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Zygote(folder, folder / "python", ["csv"], ["numpy"]) as opened:
            yield opened
        assert not opened.program.exists()


def ask(zygote: Zygote, *arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    """What comes of Python with these arguments, by way of the zygote."""
    command = [str(zygote.program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, **how)  # type: ignore[call-overload]


SHOW = "import os, sys; print(sys.argv, os.getcwd(), os.environ.get('COLOR'), input()); sys.exit(3)"


def test_code_runs_with_its_arguments_environment_folder_and_files(zygote, tmp_path):
    environment = {**os.environ, "COLOR": "red"}
    done = ask(zygote, "-u", "-c", SHOW, "a b", cwd=tmp_path, env=environment, input="words\n")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == f"['-c', 'a b'] {tmp_path} red words\n"


def test_a_file_and_a_module_run_as_the_main_program(zygote, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys\nif __name__ == '__main__':\n    print(sys.argv[1:], __file__)\n")
    assert ask(zygote, str(program), "x").stdout == f"['x'] {program}\n"
    assert ask(zygote, "-X", "utf8", "-m", "json.tool", input='{"a":1}').stdout == '{\n    "a": 1\n}\n'


def test_what_was_imported_is_there(zygote):
    done = ask(zygote, "-c", "import sys; print('csv' in sys.modules, 'numpy' in sys.modules)")
    assert done.stdout == "True True\n"


def test_modules_are_imported_with_the_variables_of_the_first_who_asks(tmp_path, monkeypatch):
    (tmp_path / "reads_it.py").write_text("import os\nCOLOR = os.environ.get('COLOR')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "files").mkdir()
    show = "import os, reads_it; print(reads_it.COLOR, os.environ['COLOR'])"
    with Zygote(tmp_path / "files", tmp_path / "python", [], ["numpy", "reads_it"]) as opened:
        first = ask(opened, "-c", show, env={**os.environ, "COLOR": "red"})
        second = ask(opened, "-c", show, env={**os.environ, "COLOR": "blue"})
    assert (first.stdout, second.stdout) == ("red red\n", "red blue\n")


def test_children_draw_different_random_numbers(zygote):
    draw = "import random, numpy; print(random.random(), numpy.random.random())"
    first, second = ask(zygote, "-c", draw).stdout.split(), ask(zygote, "-c", draw).stdout.split()
    assert len(first) == 2 and not set(first) & set(second)


def test_an_exception_is_told_and_ends_it_with_1(zygote):
    done = ask(zygote, "-c", "raise ValueError('so it is')")
    assert done.returncode == 1 and done.stderr.endswith("ValueError: so it is\n")


def waiting(zygote: Zygote, before: str = "pass") -> tuple[subprocess.Popen[str], psutil.Process]:
    """What stands for a child that waits, and the child."""
    code = f"import os, signal, time; {before}; print(os.getpid(), flush=True); time.sleep(100)"
    stand_in = subprocess.Popen([zygote.program, "-c", code], stdout=subprocess.PIPE, text=True)
    assert stand_in.stdout is not None
    with stand_in.stdout:
        return stand_in, psutil.Process(int(stand_in.stdout.readline()))


def test_a_child_that_names_itself_is_seen_by_its_name_and_by_its_variables(zygote):
    named = "import setproctitle; setproctitle.setproctitle('VLLM::EngineCore')"
    stand_in, child = waiting(zygote, named)
    assert child.cmdline()[0] == "VLLM::EngineCore" and child.environ()["PATH"] == os.environ["PATH"]
    stand_in.kill()
    stand_in.wait()


def test_a_signal_is_passed_on(zygote):
    stand_in, child = waiting(zygote, "signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))")
    assert child.pid != stand_in.pid
    stand_in.send_signal(signal.SIGUSR1)
    assert stand_in.wait(SECONDS) == 7


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_child_is_the_end_of_what_stands_for_it(zygote, end):
    stand_in, child = waiting(zygote)
    child.send_signal(end)
    assert stand_in.wait(SECONDS) == -end


def test_the_end_of_what_stands_for_it_is_the_end_of_the_child(zygote):
    stand_in, child = waiting(zygote)
    stand_in.kill()
    stand_in.wait()
    child.wait(SECONDS)
    assert ask(zygote, "-c", "print(1)").stdout == "1\n"


def test_children_end_with_the_zygote(tmp_path):
    with Zygote(tmp_path, tmp_path / "python", [], ["numpy"]) as opened:
        stand_in, child = waiting(opened)
    child.wait(SECONDS)
    assert stand_in.wait(SECONDS) == -signal.SIGKILL


def test_a_zygote_that_cannot_import_is_lost_and_one_that_is_closed_is_not(tmp_path):
    with Zygote(tmp_path, tmp_path / "python", ["no_such_module"]) as broken:
        assert broken.lost()
    (tmp_path / "other").mkdir()
    with Zygote(tmp_path / "other", tmp_path / "python") as opened:
        pass
    assert not opened.lost()


def test_a_child_starts_processes_in_the_same_way(zygote):
    start = (
        "import multiprocessing, operator, sys\n"
        "with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "    print(pool.map(operator.neg, [1, 2, 3]))\n"
        '    print(pool.apply(eval, [\'"numpy" in __import__("sys").modules\']))\n'
    )
    done = ask(zygote, "-c", start)
    assert done.stdout == "[-1, -2, -3]\nTrue\n", done.stderr


def test_open_files_keep_their_numbers(zygote):
    reading, writing = os.pipe()
    with os.fdopen(reading) as answers:
        done = ask(zygote, "-c", f"import os; os.write({writing}, b'here')", pass_fds=[writing])
        os.close(writing)
        assert done.returncode == 0, done.stderr
        assert answers.read() == "here"  # nobody else holds the pipe open


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-u", "-c", "pass", "-x"], ("c", "pass", ["-x"])),
        (["-W", "ignore", "-m", "json"], ("m", "json", [])),
        (["-B", "file.py", "-c", "x"], ("script", "file.py", ["-c", "x"])),
    ],
)
def test_the_arguments_of_python(arguments, expected):
    assert parsed(arguments) == expected


def test_arguments_that_run_nothing():
    with pytest.raises(ValueError, match="names nothing to run"):
        parsed(["-u"])


def test_what_a_run_s_zygote_imports_at_once_leaves_ray_alone():
    """Ray reads the variables of its job when it is imported."""
    code = "import importlib, sys; from agentrl.train.zygote import EARLY\n"
    code += "for name in EARLY: importlib.import_module(name)\nassert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=SECONDS)
    assert "agentrl.train.agent_loop" in MODULES
