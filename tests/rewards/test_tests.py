"""Judging a change by its tests: what passes, and every trick that must not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from agentrl import DataError, SandboxUnavailable, ToolContext
from agentrl.rewards import tests as judging
from agentrl.rewards.guarded import guarded_uses
from agentrl.rewards.tests import Suite, Verdict, carried_over, is_source, judge
from agentrl.sandbox import Limits, NamespaceSandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

WRONG = "def add(a, b):\n    return a - b\n\n\ndef twice(a):\n    return a * 2\n"
RIGHT = WRONG.replace("a - b", "a + b")
TESTS = """
from calc import add, twice

def test_add():
    assert add(1, 2) == 3

def test_more():
    assert add(5, -7) == -2 and [add(1, 1)] == [2]

def test_twice():
    assert twice(4) == 8
"""
BASE = {"calc.py": WRONG.encode(), "tests/test_calc.py": TESTS.encode()}
SUITE = Suite(
    fail_to_pass=["tests/test_calc.py::test_add", "tests/test_calc.py::test_more"],
    pass_to_pass=["tests/test_calc.py::test_twice"],
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context() -> AsyncIterator[ToolContext]:
    async with NamespaceSandbox() as sandbox:

        async def run(code, options, **how):
            limits = dict(options)
            preload = limits.pop("preload", ())
            return await sandbox.run(code, limits=Limits(**limits), preload=preload, **how)

        yield ToolContext(run_once=run)


async def judged(context, changes, *, suite=SUITE, base=BASE, **options) -> Verdict:
    encoded = {path: text if text is None else text.encode() for path, text in changes.items()}
    return await judge(context, base, encoded, suite, **{"seconds": 10.0, **options})


# ---- what should be -----------------------------------------------------------------------------


async def test_a_fix_passes_and_what_it_does_to_tests_does_not_count(context):
    assert (await judged(context, {"calc.py": RIGHT})).level == "passing"
    other = WRONG.replace("a - b", "sum([a, b])")
    both = {"calc.py": other, "tests/test_calc.py": "broken("}
    assert (await judged(context, both)).level == "passing"
    new_file = {
        "calc.py": "from inner.more import add\n\n\ndef twice(a):\n    return add(a, a)\n",
        "inner/__init__.py": "",
        "inner/more.py": "import operator\n\nadd = operator.add\n",
    }
    verdict = await judged(context, new_file)
    assert (verdict.level, verdict.changed) == ("passing", sorted(new_file))


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "empty", "No file was changed"),
        ({"calc.py": WRONG}, "empty", "but tests"),
        ({"calc.py": WRONG + "# looked at\n"}, "failing", "2 of 2 tests that should pass now"),
        ({"calc.py": RIGHT.replace("* 2", "* 3")}, "failing", "1 of 1 tests that passed before"),
        (
            {"calc.py": "def add(a, b):\n    return 3\n\n\ndef twice(a):\n    return 8\n"},
            "failing",
            "test_more",
        ),
        ({"calc.py": None}, "failing", "test_add"),
        ({"calc.py": "def add(:"}, "failing", "test_add"),
        ({"readme.md": "fixed"}, "failing", "test_add"),
    ],
)
async def test_what_is_no_fix_does_not_pass(context, changes, level, words):
    verdict = await judged(context, changes)
    assert verdict.level == level and words in verdict.detail


async def test_hidden_tests_take_the_place_of_those_in_the_repository(context):
    hidden = {"tests/test_calc.py": b"from calc import add\n\ndef test_new():\n    assert add(2, 2) == 4\n"}
    suite = Suite(fail_to_pass=["tests/test_calc.py::test_new"], files=hidden)
    assert (await judged(context, {"calc.py": RIGHT}, suite=suite)).level == "passing"
    assert (await judged(context, {"calc.py": WRONG + "#"}, suite=suite)).level == "failing"


async def test_classes_of_unittest_and_parameters_have_pytests_names(context):
    tests = (
        b"import unittest, pytest\nfrom calc import add\n"
        b"class TestAdd(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\n"
        b"@pytest.mark.parametrize('n', [1, 2])\ndef test_n(n):\n    assert add(n, n) == 2 * n\n"
        b"@pytest.mark.xfail\ndef test_x():\n    assert False\n"
    )
    names = ["TestAdd::test_a", "test_n[1]", "test_n[2]"]
    suite = Suite([f"tests/test_calc.py::{name}" for name in names], ["tests/test_calc.py::test_x"])
    base = {**BASE, "tests/test_calc.py": tests}
    assert (await judged(context, {"calc.py": RIGHT}, suite=suite, base=base)).level == "passing"
    assert (await judged(context, {"calc.py": WRONG + "#"}, suite=suite, base=base)).level == "failing"


# ---- what is not carried over -------------------------------------------------------------------

HOOKS = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""
NOT_CARRIED = {
    "edited tests": {
        "tests/test_calc.py": "def test_add(): pass\ndef test_more(): pass\ndef test_twice(): pass\n"
    },
    "deleted tests": {"tests/test_calc.py": None},
    "conftest.py": {"conftest.py": HOOKS},
    "conftest.py beside the tests": {"tests/conftest.py": HOOKS},
    "sitecustomize.py": {"sitecustomize.py": "import calc\ncalc.add = lambda a, b: a + b\n"},
    "usercustomize.py": {"src/usercustomize.py": "import os; os._exit(0)"},
    "pytest.ini": {"pytest.ini": "[pytest]\naddopts = --collect-only\n"},
    "pyproject.toml": {"pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-k nothing'\n"},
    "setup.cfg": {"setup.cfg": "[tool:pytest]\naddopts = --co\n", "tox.ini": "[pytest]\n"},
    "a module beside the tests": {"tests/calc.py": RIGHT},
    "compiled": {"calc.so": "x", "a.pth": "import os", "__pycache__/calc.cpython-311.pyc": "x"},
    "git": {".git/hooks/post-checkout": "exit 1"},
    "outside": {"../calc.py": RIGHT, "/calc.py": RIGHT, "a/../calc.py": RIGHT},
}


@pytest.mark.parametrize("name", NOT_CARRIED)
async def test_what_steers_the_tests_is_not_carried_over(context, name):
    assert (await judged(context, NOT_CARRIED[name], guard=False)).level == "empty"


@given(st.text(), st.sampled_from(["test_a.py", "conftest.py", "x.pyc", "a_test.py"]))
async def test_no_folder_makes_such_a_file_a_source(folder, name):
    assert not is_source(f"{folder}/{name}", Suite([]))


async def test_what_the_canonical_fix_changes_is_source_whatever_its_name():
    suite = Suite([], gold={"django/test/client.py": b"", "tests/t.py": b""}, files={"tests/t.py": b""})
    assert is_source("django/test/client.py", suite) and not is_source("tests/t.py", suite)
    assert not is_source("django/test/client.py", Suite([]))


async def test_only_differences_are_carried_over():
    changes = {"calc.py": WRONG.encode(), "b.py": None, "c.py": b"1"}
    assert carried_over(BASE, changes, SUITE) == {"c.py": b"1"}


# ---- code that goes for the runner --------------------------------------------------------------

ATTACKS = {
    "exits at import": "import os\nos._exit(0)\n",
    "exits politely at import": "raise SystemExit(0)\n",
    "exits when called": WRONG.replace("return a - b", "import os; os._exit(0)"),
    "exits after pytest's output": "import os\nprint('3 passed in 0.01s')\nos._exit(0)\n",
    "prints pytest's output": WRONG.replace("return a - b", "print('3 passed in 0.01s')"),
    "replaces the call of a test": "import _pytest.python as p\np.Function.runtest = lambda self: 0\n"
    + WRONG,
    "replaces the making of reports": (
        "import _pytest.reports as r\nmake = r.TestReport.from_item_and_call.__func__\n"
        "def always(cls, item, call):\n    call.excinfo = None\n    return make(cls, item, call)\n"
        "r.TestReport.from_item_and_call = classmethod(always)\n" + WRONG
    ),
    "replaces the parent's output": WRONG.replace(
        "return a - b", "import os; open(f'/proc/{os.getppid()}/fd/1', 'w').write('{}')"
    ),
    "kills the parent": WRONG.replace("return a - b", "import os; os.kill(os.getppid(), 9)"),
    "kills everything": WRONG.replace("return a - b", "import os; os.kill(-1, 9)"),
    "skips": WRONG.replace("return a - b", "import pytest; pytest.skip()"),
    "replaces the assertions": (
        "import builtins\n"
        + WRONG.replace("return a - b", "return 3\nbuiltins.AssertionError = ZeroDivisionError")
    ),
    "rewrites the tests": (
        "import pathlib\npathlib.Path('tests/test_calc.py').write_text('def test_add(): pass')\n" + WRONG
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_code_that_goes_for_the_runner_does_not_pass(context, name):
    """Neither with the guard, which refuses most of it unrun, nor without."""
    for guard in (True, False):
        verdict = await judged(context, {"calc.py": ATTACKS[name]}, guard=guard)
        assert verdict.level in ("refused", "failing"), (name, guard, verdict)


async def test_a_runner_that_passes_everything_is_found_out(context):
    verdict = await judged(context, {"calc.py": ATTACKS["replaces the call of a test"]}, guard=False)
    assert "tampered" in verdict.detail


REFUSED = {
    "an object that equals all": "class Any:\n    def __eq__(self, other):\n        return True\n",
    "equal by assignment": "class Any: pass\nAny.__eq__ = lambda self, other: True\n",
    "equal by type": "Any = type('Any', (), {'__eq__': lambda self, other: True})\n",
    "the caller's variables": "import sys\nadd = lambda a, b: sys._getframe(1).f_locals\n",
    "a traceback's frames": "try:\n    1 / 0\nexcept ValueError as e:\n    f = e.__traceback__.tb_frame\n",
    "a generator's frame": "g = (x for x in ())\nf = g.gi_frame.f_back\n",
    "what is loaded": "import gc\ngc.get_objects()\n",
    "subclasses": "().__class__.__base__.__subclasses__()\n",
    "a module within a module": "import collections\ncollections._sys.exit()\n",
    "the same, imported": "from random import _os\n",
    "code in a text": "eval('1')\n",
    "an attribute by name": "getattr(1, 'real')\n",
    "an attribute by path": "import operator\noperator.attrgetter('a.b')\n",
    "by a pattern": "match 1:\n    case object(__class__=c):\n        pass\n",
    "by format": "import string\nstring.Formatter().get_field('0.x', (1,), {})\n",
    "by an evaluated annotation": "import typing\ntyping.get_type_hints(1)\n",
    "the mocks": "from unittest.mock import ANY\nadd = lambda a, b: ANY\n",
    "equal by a computed name": "Any = type('Any', (), {'__' + 'eq__': lambda self, other: True})\n",
    "equal by a stripped name": "Any = type('Any', (), {'__eq__ '.strip(): lambda self, other: True})\n",
    "equal by the type of a type": "Any = type(int)('Any', (), {'__' + 'eq__': lambda self, other: True})\n",
    "equal by a kept type": "t = type(int)\nAny = t('Any', (), {'__' + 'eq__': lambda self, other: True})\n",
    "equal by a type handed on": "class K:\n    def __contains__(self, t):\n        K.t = t\ntype in K()\n",
    "equal by a metaclass": "class M(type): pass\nAny = M('Any', (), {'__' + 'eq__': lambda s, o: True})\n",
    "equal by an abstract class": "import abc\nAny = abc.ABCMeta('A', (), {'__' + 'eq__': max})\n",
    "equal by a made class": (
        "import dataclasses\nAny = dataclasses.make_dataclass("
        "'Any', [], namespace={'__' + 'eq__': lambda self, other: True}, eq=False)\n"
    ),
    "equal by an enumeration": "import enum\nAny = enum.Enum('A', {'A': 1, '__' + 'eq__': max}).A\n",
    "equal by a match": "class Any:\n    match add:\n        case __eq__:\n            pass\n",
    "code in an annotation": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    __annotations__ = {'a=print(1)': int}\n"
    ),
    "the line of the test": (
        "import dataclasses, json\n"
        "add = lambda a, b: json.loads(dataclasses.inspect.stack()[1].code_context[0].split('==')[1])\n"
    ),
    "the stack of a module at hand": "import inspect as i\nadd = lambda a, b: i.stack()\n",
    "the process by a pure module": "import contextlib\ncontextlib.os.kill(contextlib.os.getpid(), 9)\n",
    "the same, imported from it": "from contextlib import os as o\no.kill(o.getpid(), 9)\n",
    "the same, by a pattern": "import contextlib\nmatch contextlib:\n    case object(os=o):\n        o\n",
    "a path by a submodule": "from json.tool import Path\nPath('/proc/self/mem').read_bytes()\n",
    "frames by a format": "g = (x for x in ())\nf = '{0.gi_frame}'.format(g)\n",
    "frames by a computed format": "g = (x for x in ())\nf = ('{0.gi_' + 'frame}').format(g)\n",
    "too deep to be looked at": "x = " + "-" * 4000 + "1\n",
    "memory": "f = open('/proc/self/mem', 'r+b')\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_the_guard_refuses(context, name):
    source = WRONG + REFUSED[name]
    verdict = await judged(context, {"calc.py": source})
    assert verdict.level == "refused" and "newly uses" in verdict.detail


async def test_the_guard_reads_a_file_as_python_does(context):
    source = b"# coding: utf-7\n# +AAo-import os\n" + WRONG.encode()
    assert (await judge(context, BASE, {"calc.py": source}, SUITE)).level == "refused"


FORGED = """
import contextlib, json
reports = [[f"tests/test_calc.py::test_{n}", "call", "passed", ""] for n in ("add", "more", "twice")]
def add(a, b):
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            for name in contextlib.os.listdir("."):
                if name.startswith("test_"):
                    reports.append([f"{name}::test_control", "call", "failed", ""])
            contextlib.os.write(fd, b"\\n" + "".join(json.dumps(r) + "\\n" for r in reports).encode())
    LEAVE
