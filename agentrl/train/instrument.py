"""Another model puts prints into the policy's programs before they run (``algorithm.rollout``)."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field

from agentrl.algorithms.partial_credit import MARK, instrumented
from agentrl.errors import NoVerdict
from agentrl.observation import Observation
from agentrl.rewards.endpoint import Endpoint, endpoint_of
from agentrl.rollout.control_part import Control
from agentrl.tool import Tool

MARKS = "marks"
"""In an observation's metadata: what the prints said, a line each."""

MOST_CHARACTERS = 20_000
"""Longer programs run as they are."""

WORDS = f"""Put progress reports into a Python program and change nothing else in it. Behind what does so, on
a line of its own with the same indentation, put whichever of these apply, as they are:
print("{MARK} imported packages")
print("{MARK} loaded data")
print("{MARK} defined model")
print("{MARK} training loss")
print("{MARK} trained model")
print("{MARK} evaluated")
print("{MARK} wrote submission")
Answer with the whole program between ```python and ```, and with nothing else.

```python
{{program}}
```"""

_FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)\n?```", re.DOTALL)


class Instrument(Control):
    """A frozen model's prints show how far a program came; they earn partial credit.

    Source: arXiv:2509.01684.

    Its version runs only if it is the same program but for the prints, else the policy's own does, as where
    the model does not answer in time. The policy is not shown what the prints say, and cannot say it itself,
    for each begins with a word that is drawn anew for each call.
    """

    endpoint: dict[str, Any] = Field(
        description="of the model, as agentrl.rewards.endpoint.Endpoint takes it"
    )
    tool: str = Field("python", description="whose calls are programs")
    argument: str = Field("code", description="of the tool, which is the program")
    seconds: float = Field(10.0, gt=0, description="that the model may take; part of the call's own limit")
    words: str = Field(WORDS, pattern=r"\{program\}", description="what it is told")

    @cached_property
    def _model(self) -> Endpoint:
        return endpoint_of({"max_tokens": 2048, "retries": 0, **self.endpoint}, "rollout")

    def model_post_init(self, _context: Any) -> None:
        """Make the endpoint now, so that what does not fit is told before anything starts."""
        self._model  # noqa: B018

    def held_out(self) -> Control:
        """Nothing: success is the environment's there."""
        return Control()

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Make a call; of a program with the model's prints in it, where there are any.

        Raises:
            ConfigError: the model cannot be asked at all.
        """
        program = arguments.get(self.argument)
        if tool.name != self.tool or not isinstance(program, str) or len(program) > MOST_CHARACTERS:
            return await super().invoke(tool, arguments)
        mark = f"{MARK}-{secrets.token_hex(8)}"
        changed = instrumented(program, await self._answer(program), mark)
        if changed is None:
            return await super().invoke(tool, arguments)
        return without(
            Observation.of(await super().invoke(tool, {**arguments, self.argument: changed})), mark
        )

    async def _answer(self, program: str) -> str:
        """The model's version; empty where it gives none."""
        words = self.words.replace("{program}", program)
        try:
            async with asyncio.timeout(self.seconds):
                said = await self._model.ask([{"role": "user", "content": words}])
        except (NoVerdict, TimeoutError):
            return ""
        fenced = _FENCED.search(said)
        return fenced[1] if fenced else said


def without(observation: Observation, mark: str) -> Observation:
    """The observation without the lines of the prints, which go to its metadata."""
    text, found = _split(observation.text, mark)
    metadata = {
        name: _split(value, mark)[0] if isinstance(value, str) else value
        for name, value in observation.metadata.items()
    }
    return dataclasses.replace(observation, text=text, metadata={**metadata, MARKS: "\n".join(found)})


def _split(text: str, mark: str) -> tuple[str, list[str]]:
    kept, found = [], list[str]()
    for line in text.splitlines(keepends=True):
        before, there, words = line.partition(mark)
        if there:
            found.append(words.strip())
            line = before
        kept.append(line)
    return "".join(kept), found
