"""A session on servers that speak SandboxFusion's protocol, which keep nothing between calls."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from agentrl.errors import SandboxError, SandboxUnavailable, SessionLost, ToolError

from .protocol import DEFAULT_LIMITS, Limits, Result, Session, Status
from .remote_servers import Servers, Unreachable
from .wire_http import text_bytes

_FILE_SECONDS = 60.0
_FOLDER, _PROGRAM, _STDIN, _FILE = "folder.tar", "program", "stdin", "file"
_AS_BEFORE = "as they were before the call"
_UNENFORCED = ("cpu_seconds", "memory_mb", "processes", "inodes", "open_files")
_CALL = """\
here=$PWD; mkdir -p session || exit 125
if [ -s {folder} ]; then tar -xf {folder} -C session && rm {folder} || exit 125; fi
cd session
{command}
code=$?
cd "$here" && tar -cf packing -C session . && mv -f packing {folder} || exit 125
exit $code
"""
_PUT = 'mkdir -p -- "$(dirname -- {path})" && rm -f -- {path} && cp -- "$here/file" {path}'
_GET = """\
( if [ -L {path} ] || [ ! -f {path} ]; then echo "there is no such regular file" >&2; exit 1; fi
size=$(stat -c %s -- {path})
if [ "$size" -gt {most} ]; then echo "it has $size bytes, more than the {most} asked for" >&2; exit 1; fi
cp -- {path} "$here/file" )"""


class FusionSession(Session):
    """A working folder that travels: an archive that each call unpacks, and packs again when it has ended.

    The archive is kept on our side and never opened there. A call that is stopped leaves the files as they
    were before it. Programs in the background end with their call. `run_cell` is refused, since nothing could
    keep variables.

    Args:
        name: names it.
        servers: where calls go; each to any of them.
        limits: its limits. Those that only the server could hold are refused if stricter than the defaults.
        slack: seconds that an answer may take beyond the wall limit.
        forget: told when it is over.

    Raises:
        SandboxUnavailable: a limit that cannot be held there.
        ConfigError: a limit that makes no sense.
    """

    def __init__(
        self,
        name: str,
        servers: Servers,
        limits: Limits,
        slack: float,
        forget: Callable[[FusionSession], None],
        folder: str = "",
    ) -> None:
        _check(limits)
        self._id, self._servers, self._limits, self._slack, self._forget = (
            name,
            servers,
            limits,
            slack,
            forget,
        )
        self._folder = folder  # in base64, as it travels
        self._calling = asyncio.Lock()
        self._lost = ""
        self._forks = 0

    @property
    def id(self) -> str:
        return self._id

    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        raise SandboxUnavailable(
            "a SandboxFusion server keeps no interpreter between calls, so no cell could remember. "
            "Use run_script, or a server of protocol 'agentrl'."
        )

    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        if isinstance(command, str):
            return await self._run(f'bash "$here/{_PROGRAM}"', text_bytes(command), stdin, wall_seconds)
        return await self._run(shlex.join(command), b"", stdin, wall_seconds)

    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        return await self._run(f'python3 "$here/{_PROGRAM}"', text_bytes(code), stdin, wall_seconds)

    async def put(self, path: str, data: bytes) -> None:
        await self._file(path, _PUT.format(path=_quoted(path)), {_FILE: _packed(data)})

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        files = await self._file(path, _GET.format(path=_quoted(path), most=int(max_bytes)), {})
        data = _unpacked(files.get(_FILE) or "")
        if len(data) > max_bytes:
            raise ToolError(f"{path}: it has {len(data)} bytes, more than the {max_bytes} asked for")
        return data

    async def fork(self) -> FusionSession:
        async with self._calling:
            self._usable()
            self._forks += 1
            name = f"{self._id}.{self._forks}"
            return FusionSession(
                name, self._servers, self._limits, self._slack, lambda session: None, self._folder
            )

    async def close(self) -> None:
        self._lost, self._folder = self._lost or "it is closed", ""
        self._forget(self)

    async def _run(self, command: str, program: bytes, stdin: bytes, wall: float | None) -> Result:
        seconds = self._limits.wall_seconds if wall is None else wall
        files = {_PROGRAM: _packed(program), _STDIN: _packed(stdin)}
        answer = await self._call(f'{command} < "$here/{_STDIN}"', files, seconds)
        return self._result(answer, seconds)

    async def _file(self, path: str, command: str, files: dict[str, str]) -> dict[str, str]:
        answer = await self._call(command, files, _FILE_SECONDS)
        result = self._result(answer, _FILE_SECONDS)
        if result.status is Status.error:
            raise ToolError(f"{path}: {result.stderr.strip()[-500:] or result.detail}")
        if result.status is not Status.ok:
            raise SandboxError(f"{path} could not be moved: {result.status}: {result.detail}")
        return _files(answer)

    async def _call(self, command: str, files: dict[str, str], seconds: float) -> dict[str, Any]:
        request = {
            "language": "bash",
            "run_timeout": seconds,
            "code": _CALL.format(folder=_FOLDER, command=command),
            "fetch_files": [_FOLDER, _FILE],
        }
        async with self._calling:
            self._usable()
            request["files"] = {**files, **({_FOLDER: self._folder} if self._folder else {})}
            try:
                answer = await self._send(json.dumps(request).encode(), seconds + self._slack)
            except asyncio.CancelledError:
                self._lost = "a call was cancelled"
                raise
            self._usable()
            self._keep(answer)
        return answer

    async def _send(self, body: bytes, seconds: float) -> dict[str, Any]:
        """A call on the first server that can be reached. Nothing of a try is left on a server."""
        headers, problem = {"Content-Type": "application/json"}, None
        for server in self._servers.ranked(self._id):
            try:
                data = await self._servers.send(
                    "POST", server, "/run_code", body, seconds=seconds, headers=headers
                )
                return _answer(data, server)
            except Unreachable as failed:
                problem = failed
            except TimeoutError as failed:
                raise SandboxError(f"{server} did not answer in {seconds:.0f} s") from failed
        assert problem is not None
        raise problem

    def _keep(self, answer: dict[str, Any]) -> None:
        """The files as a call left them, if it ended by itself."""
        ran, folder = answer.get("run_result"), _files(answer).get(_FOLDER)
        if not isinstance(ran, dict) or ran.get("status") != "Finished" or (ran.get("return_code") or 0) < 0:
            return
        if not folder:
            raise ToolError(f"the server does not give back so many files; they are {_AS_BEFORE}")
        most = self._limits.disk_mb << 20
        if len(folder) * 3 // 4 > most + (most >> 2):  # an archive has a block around each file
            raise ToolError(f"the files need more than {self._limits.disk_mb} MB; they are {_AS_BEFORE}")
        self._folder = folder

    def _result(self, answer: dict[str, Any], seconds: float) -> Result:
        ran = answer.get("run_result")
        if answer.get("status") == "SandboxError" or not isinstance(ran, dict):
            raise SandboxError(f"the SandboxFusion server failed: {answer.get('message') or 'no result'}")
        most = self._limits.output_bytes
        outputs = [text_bytes(str(ran.get(stream) or "")) for stream in ("stdout", "stderr")]
        stdout, stderr = (output[:most].decode(errors="replace") for output in outputs)
        truncated = any(len(output) > most for output in outputs)
        took = float(ran.get("execution_time") or 0.0)
        if ran.get("status") == "TimeLimitExceeded":
            detail = f"stopped after {seconds:g} s of wall time; the files are {_AS_BEFORE}"
            return Result(Status.timeout, stdout, stderr, None, took, truncated, detail)
        code = ran.get("return_code")
        if ran.get("status") != "Finished" or not isinstance(code, int):
            raise SandboxError(f"the SandboxFusion server failed: {ran.get('status')}: {stderr[-500:]}")
        if code < 0:
            detail = f"ended by signal {-code}; the files are {_AS_BEFORE}"
            return Result(Status.crashed, stdout, stderr, code, took, truncated, detail)
        return Result(Status.ok if code == 0 else Status.error, stdout, stderr, code, took, truncated, "")

    def _usable(self) -> None:
        if self._lost:
            raise SessionLost(f"session {self._id} is gone: {self._lost}")


def _check(limits: Limits) -> None:
    if limits.network:
        raise SandboxUnavailable(
            "whether a SandboxFusion server gives a network is its own setting; use False"
        )
    limits.check()
    for name in _UNENFORCED:
        if getattr(limits, name) < getattr(DEFAULT_LIMITS, name):
            raise SandboxUnavailable(
                f"a SandboxFusion server takes no {name}: leave it at {getattr(DEFAULT_LIMITS, name)} or "
                "more, and set such limits on the server"
            )


def _quoted(path: str) -> str:
    """A path inside the working folder, for bash. Raises ToolError for any other."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ToolError(f"{path!r} is no path inside the working folder")
    return shlex.quote("./" + text_bytes(path).decode())


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unpacked(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as problem:
        raise SandboxError(f"the SandboxFusion server sent a file that is not base64: {problem}") from problem


def _files(answer: dict[str, Any]) -> dict[str, str]:
    files = answer.get("files")
    return files if isinstance(files, dict) else {}


def _answer(data: bytes, server: str) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "status" not in answer:
        raise SandboxError(f"{server}/run_code answered with something that is no RunCodeResponse")
    return answer
