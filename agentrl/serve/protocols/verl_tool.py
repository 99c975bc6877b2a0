"""verl-tool's protocol: a batch of models' outputs in, an observation for each out.

Its trainer posts what the model wrote, and the server finds the tool call in it. The forms of the answers are
those of verl-tool's own tools, since models and reward functions are written for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentrl.errors import UsageError
from agentrl.rollout.waiting import all_of
from agentrl.serve.host import CallAnswer, CallRequest, ToolHost

MOST_ACTIONS = 4096
BLOCKED = "Execution blocked: Code contains potentially dangerous operations or imports."

_TAGGED = re.compile(r"<python>(.*?)</python>", re.DOTALL)
_FENCED = re.compile(r"```\n?(?:python3?|py)\b(.*?)```", re.DOTALL)
_STDIN = re.compile(r"```input\n(.*?)\n```", re.DOTALL)
_SEARCH = re.compile(r"<search>(.*?)</search>", re.DOTALL)
_ANSWER = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_FILTERED = re.compile(
    r"(?:import|from) (?:subprocess|multiprocessing|threading|socket|psutil|resource|ctypes)"
    r"|os\.(?:system|popen|spawn|fork|exec|_exit|kill)|sys\.exit"
)


class Batch(BaseModel):
    """Body of ``POST /get_observation``; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    trajectory_ids: list[str] = Field(min_length=1, max_length=MOST_ACTIONS)
    actions: list[str] = Field(description="what each model wrote")
    extra_fields: list[dict[str, Any]] | None = Field(None, description="of which `stdin` is used")
    finish: list[bool] = Field(default_factory=list, description="ends the trajectory; missing: false")
    is_last_step: list[bool] = Field(default_factory=list, description="not used")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for name in ("actions", "extra_fields"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.trajectory_ids):
                raise ValueError(f"{len(given)} {name} for {len(self.trajectory_ids)} trajectory_ids")
        return self


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trajectory is told."""

    observation: str | dict[str, str]
    done: bool = False
    valid: bool = True


Work = Callable[[], Any]
"""Makes the coroutine that gives an action's outcome."""


def routes(host: ToolHost, *, text_filter: bool = True, seconds: float = 10.0) -> list[web.RouteDef]:
    """The endpoint ``/get_observation``.

    Args:
        text_filter: answer code in which verl-tool's word list finds something as verl-tool does, without
            running it. The list is no protection, and refuses harmless code; the sandbox is what protects.
        seconds: after how long code is stopped.
    """
    return [web.post("/get_observation", VerlTool(host, text_filter, seconds).get_observation)]


