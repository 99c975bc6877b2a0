"""Comparing two formulas with math-verify, in a helper process that can be stopped.

math-verify stands on sympy, which can think for hours about a hostile formula, and its own time
limits use signals, which work in a main thread only. The helper is started when a formula is
first compared, kept for the next ones, and killed when one takes too long.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import resource
import selectors
import subprocess
import sys
import threading

from agentrl import ConfigError, InfrastructureError

SECONDS = 3.0
"""Time limit of one comparison; running into it means "not equal"."""

START_SECONDS = 60.0
MEMORY_BYTES = 2 << 30


class FormulaJudge:
    """The helper process, shared by the threads of this process."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def same(self, given: str, gold: str) -> bool:
        """Whether two LaTeX formulas are equal; ``False`` if that takes too long or too much memory.

        Raises:
            ConfigError: math-verify is not installed.
            InfrastructureError: the helper does not start.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._stop()  # something else ended it; that says nothing about this formula
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([given, gold]).encode() + b"\n")
                process.stdin.flush()
                verdict = self._read(process, self.seconds)
            except BrokenPipeError:
                verdict = ""
            if not verdict:
                self._stop()
            return verdict == "equal"

    def close(self) -> None:
        """Stop the helper."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError("Comparing formulas needs math-verify: pip install 'agentrl[math]'.")
        # -P: a file called math.py lies beside this one and must not hide Python's own.
        command = [sys.executable, "-P", "-m", "agentrl.rewards.formulas"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment, bufsize=0
        )
        self._process = process
        if self._read(process, START_SECONDS) != "ready":
            self._stop()
            raise InfrastructureError(
                f"The process that compares formulas did not start ({' '.join(command)}). "
                "Run the command by hand to see what it says."
            )
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    @staticmethod
    def _read(process: subprocess.Popen[bytes], seconds: float) -> str:
        """One line from the helper; empty if it died or the time is up. A line is one write."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return ""
        return os.read(process.stdout.fileno(), 64).decode().strip()


@functools.cache
def judge() -> FormulaJudge:
    """This process's judge; its helper ends with the process."""
    made = FormulaJudge()
    atexit.register(made.close)
    return made


os.register_at_fork(after_in_child=judge.cache_clear)  # two processes must not share one helper


def serve() -> None:
    """Answer comparisons from standard input until it closes."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    reading = [LatexExtractionConfig(boxed_match_priority=0)]
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no verdict

    def same(pair: list[str]) -> bool:
        try:
            given, gold = (
                parse(rf"\boxed{{{text}}}", reading, fallback_mode="no_fallback", parsing_timeout=None)
                for text in pair
            )
            return bool(given and gold and verify(gold, given, timeout_seconds=None))
        except Exception:  # whatever a formula does to the parser, it is not the wanted one
            return False

    same(["x^2+2x+1", "(x+1)^2"])  # the first one loads and compiles much, which is not the formula's fault
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        equal = same(json.loads(line))
        answers.write("equal\n" if equal else "different\n")
        answers.flush()


if __name__ == "__main__":
    serve()
