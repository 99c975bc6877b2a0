"""The JSON that travels between the tool server and its clients."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentrl import errors
from agentrl.errors import AgentRLError, InfrastructureError, ServerBusy
from agentrl.observation import Image, Observation
from agentrl.serve.host import CallAnswer, CallRequest
from agentrl.task import Task


class Wire(BaseModel):
    """A message; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class WireTask(Wire):
    """What an episode is about."""

    prompt: str = ""
    answer: Any = None
    id: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class OpenSession(Wire):
    """Body of ``POST /v1/sessions/{session}``."""

    task: WireTask | None = Field(None, description="for tools that ask what the episode is about")
    tools: list[str] = Field(default_factory=list, description="names of the tools it may call; empty: all")

    def to_task(self) -> Task | None:
        """The task, if one was given."""
        return None if self.task is None else Task(**self.task.model_dump())


class Call(Wire):
    """Body of ``POST /v1/calls`` and ``POST /v1/sessions/{session}/calls``."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    id: str = Field(
        "", max_length=200, description="the same id again gets the first answer; empty: never repeated"
    )
    seconds: float | None = Field(None, gt=0, description="after which the work is stopped")

    def to_request(self, session: str) -> CallRequest:
        """As a host takes it."""
        return CallRequest(self.tool, self.arguments, session, self.id, self.seconds)


class WireImage(Wire):
    """An encoded picture."""

    media_type: str
    data: str = Field(description="the file, in base64")

    @field_validator("data")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error as problem:
            raise ValueError(f"not base64: {problem}") from None
        return value


class WireObservation(Wire):
    """What the model is shown, and metadata for rewards."""

    text: str = ""
    images: list[WireImage] = Field(default_factory=list)
    error: bool = False
    done: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, seen: Observation) -> WireObservation:
        """An observation in the form that travels."""
        images = [
            WireImage(media_type=image.media_type, data=base64.b64encode(image.data).decode())
            for image in seen.images
        ]
        metadata = dict(seen.metadata)
        return cls(text=seen.text, images=images, error=seen.error, done=seen.done, metadata=metadata)

    def to_observation(self) -> Observation:
        """The observation again."""
        images = tuple(Image(base64.b64decode(image.data), image.media_type) for image in self.images)
        return Observation(self.text, images, self.error, self.done, self.metadata)


class Answer(Wire):
    """The answer to a call."""

    status: str = Field(description="ok, error, malformed, unknown, invalid, timeout or raised")
    observation: WireObservation
    seconds: float = 0.0
    replayed: bool = Field(False, description="whether an earlier request with the same id was answered so")

    @classmethod
    def of(cls, answer: CallAnswer) -> Answer:
        """A host's answer in the form that travels."""
        return cls(
            status=answer.status,
            observation=WireObservation.of(answer.observation),
            seconds=answer.seconds,
            replayed=answer.replayed,
        )

    def to_answer(self) -> CallAnswer:
        """As a host gives it."""
        return CallAnswer(
            self.status,  # type: ignore[arg-type]
            self.observation.to_observation(),
            self.seconds,
            self.replayed,
        )


class Problem(Wire):
    """Why a request was not answered."""

    kind: str = Field(description="the error's class, such as SessionLost or ServerBusy")
    message: str
    retry_after: float | None = Field(None, description="seconds")
    queue_full: bool = Field(False, description="whether it is for want of room alone")


class Refusal(Wire):
    """Every answer with a status of 400 or more."""

    error: Problem


def to_problem(error: AgentRLError) -> Problem:
    """An error in the form that travels."""
    problem = Problem(kind=type(error).__name__, message=str(error))
    if isinstance(error, ServerBusy):
        problem.retry_after, problem.queue_full = error.retry_after, error.queue_full
    return problem


def to_error(problem: Problem) -> AgentRLError:
    """The error that a problem tells of; one of an unknown kind is a machine's."""
    if problem.kind == ServerBusy.__name__:
        return ServerBusy(problem.message, problem.retry_after or 1.0, queue_full=problem.queue_full)
    kind = getattr(errors, problem.kind, None)
    if isinstance(kind, type) and issubclass(kind, AgentRLError):
        return kind(problem.message)
    return InfrastructureError(f"{problem.kind}: {problem.message}")