class VerlTool:
    """The endpoint's handler, and the tools of verl-tool's that the host can stand for."""

    def __init__(self, host: ToolHost, text_filter: bool, seconds: float) -> None:
        self._host, self._text_filter, self._seconds = host, text_filter, seconds
        # By the name of our tool: verl-tool's name, what it says of itself, and what reads an action for it.
        # The first one that can read an action gets it. The words are verl-tool's, whatever the sandbox is:
        # policies were trained on them.
        self._tools: Mapping[str, tuple[str, str, Callable[[str, Mapping[str, Any]], Work | None]]] = (
            MappingProxyType(
                {
                    "search": (
                        "search_retrieval",
                        "You can search for information by putting your query between <search> and </search> "
                        "tags.",
                        self._read_search,
                    ),
                    "code": (
                        "python_code",
                        "You are able to write and execute Python code securely inside a sandbox.",
                        self._read_code,
                    ),
                }
            )
        )

    async def get_observation(self, request: web.Request) -> web.Response:
        """The observations for a batch of actions."""
        try:
            batch = Batch.model_validate_json(await request.read())
        except ValidationError as problem:
            detail = problem.errors(include_url=False, include_context=False, include_input=False)
            return web.json_response({"detail": detail}, status=422)
        offered = {schema["function"]["name"] for schema in await self._host.schemas()}
        extras = batch.extra_fields or [{}] * len(batch.actions)
        finish = batch.finish + [False] * len(batch.actions)
        works = [
            self._answer(offered, *one)
            for one in zip(batch.trajectory_ids, batch.actions, extras, finish, strict=False)
        ]
        # One that fails for a machine's reason fails the batch: there is no form here for "no observation".
        outcomes = await all_of(works, rank=lambda problem: 0 if isinstance(problem, UsageError) else 1)
        return web.json_response(
            {
                "observations": [outcome.observation for outcome in outcomes],
                "dones": [outcome.done for outcome in outcomes],
                "valids": [outcome.valid for outcome in outcomes],
            }
        )

    async def _answer(
        self, offered: set[str], trajectory: str, action: str, extra: Mapping[str, Any], finish: bool
    ) -> Outcome:
        if finish:
            await self._host.end(trajectory)
            return Outcome("", done=True)
        for name, (_, _, read) in self._tools.items():
            if name in offered and (work := read(action, extra)) is not None:
                outcome: Outcome = await work()
                return outcome
        known = [
            f"• {theirs}: {usage}" for name, (theirs, usage, _) in self._tools.items() if name in offered
        ]
        return Outcome(
            {
                "obs": "",
                "invalid_reason": "No valid tool found for action",
                "available_tools": "\n".join(["Available tools:", *known]),
            },
            valid=False,
        )

    # ---- python_code

    def _read_code(self, action: str, extra: Mapping[str, Any]) -> Work | None:
        blocks = _TAGGED.findall(action) or _FENCED.findall(action)
        if not blocks:
            return None
        block = _STDIN.search(action)
        given = extra.get("stdin")
        stdin = block[1].strip() if block else given if isinstance(given, str) else ""
        return partial(self._run, action, "\n".join(part.strip() for part in blocks), stdin)

    async def _run(self, action: str, code: str, stdin: str) -> Outcome:
        if self._text_filter and _FILTERED.search(code):
            return Outcome(presented(action, BLOCKED))
        arguments = {"code": code, "stdin": stdin, "seconds": self._seconds}
        answer = await self._host.call(CallRequest("code", arguments))
        return Outcome(presented(action, printed(answer, self._seconds)))

    # ---- search_retrieval

    def _read_search(self, action: str, extra: Mapping[str, Any]) -> Work | None:
        queries = _SEARCH.findall(action)
        if queries:
            return partial(self._search, queries[-1].strip())
        return self._answered if _ANSWER.search(action) and not _code_in(action) else None

    async def _search(self, query: str) -> Outcome:
        answer = await self._host.call(CallRequest("search", {"query": query}))
        found = answer.observation
        valid = answer.status == "ok"
        return Outcome(f"\n\n<information>{found.text.strip()}</information>\n\n", valid=valid)

    async def _answered(self) -> Outcome:
        """An answer in Search-R1's tags ends the trajectory, and is no call."""
        return Outcome("", done=True, valid=False)


def printed(answer: CallAnswer, seconds: float) -> str:
    """What code printed, stdout before stderr, and why it ended if it did not by itself."""
    facts = answer.observation.metadata
    if answer.status == "timeout" or facts.get("status") == "timeout":
        why = f"Execution timed out after {seconds:g} seconds."
    elif "stdout" not in facts:
        why = answer.observation.text
    elif facts["status"] in ("ok", "error"):
        why = ""
    else:
        why = str(facts["detail"])
    errors = str(facts.get("stderr", ""))
    if errors and why and not errors.endswith("\n"):
        errors += "\n"
    return f"{facts.get('stdout', '')}\n{errors}{why}".strip(" \n")


def presented(action: str, output: str) -> str:
    """Output in the marks that fit those of the action it answers."""
    if "</tool_call>" in action:
        return f"\n<tool_response>\n```result\n{output}\n```\n</tool_response>\n"
    end = action.rstrip(" \n")
    if end.endswith("```output"):  # the model opened the block itself
        return f"\n{output}\n```\n"
    if end.endswith("<result>"):
        return f"\n{output}\n</result>\n"
    if "```python" in action:
        return f"\n```result\n{output}\n```\n" if action.count("```") % 2 == 0 else f"result\n{output}\n```\n"
    return f"\n<result>\n{output}\n</result>\n"


def _code_in(action: str) -> bool:
    return bool(_TAGGED.search(action) or _FENCED.search(action))
