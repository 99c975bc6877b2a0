"""Runs in the sandbox: pytest in a child process, of which nothing is believed but what its reports say.

On stdin: the length of a request in four bytes, the request, and an archive to unpack first, if any. The
child's output goes nowhere; every report of a test goes through a pipe, and a mark at the end of all. A test
that was not reported did not pass, and a child that left without its mark or by a signal has not finished, so
it gains nothing to end the process. The parent runs no code of the repository and alone writes on
stdout.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

TICK = 0.05  # seconds between looks at whether the child has ended
MOST_REPORTS = 8 << 20  # bytes


def unpack(archive: bytes) -> None:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(".", filter="fully_trusted")  # noqa: S202 - made by the host, of plain files


def hide() -> None:
    """Keep the child, which has our user, from our memory and descriptors (PR_SET_DUMPABLE)."""
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


class Reporter:
    """A plugin of pytest's that writes each report as a line."""

    def __init__(self, pipe: int, most: int) -> None:
        self._write, self._pipe, self._dumps, self._most = os.write, pipe, json.dumps, most

    def _tell(self, name: str, phase: str, outcome: str, text: str) -> None:
        line = self._dumps([name, phase, outcome, text[-self._most :]]) + "\n"
        data = line.encode(errors="replace")
        while data:
            data = data[self._write(self._pipe, data) :]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if outcome == "skipped" else "xpassed"
        text = report.longreprtext if outcome == "failed" else ""
        self._tell(report.nodeid, report.when, outcome, text)

    def end(self, mark: str) -> None:
        self._tell(mark, "end", "", "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome == "failed":
            self._tell(report.nodeid, "collect", "failed", report.longreprtext)


def place_of_repository() -> int:
    """Where in sys.path the repository goes: before installed packages, after Python's own."""
    for index, folder in enumerate(sys.path):
        if os.path.basename(folder) in ("site-packages", "dist-packages"):
            return index
    return len(sys.path)


def child(request: dict[str, Any], pipe: int, mark: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    here = os.getcwd()
    sys.path[:] = [folder for folder in sys.path if folder not in ("", here)]
    place = place_of_repository()
    sys.path[place:place] = [folder for folder in (f"{here}/src", here) if os.path.isdir(folder)]
    import pytest

    arguments = [
        "-p", "no:cacheprovider", "-q", "--tb=short", "--no-header", "--rootdir=.",
        *request["options"], *request["run"],
    ]  # fmt: skip
    reporter = Reporter(pipe, request["most"])
    pytest.main(arguments, plugins=[reporter])
    reporter.end(mark)


def start(request: dict[str, Any], mark: str) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setpgid(0, 0)
        try:
            child(request, writer, mark)
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def watch(pid: int, reader: int, seconds: float) -> tuple[bytes, str]:
    """What came through the pipe until the child ended, and how it ended."""
    deadline = time.monotonic() + seconds
    data, ended, over = bytearray(), "", False
    while not ended:
        ready, _, _ = select.select([reader], [], [], TICK)
        if ready:
            piece = os.read(reader, 1 << 16)
            data += piece
            if not piece:
                time.sleep(TICK / 10)
        if len(data) > MOST_REPORTS:
            ended = "too many reports"
        elif time.monotonic() > deadline:
            ended = "timeout"
        else:
            found, status = os.waitpid(pid, os.WNOHANG)
            if over := found == pid:
                ended = "finished" if status == 0 else "stopped"
    stop(pid)  # it, or whatever it has left behind
    if not over:
        os.waitpid(pid, 0)
    while select.select([reader], [], [], 0)[0] and len(data) <= MOST_REPORTS:
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        data += piece
    return bytes(data), ended


def stop(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def summed_up(data: bytes, mark: str) -> dict[str, Any]:
    """Of each test the worst outcome of its phases, what a failure said, and whether the mark was there."""
    marked = False
    outcomes: dict[str, str] = {}
    messages: dict[str, str] = {}
    called: set[str] = set()
    for line in data.decode(errors="replace").splitlines():
        try:
            name, phase, outcome, text = json.loads(line)
        except ValueError:
            continue
        if name == mark:
            marked = True
            continue
        if phase == "call":
            called.add(name)
        if outcomes.get(name) in (None, "passed"):
            outcomes[name] = outcome
        if text and name not in messages:
            messages[name] = text
    # a test whose call was not reported did not run to its end
    ran = {name: outcome for name, outcome in outcomes.items() if outcome != "passed" or name in called}
    return {"outcomes": ran, "messages": messages, "marked": marked}


def main() -> None:
    sent = sys.stdin.buffer.read()
    (size,) = struct.unpack_from(">I", sent)
    request = json.loads(sent[4 : 4 + size])
    if archive := sent[4 + size :]:
        unpack(archive)
    hide()
    mark = os.urandom(16).hex()
    pid, reader = start(request, mark)
    data, ended = watch(pid, reader, request["seconds"])
    told = summed_up(data, mark)
    if not told.pop("marked") and ended == "finished":
        ended = "stopped"
    detail = "the process of the tests ended before they did" if ended == "stopped" else ""
    sys.stdout.write(json.dumps({**told, "ended": ended, "detail": detail}) + "\n")


if __name__ == "__main__":
    main()
