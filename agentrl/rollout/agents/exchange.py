"""What passes between an agent and the policy, whichever protocol the agent speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from agentrl.chat import Message, ParsedCall, ToolSchema

HOTTEST = 2.0
"""The highest temperature that can be asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one turn of the model.

    Args:
        messages: the dialogue, in OpenAI's form.
        tools: what the model may call.
        system: instructions that stand before the messages and are no part of the stored dialogue.
        after: the turn whose dialogue, as stored, the messages continue.
        max_tokens: the agent's own limit of the turn.
        stop: texts at which the agent wants the turn to end; it does not see them.
        temperature, top_p: at which the agent wants the turn to be sampled; the run says whether they count.

    Raises:
        ValueError: a value is of the wrong type, or out of range.
    """

    messages: list[Message]
    tools: list[ToolSchema]
    system: str | None = None
    after: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        for name, value, most in (("temperature", self.temperature, HOTTEST), ("top_p", self.top_p, 1.0)):
            if value is not None and (type(value) not in (int, float) or not 0 <= value <= most):
                raise ValueError(f"{name} is a number from 0 to {most:g}, not {value!r}")
        if self.top_p == 0:
            raise ValueError("top_p=0 leaves nothing to sample from; temperature=0 takes the likeliest token")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stops are texts, not {self.stop!r}")
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise ValueError(f"a limit of tokens is a positive integer, not {self.max_tokens!r}")


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn, as the agent is shown it.

    Args:
        turn: its index in the episode.
        text: its content; a call that cannot be parsed is text too.
        reasoning: the reasoning, if the format has any.
        calls: the well-formed calls.
        cut_off: whether a token limit ended it.
        stop_string: which of the agent's stops ended it.
        prompt_tokens, sampled_tokens: how many.
    """

    turn: int
    text: str
    reasoning: str | None
    calls: tuple[ParsedCall, ...]
    cut_off: bool
    stop_string: str | None
    prompt_tokens: int
    sampled_tokens: int


class Refused(Exception):
    """A request is answered with an error; no client should repeat it unchanged.

    Args:
        message: for the person who reads the agent's log.
        status: of HTTP.
        code: a word for the agent's program.
    """

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Session(Protocol):
    """An episode, as the endpoint sees it."""

    async def sample(self, request: Request) -> Reply:
        """Have the policy take a turn.

        Raises:
            Refused: it does not.
        """

    def count(self, request: Request) -> int:
        """Tokens of the request's prompt.

        Raises:
            Refused: it cannot be rendered.
        """


class Dialect(Protocol):
    """One company's way of writing requests and replies.

    Attributes:
        end_of_stream: what comes after a stream's last event.
    """

    end_of_stream: bytes

    def read(self, body: dict[str, Any]) -> Request:
        """The request in a body.

        Raises:
            Refused: it asks for what a policy in training cannot give.
            KeyError, TypeError, ValueError, AttributeError: it is not well formed.
        """

    def write(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        """The body that answers ``body``."""

    def stream(self, reply: Reply, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The same as server-sent events, each with its data."""

    def error(self, problem: Refused) -> dict[str, Any]:
        """The body of an error."""


def text_of(content: Any, kinds: tuple[str, ...] = ("text",)) -> str:
    """The text of a message's content: a string, or a list of parts of the given kinds.

    Raises:
        Refused: a part is something else, such as an image.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if part["type"] not in kinds:
            raise Refused(
                f"Content of type {part['type']!r} cannot be shown to this model, which takes text."
            )
        texts.append(part["text"])
    return "".join(texts)


def function(name: str, description: str | None, parameters: Any) -> ToolSchema:
    """A tool in OpenAI's form."""
    schema: dict[str, Any] = {"name": name, "description": description or ""}
    schema["parameters"] = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": schema}


def only(value: Any, allowed: tuple[Any, ...], what: str) -> None:
    """Refuse a setting that would need another distribution than the policy's own."""
    if value not in allowed:
        raise Refused(
            f"{what}={value!r} is not offered: turns are sampled freely from the policy, as it is trained. "
            f"Leave it out."
        )


def openai_error(problem: Refused) -> dict[str, Any]:
    """An error as OpenAI writes it."""
    return {
        "error": {
            "message": str(problem),
            "type": "invalid_request_error" if problem.status < 500 else "server_error",
            "param": None,
            "code": problem.code,
        }
    }
