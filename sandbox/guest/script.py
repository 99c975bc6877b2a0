"""What a program of its own runs as, in a fork of the warm interpreter: Python as ``__main__``, or bash.

The program's text comes first on standard input, and what follows is its input. Everything here shares a
process with untrusted code.
"""

from __future__ import annotations

import atexit
import builtins
import os
import sys
import threading
import types
from typing import NoReturn

from . import worker

PATH = "/workspace/script.py"  # what the program is told that it is; there is no such file


def prepare() -> types.ModuleType:
    """All that can be done before the program and its streams are there: its ``__main__``, still empty.

    Standard input has to be a pipe already, as the program's will be: the stream looks at it.
    """
    worker.prepare_streams()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the old one may have looked at its file
    sys.argv = [PATH]
    sys.path.insert(0, os.getcwd())
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__=PATH)
    sys.modules["__main__"] = main
    return main


def execute(language: str, size: int, main: types.ModuleType | None = None) -> NoReturn:
    """Run the program whose text is the next ``size`` bytes of standard input, and end as it does.

    ``main``: what `prepare` gave; it is called here otherwise.
    """
    text = worker.read_exactly(0, size)
    if language == "bash":
        os.execv("/bin/bash", [b"/bin/bash", b"-c", text.replace(b"\0", b"")])
    namespace = (main or prepare()).__dict__
    leave = os._exit  # the program may rebind the original
    _, code = worker.run(text.decode(errors="replace"), PATH, namespace, show_last=False)
    for last_duty in (_end_threads, atexit._run_exitfuncs):
        try:
            last_duty()
        except BaseException as error:  # noqa: BLE001  the program's own
            worker.explain(error, PATH)
    worker.flush()
    leave(code)


def _end_threads() -> None:
    if threading.active_count() > 1:
        threading._shutdown()  # type: ignore[attr-defined]
