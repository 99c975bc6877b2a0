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


def execute(language: str, size: int) -> NoReturn:
    """Run the program whose text is the next ``size`` bytes of standard input, and end as it does."""
    text = worker.read_exactly(0, size)
    if language == "bash":
        os.execv("/bin/bash", [b"/bin/bash", b"-c", text.replace(b"\0", b"")])
    worker.prepare_streams()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the old one may have looked at its file
    sys.argv = [PATH]
    sys.path.insert(0, os.getcwd())
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__=PATH)
    sys.modules["__main__"] = main
    leave = os._exit  # the program may rebind the original
    _, code = worker.run(text.decode(errors="replace"), PATH, main.__dict__, show_last=False)
    for last_duty in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        try:
            last_duty()
        except BaseException as error:  # noqa: BLE001  the program's own
            worker.explain(error, PATH)
    worker.flush()
    leave(code)
