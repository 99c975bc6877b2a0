"""SandboxFusion's protocol: run a program, or the cells of a notebook, and tell how it went."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl.serve.host import CallAnswer, CallRequest, ToolHost

LANGUAGES = ("python", "bash")
MOST_CELLS = 256
MOST_FILES = 64
"""That a program brings, and that are fetched."""
_OVER = -9
"""Return code of a program that was ended for going over a limit other than time, as of one killed."""

Status = Literal["Success", "Failed", "SandboxError"]


class Wire(BaseModel):
    """Unknown keys are ignored: servers of this protocol differ in them."""

    model_config = ConfigDict(extra="ignore")


class RunCode(Wire):
    """Body of ``POST /run_code``."""

    code: str
    language: str
    compile_timeout: float = Field(10, description="not used: no language here is compiled")
    run_timeout: float = Field(10, gt=0, description="seconds")
    stdin: str | None = None
    files: dict[str, str | None] = Field(
        default_factory=dict, max_length=MOST_FILES, description="base64 by path"
    )
    fetch_files: list[str] = Field(default_factory=list, max_length=MOST_FILES)


class RunJupyter(Wire):
    """Body of ``POST /run_jupyter``."""

    cells: list[str] = Field(max_length=MOST_CELLS)
    cell_timeout: float = Field(0, ge=0, description="seconds; 0: no limit but that of all cells")
    total_timeout: float = Field(45, gt=0, description="seconds")
    kernel: Literal["python3"] = "python3"
    files: dict[str, str] = Field(default_factory=dict)
    fetch_files: list[str] = Field(default_factory=list)


class CommandResult(Wire):
    """How one command went."""

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class CodeRan(Wire):
    """Answer of ``POST /run_code``."""

    status: Status
    message: str = ""
    compile_result: CommandResult | None = None
    run_result: CommandResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


class CellResult(Wire):
    """What a cell showed."""

    stdout: str = ""
    stderr: str = ""
    display: list[dict[str, Any]] = Field(default_factory=list)
    error: list[dict[str, Any]] = Field(default_factory=list)


class CellsRan(Wire):
    """Answer of ``POST /run_jupyter``."""

    status: Status
    message: str = ""
    driver: CommandResult | None = None
    cells: list[CellResult] = Field(default_factory=list)
    executor_pod_name: str | None = None
    files: dict[str, str] = Field(default_factory=dict)


def routes(host: ToolHost) -> list[web.RouteDef]:
    """The endpoints ``/run_code`` and ``/run_jupyter``."""
    served = SandboxFusion(host)
    return [web.post("/run_code", served.run_code), web.post("/run_jupyter", served.run_jupyter)]


class SandboxFusion:
    """The endpoints' handlers. What machinery does is raised, never answered as a program's result."""

    def __init__(self, host: ToolHost) -> None:
        self._host = host

    async def run_code(self, request: web.Request) -> web.Response:
        """Run a program in an empty sandbox of its own."""
        try:
            wanted = RunCode.model_validate_json(await request.read())
        except ValidationError as problem:
            return _unprocessable(problem)
        return _json(await self._run_code(wanted))

    async def _run_code(self, wanted: RunCode) -> CodeRan:
        if wanted.language not in LANGUAGES:
            known = " and ".join(LANGUAGES)
            return CodeRan(
                status="SandboxError", message=f"{wanted.language!r} is not run here; {known} are."
            )
        if not await self._has("code"):
            return CodeRan(status="SandboxError", message="This server has no tool `code`.")
        arguments: dict[str, Any] = {
            "code": wanted.code,
            "language": wanted.language,
            "stdin": wanted.stdin or "",
            "seconds": wanted.run_timeout,
        }
        if wanted.files:
            arguments["files"] = {path: data for path, data in wanted.files.items() if data is not None}
        if wanted.fetch_files:
            arguments["fetch"] = wanted.fetch_files
        answer = await self._host.call(CallRequest("code", arguments))
        facts = answer.observation.metadata
        if "status" not in facts and answer.status != "timeout":
            return CodeRan(status="SandboxError", message=answer.observation.text)
        run = _result(answer)
        files = facts.get("files", {})
        missing = [path for path in wanted.fetch_files if path not in files]
        return CodeRan(
            status="Success" if run.return_code == 0 else "Failed",
            message=f"not there, or too large: {', '.join(missing)}" if missing else "",
            run_result=run,
            files=files,
        )

    async def run_jupyter(self, request: web.Request) -> web.Response:
        """Run cells one after the other, in one interpreter; the first that fails is the last."""
        try:
            wanted = RunJupyter.model_validate_json(await request.read())
        except ValidationError as problem:
            return _unprocessable(problem)
        if wanted.files or wanted.fetch_files:
            return _json(CellsRan(status="SandboxError", message="Cells take no files here; use /run_code."))
        if not await self._has("python"):
            return _json(CellsRan(status="SandboxError", message="This server has no tool `python`."))
        session = f"jupyter-{uuid.uuid4().hex}"
        await self._host.open(session)
        try:
            return _json(await self._run_cells(session, wanted))
        finally:
            await self._host.end(session)

    async def _run_cells(self, session: str, wanted: RunJupyter) -> CellsRan:
        cells: list[CellResult] = []
        left, spent, status = wanted.total_timeout, 0.0, "ok"
        for number, code in enumerate(wanted.cells):
            seconds = min(left, wanted.cell_timeout or left)
            answer = await self._host.call(
                CallRequest("python", {"code": code}, session, str(number), seconds)
            )
            facts = answer.observation.metadata
            status = "timeout" if answer.status == "timeout" else str(facts.get("status", "error"))
            used = float(facts.get("seconds", seconds))
            left, spent = left - used, spent + used
            cells.append(_cell(answer, status))
            if status != "ok":
                break
            if left <= 0 and number + 1 < len(wanted.cells):
                status = "timeout"
                break
        over = status == "timeout"
        driver = CommandResult(
            status="TimeLimitExceeded" if over else "Finished",
            execution_time=spent,
            return_code=None if over else 0,
        )
        return CellsRan(status="Failed" if over else "Success", driver=driver, cells=cells)

    async def _has(self, tool: str) -> bool:
        return tool in {schema["function"]["name"] for schema in await self._host.schemas()}


def _result(answer: CallAnswer) -> CommandResult:
    """A call of ``code`` as a command: a limit other than time looks like the program's being killed."""
    facts = answer.observation.metadata
    status = facts.get("status", "timeout")
    result = CommandResult(
        status="TimeLimitExceeded" if status == "timeout" else "Finished",
        execution_time=facts.get("seconds", answer.seconds),
        stdout=facts.get("stdout", ""),
        stderr=facts.get("stderr", ""),
    )
    if status == "timeout":
        return result
    exit_code = facts["exit_code"]
    if status not in ("ok", "error"):
        result.stderr = "\n".join(filter(None, [facts["stderr"].rstrip("\n"), facts["detail"]]))
        exit_code = exit_code or _OVER
    result.return_code = _OVER if exit_code is None else exit_code
    return result


def _cell(answer: CallAnswer, status: str) -> CellResult:
    facts = answer.observation.metadata
    shown = CellResult(stdout=facts.get("stdout", ""), stderr=facts.get("stderr", ""))
    if status != "ok":
        trace = shown.stderr if status == "error" and shown.stderr else answer.observation.text
        name, _, value = trace.rstrip().rpartition("\n")[2].partition(": ")
        shown.stderr, shown.error = "", [{"ename": name, "evalue": value, "traceback": trace.splitlines()}]
    return shown


def _unprocessable(problem: ValidationError) -> web.Response:
    detail = problem.errors(include_url=False, include_context=False, include_input=False)
    return web.json_response({"detail": detail}, status=422)


def _json(answer: BaseModel) -> web.Response:
    return web.Response(text=answer.model_dump_json(), content_type="application/json")