def twice(a):
    return add(a, a)
"""


@pytest.mark.parametrize("leave", ["contextlib.os.kill(contextlib.os.getpid(), 9)", "contextlib.os._exit(0)"])
async def test_forged_reports_of_a_process_that_did_not_end_by_itself_count_nothing(context, leave):
    verdict = await judged(context, {"calc.py": FORGED.replace("LEAVE", leave)}, guard=False)
    assert verdict.level == "failing" and "ended before they did" in verdict.detail
    assert (await judged(context, {"calc.py": FORGED.replace("LEAVE", leave)})).level == "refused"


async def test_the_guard_lets_ordinary_fixes_pass():
    plain = (
        "import math\nfrom collections import defaultdict\nfrom .other import _inner\n\n\n"
        "class Counter:\n    def __init__(self):\n        self._n = 0\n"
        "    def __len__(self):\n        return self._n\n"
        'def f(x: int, *rest, key=None) -> \'list[int]\':\n    """Uses open and eval in words."""\n'
        "    with_all = [math.sqrt(y) for y in rest if y is not None]\n    return sorted(with_all, key=key)\n"
    )
    assert guarded_uses("", plain) == ["._inner"]
    assert guarded_uses("from .other import _inner\n", plain) == []
    assert guarded_uses("x = open('a')\n", "y = open('b')\n") == []  # the file did so before
    assert guarded_uses("", "import os\n") == ["import os"]
    assert guarded_uses("", "import os\n", {"import os"}) == []
    assert guarded_uses("", "not python (") == []
    types = "def f(x):\n    return type(x) is int or f'{type(x)}' + type(x).__name__\n"
    assert guarded_uses("", types + "x = '{:.2f} {a!r}'.format(1.5, a=2)\nstack = []\n") == []


async def test_what_the_canonical_fix_uses_any_fix_may(context):
    source = "import operator\nadd = getattr(operator, 'add')\n\n\ndef twice(a):\n    return 2 * a\n"
    assert (await judged(context, {"calc.py": source})).level == "refused"
    suite = Suite(SUITE.fail_to_pass, SUITE.pass_to_pass, gold={"calc.py": b"getattr(1, 'x')"})
    assert (await judged(context, {"calc.py": source}, suite=suite)).level == "passing"


# ---- limits and failures ------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["while True: pass", "import time; time.sleep(1000)"])
async def test_tests_that_hang_do_not_pass(context, loop):
    verdict = await judged(context, {"calc.py": WRONG.replace("return a - b", loop)}, seconds=0.5)
    assert verdict.level == "failing" and "timeout" in verdict.detail


async def test_a_process_left_behind_holds_nothing_up(context):
    code = RIGHT + "import os\nif os.fork() == 0:\n    import time; os.setsid(); time.sleep(1000)\n"
    assert (await judged(context, {"calc.py": code}, guard=False)).level == "passing"


async def test_too_much_memory_does_not_pass(context):
    code = WRONG.replace("return a - b", "return len('x' * (1 << 30)) and a + b")
    verdict = await judged(context, {"calc.py": code}, memory_mb=256)
    assert verdict.level == "failing"


async def test_a_repository_that_is_too_large_is_an_error_of_the_data(context, monkeypatch):
    monkeypatch.setattr(judging, "MOST_ARCHIVE", 4096)
    with pytest.raises(DataError, match="is the most"):
        await judged(context, {"calc.py": RIGHT})


async def test_without_a_sandbox_nothing_is_judged():
    with pytest.raises(SandboxUnavailable):
        await judge(ToolContext(), BASE, {"calc.py": RIGHT.encode()}, SUITE)
