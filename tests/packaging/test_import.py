"""Importing the vocabulary stays light: it is on the path of every tool, every server and every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

HEAVY = ["torch", "verl", "ray", "vllm", "transformers"]
LIMIT_SECONDS = 0.3  # a promise of the project to its users, hence the one timing that a test asserts


def import_once() -> tuple[float, list[str]]:
    code = f"""if True:
        import json, sys, time
        start = time.perf_counter()
        import agentrl
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    seconds, heavy = json.loads(done.stdout)
    return seconds, heavy


def test_import_is_light() -> None:
    runs = [import_once() for _ in range(5)]
    assert runs[0][1] == []
    assert min(seconds for seconds, _ in runs) < LIMIT_SECONDS
