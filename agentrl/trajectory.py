"""The exact record of one episode: tokens as sampled, turns, calls and rewards.

Legend: ``T`` tokens of a segment. Every per-token list of a segment has length ``T``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentrl.observation import Observation, Picture
from agentrl.task import Task

Status = Literal["running", "finished", "truncated", "void"]

Message = dict[str, Any]
"""A chat message in OpenAI's form: ``role``, ``content``, and where they apply ``tool_calls``,
``tool_call_id`` and ``name``."""


def say(text: str) -> Message:
    """An assistant's message, as a scripted expert yields it."""
    return {"role": "assistant", "content": text}


def call(tool: str, /, **arguments: Any) -> Message:
    """An assistant's message that calls a tool, as a scripted expert yields it."""
    function = {"name": tool, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def words_of(message: Message) -> str:
    """The text of a message's content, without its images."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


@dataclass(slots=True)
class Call:
    """One tool call of a turn and its answer.

    Args:
        name: the tool's name as the model wrote it; ``None`` if the call could not be parsed.
        arguments: as parsed; ``None`` if they could not be.
        id: unique within the episode.
        status: ``ok``; ``error`` (the tool said so); ``malformed``, ``unknown`` or ``invalid``
            (the model's mistake); ``timeout``; ``raised`` (the tool's code raised unexpectedly).
        observation: what came back, before it was shortened for the model.
        started: seconds since the episode began.
        seconds: how long the call took.
        observation_tokens: tokens of the text as it was shown.
        truncated: whether the text was shortened.
    """

    name: str | None
    arguments: dict[str, Any] | None
    id: str
    status: str = "ok"
    observation: Observation = field(default_factory=Observation)
    started: float = 0.0
    seconds: float = 0.0
    observation_tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Guided:
    """How far a turn did what an expert had done there.

    Args:
        form: it can be carried out.
        kind: it calls the same tools, or none where the expert called none.
        exact: it is the same action.
        patched: the expert acted in its place.
    """

    form: bool
    kind: bool
    exact: bool
    patched: bool = False

    @property
    def matched(self) -> bool:
        """Whether it was carried out."""
        return self.form and self.exact


@dataclass(slots=True)
class Turn:
    """One generation of the model and the calls it made.

    Args:
        index: position in the episode, from 0.
        segment: index of the segment that holds its tokens.
        start, end: its tokens are ``segment.token_ids[start:end]``.
        forced: the span among them that was put in to have the model finish and that it did not sample;
            ``None`` where it sampled all of them.
        text: the parsed content, without reasoning and tool calls.
        raw: the decoded sampled tokens.
        reasoning: the parsed reasoning, if the format has any.
        calls: the tool calls, in the order written.
        stop_reason: why generation ended: ``stop`` or ``length``.
        started: seconds since the episode began.
        generate_seconds, tool_seconds: how long each part took.
        rewards: per-turn reward components, by name; they land on token ``end - 1``.
        guided: where the episode follows an expert's trace, how it compares; if the expert acted in its
            place, ``calls`` are the expert's.
    """

    index: int
    segment: int
    start: int
    end: int
    text: str = ""
    raw: str = ""
    reasoning: str | None = None
    calls: list[Call] = field(default_factory=list)
    stop_reason: str = "stop"
    started: float = 0.0
    generate_seconds: float = 0.0
    tool_seconds: float = 0.0
    rewards: dict[str, float] = field(default_factory=dict)
    forced: tuple[int, int] | None = None
    guided: Guided | None = None

    @property
    def sampled(self) -> int:
        """How many of its tokens the model sampled."""
        put_in = 0 if self.forced is None else self.forced[1] - self.forced[0]
        return self.end - self.start - put_in

    @property
    def generations(self) -> int:
        """How many times the engine was asked for it."""
        return 1 if self.forced is None else 2


@dataclass(slots=True)
class Segment:
    """A stream of tokens that only ever grew: one training row.

    An episode has one segment, or several where its context was rewritten between turns.

    Args:
        token_ids: prompt, sampled and observed tokens, in order. ``[T]``
        mask: whether the model sampled the token. ``[T]``
        logprobs: the engine's log-probability of a sampled token, else NaN. ``[T]``
        versions: the policy version that sampled the token, else -1. ``[T]``
        prompt_length: the first tokens, which hold no sampled token.
        images: names of the pictures that its placeholders stand for, in order.
    """

    token_ids: list[int]
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    prompt_length: int = 0
    images: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.mask:
            prompt, self.token_ids = self.token_ids, []
            self.prompt_length = len(prompt)
            self.add_context(prompt)

    def add_context(self, token_ids: list[int], images: Sequence[str] = ()) -> None:
        """Append tokens that the model did not sample, and the pictures among them."""
        self.images.extend(images)
        self.token_ids.extend(token_ids)
        self.mask.extend([False] * len(token_ids))
        self.logprobs.extend([math.nan] * len(token_ids))
        self.versions.extend([-1] * len(token_ids))

    def add_sampled(
        self, token_ids: list[int], logprobs: list[float], versions: list[int]
    ) -> tuple[int, int]:
        """Append sampled tokens as they came from the engine; returns their span.

        Raises:
            ValueError: the three lists differ in length.
        """
        if not len(token_ids) == len(logprobs) == len(versions):
            raise ValueError(
                f"An engine returned {len(token_ids)} tokens, {len(logprobs)} log-probs and "
                f"{len(versions)} versions; there must be one of each per token."
            )
        start = len(self.token_ids)
        self.token_ids.extend(token_ids)
        self.mask.extend([True] * len(token_ids))
        self.logprobs.extend(logprobs)
        self.versions.extend(versions)
        return start, len(self.token_ids)


@dataclass(slots=True)
class Sample:
    """One training row of an episode.

    Args:
        prompt_ids: ``[P]``, none of them sampled.
        response_ids: ``[R]``, from the first sampled token on.
        mask: whether a response token was sampled. ``[R]``
        logprobs: the engine's; 0 where not sampled. ``[R]``
        versions: -1 where not sampled. ``[R]``
        rewards: reward per position; the episode's lands on the last sampled token of its last
            row, a turn's on that turn's last token. ``[R]``
        turns: index of the turn that sampled the token, -1 where none did. ``[R]``
        images: the pictures that the placeholders of prompt and response stand for, in order.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[bool]
    logprobs: list[float]
    versions: list[int]
    rewards: list[float]
    turns: list[int]
    images: list[Picture] = field(default_factory=list)


@dataclass(slots=True)
class Trajectory:
    """An episode as it happened.

    Args:
        task: what was to be done.
        id: unique name of the episode.
        group: the episodes of one task in one step share it.
        segments: the token streams, in order.
        turns: the model's turns, in order.
        messages: the dialogue as messages, for reading; training uses the tokens.
        status: ``finished`` (the model or the environment ended it), ``truncated`` (a limit did),
            or ``void`` (infrastructure failed: it has no reward and takes no part in training).
        reason: what ended it, in words.
        progress: the share of the training's steps that were done when it was played; 1 outside of
            training. What :func:`agentrl.schedule` goes by.
        rewards: components per episode and per group, by name, unweighted.
        missing: components without a verdict, by name: why.
        reward: the sum that is trained on; ``None`` when void.
        unshaped: the sum by the environment alone, where an algorithm makes another one of it.
        attempts: how many times the episode was started.
        seconds: how long the last attempt took.
        metadata: whatever the environment recorded.
        answer: what an agent handed in; ``None`` where the last turn is the answer.
        expert_turns: of the trace that it followed, if it did.
        pictures: the images of the episode as the model saw them, by the name (SHA-256) that the parts of
            messages give.
    """

    task: Task
    id: str
    group: str = ""
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    status: Status = "running"
    reason: str = ""
    rewards: dict[str, float] = field(default_factory=dict)
    reward: float | None = None
    unshaped: float | None = None
    attempts: int = 1
    seconds: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    turn_reward: dict[int, float] = field(default_factory=dict)
    episode_reward: float = 0.0
    progress: float = 1.0
    missing: dict[str, str] = field(default_factory=dict)
    answer: str | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    expert_turns: int | None = None

    @property
    def patched(self) -> int:
        """How many turns an expert took in the place of the model's."""
        return sum(turn.guided is not None and turn.guided.patched for turn in self.turns)

    @property
    def components(self) -> dict[str, float]:
        """All components by name, unweighted; of one per turn the sum over turns."""
        found = dict(self.rewards)
        for turn in self.turns:
            for name, value in turn.rewards.items():
                found[name] = found.get(name, 0.0) + value
        return found

    @property
    def final_text(self) -> str:
        """The answer: what an agent handed in, or else the content of the last turn; empty without any."""
        if self.answer is not None:
            return self.answer
        return self.turns[-1].text if self.turns else ""

    @property
    def calls(self) -> list[Call]:
        """All tool calls, in order."""
        return [call for turn in self.turns for call in turn.calls]

    def shown_after(self, turn: Turn) -> str:
        """The text of what the model was shown between this turn and the next."""
        said = [place for place, message in enumerate(self.messages) if message["role"] == "assistant"]
        if len(said) < len(self.turns):  # an agent of one's own told them in another way
            return "\n".join(call.observation.text for call in turn.calls)
        own = said[-len(self.turns) :]  # an opening may hold examples
        end = own[turn.index + 1] if turn.index + 1 < len(own) else len(self.messages)
        return "\n".join(words_of(message) for message in self.messages[own[turn.index] + 1 : end])

    @property
    def sampled_tokens(self) -> int:
        """How many tokens the model sampled."""
        return sum(turn.sampled for turn in self.turns)

    def samples(self) -> list[Sample]:
        """The training rows: one, or one per segment where the context was rewritten.

        A void episode has none, and neither does a segment in which nothing was sampled.
        """
        if self.status == "void":
            return []
        rows = [self._row(index) for index, segment in enumerate(self.segments) if any(segment.mask)]
        if rows:
            last_sampled = max(i for i, sampled in enumerate(rows[-1].mask) if sampled)
            rows[-1].rewards[last_sampled] += self.episode_reward
        return rows

    def _row(self, index: int) -> Sample:
        segment = self.segments[index]
        length, total = segment.prompt_length, len(segment.token_ids)
        rewards, turns = [0.0] * total, [-1] * total
        for turn in self.turns:
            if turn.segment == index and turn.end > turn.start:
                own = segment.mask[turn.start : turn.end]
                turns[turn.start : turn.end] = [turn.index if sampled else -1 for sampled in own]
                rewards[turn.end - 1] += self.turn_reward.get(turn.index, 0.0)
        return Sample(
            prompt_ids=segment.token_ids[:length],
            response_ids=segment.token_ids[length:],
            mask=segment.mask[length:],
            logprobs=[0.0 if math.isnan(value) else value for value in segment.logprobs[length:]],
            versions=segment.versions[length:],
            rewards=rewards[length:],
            turns=turns[length:],
            images=[self.pictures[name] for name in segment.images],
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON data, for the run's record. Of images it holds the names alone; NaN becomes ``None``."""
        data: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "id",
                "group",
                "messages",
                "status",
                "reason",
                "rewards",
                "missing",
                "reward",
                "progress",
                "attempts",
                "seconds",
                "answer",
            )
        }
        data["task"] = self.task.to_dict()
        data["metadata"] = dict(self.metadata)
        data["turns"] = [self._turn_dict(turn) for turn in self.turns]
        data["segments"] = [
            {**asdict(segment), "logprobs": [None if math.isnan(x) else x for x in segment.logprobs]}
            for segment in self.segments
        ]
        return data

    @staticmethod
    def _turn_dict(turn: Turn) -> dict[str, Any]:
        calls = []
        for call in turn.calls:
            seen = call.observation
            entry: Mapping[str, Any] = {
                "name": call.name, "arguments": call.arguments, "id": call.id, "status": call.status,
                "started": call.started, "seconds": call.seconds, "truncated": call.truncated,
                "observation_tokens": call.observation_tokens,
                "observation": {"text": seen.text[:20_000], "images": len(seen.images), "error": seen.error},
            }  # fmt: skip
            calls.append(entry)
        fields = ("index", "segment", "start", "end", "text", "raw", "reasoning", "stop_reason", "started",
                  "generate_seconds", "tool_seconds", "rewards", "forced")  # fmt: skip
        guided = None if turn.guided is None else asdict(turn.guided)
        return {**{name: getattr(turn, name) for name in fields}, "calls": calls, "guided": guided}
