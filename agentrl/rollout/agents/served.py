"""The endpoint's side of an episode: requests become turns, recorded token by token."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

from agentrl.chat import Message
from agentrl.chat.messages import normal
from agentrl.errors import DataError, EpisodeTimeout
from agentrl.events import ToolCalled, TurnGenerated
from agentrl.observation import Observation
from agentrl.rollout.agents.exchange import Refused, Reply, Request
from agentrl.rollout.agents.history import History, Start
from agentrl.rollout.attempt import Attempt
from agentrl.rollout.policy import Generation, Sampling
from agentrl.rollout.seeds import derive_seed
from agentrl.rollout.setting import Ended, Setting
from agentrl.rollout.toolbox import kept, printable
from agentrl.trajectory import Call, Segment, Trajectory, Turn

REFUSALS = 8
"""Requests that are refused for the turn limit before the episode is ended."""


class ServedAttempt(Attempt):
    """An attempt whose turns are taken as requests ask for them, several at once if need be.

    Args:
        setting, trajectory, sampling, seed, name: as :class:`agentrl.rollout.attempt.Attempt`.
    """

    def __init__(
        self, setting: Setting, trajectory: Trajectory, sampling: Sampling, *, seed: int | None, name: str
    ) -> None:
        super().__init__(setting, trajectory, sampling, seed=seed, name=name)
        self._history = History(self._chat, trajectory.segments)
        self._dialogues: list[list[Message]] = []
        self._tools_shown: list[dict[str, Any]] = []
        self._messages_shown: list[Message] = []
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over.add_done_callback(lambda over: over.exception())  # it may come when nobody asks any more
        self._drawing: set[asyncio.Task[Reply]] = set()
        self._drawn = 0
        self._engine_seconds = self._busy_since = 0.0
        self._limit: str | None = None
        self._refusals = 0
        self._closed = False

    async def sample(self, request: Request) -> Reply:
        """Have the policy take a turn; see :class:`agentrl.rollout.agents.exchange.Session`."""
        if self._over.done():
            raise Refused("The episode is over.", status=410, code="episode_over")
        self._admit()
        dialogue = self._dialogue(request)
        start = self._find(dialogue, request)
        self._take_answers(start)
        try:
            sampling = self._sampling_of(request, start)
        except DataError as problem:
            self._settle(problem)
            raise Refused(str(problem), code="context_length_exceeded") from problem
        if not self._drawing:
            self._busy_since = self.elapsed()
        self._history.hold(start)
        drawing = asyncio.ensure_future(self._draw(request, dialogue, start, sampling))
        self._drawing.add(drawing)
        try:
            return await drawing
        except asyncio.CancelledError:
            if not self._over.done():
                raise  # the client has hung up
            raise Refused("The episode is over.", status=410, code="episode_over") from None
        except Exception as problem:
            self._settle(problem)
            raise Refused(str(problem), status=503, code=type(problem).__name__) from problem
        finally:
            self._history.release(start)
            self._drawing.discard(drawing)
            if not self._drawing:
                self._engine_seconds += self.elapsed() - self._busy_since

    def count(self, request: Request) -> int:
        """Tokens of the request's prompt."""
        return len(self._find(self._dialogue(request), request).prompt_ids)

    def _admit(self) -> None:
        limit = self._limits.max_turns
        if len(self._trajectory.turns) + len(self._drawing) < limit:
            return
        self._limit = f"the turn limit: rollout.max_turns={limit}"
        self._refusals += 1
        if self._refusals > REFUSALS:
            self._settle(Ended("truncated", self._limit))
        raise Refused(f"The episode has reached {self._limit}.", code="turn_limit")

    def _dialogue(self, request: Request) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": request.system}] if request.system else []
        try:
            dialogue = [
                normal(message) for message in (*system, *self._stored(request.after), *request.messages)
            ]
        except DataError as problem:
            raise Refused(f"The messages cannot be read: {problem}.") from problem
        if not dialogue or dialogue[-1]["role"] == "assistant":
            raise Refused(
                "The last message must be one that the model answers; its own cannot be begun for it."
            )
        characters = sum(len(message["content"]) for message in dialogue)
        if characters > self._setting.keep_characters:  # far too long for any limit; not even counted
            self._limit = self._token_limit()
            raise Refused(f"The dialogue has {characters} characters.", code="context_length_exceeded")
        return dialogue

    def _stored(self, turn: int | None) -> Sequence[Message]:
        if turn is None:
            return ()
        if turn >= len(self._dialogues):
            raise Refused(f"There is no turn {turn} in this episode.", status=404, code="not_found")
        return self._dialogues[turn]

    def _find(self, dialogue: list[Message], request: Request) -> Start:
        try:
            return self._history.find(dialogue, request.tools)
        except DataError as problem:
            raise Refused(f"The messages cannot be shown to this model: {problem}.") from problem

    def _sampling_of(self, request: Request, start: Start) -> Sampling:
        """The run's sampling: the agent may only ask for less, unless ``rollout.agent_sampling`` is its own.

        Raises:
            DataError: the first prompt is longer than the run allows for.
            Refused: nothing can be sampled after this one.
        """
        if not self._prompt_length:
            assert self._env is not None
            self._begin(self._env, start.prompt_ids)
        length = len(start.prompt_ids)
        begun = length if start.grows is None else self._trajectory.segments[start.grows].prompt_length
        room = self._room(length) - max(0, self._prompt_length - begun)
        if room < 1:
            self._limit = self._token_limit()
            raise Refused(
                f"The dialogue has {length} tokens and has reached {self._limit}.",
                code="context_length_exceeded",
            )
        tokens = min(self._limits.max_turn_tokens, room, request.max_tokens or room)
        seed = None if self._seed is None else derive_seed(self._seed, self._drawn)
        self._drawn += 1
        stops = (*self._sampling.stop_strings, *request.stop)
        sampling = dataclasses.replace(self._sampling, max_tokens=tokens, stop_strings=stops, seed=seed)
        if self._limits.agent_sampling == "run":
            return sampling
        return dataclasses.replace(
            sampling,
            temperature=sampling.temperature if request.temperature is None else float(request.temperature),
            top_p=sampling.top_p if request.top_p is None else float(request.top_p),
        )

    # The record

    async def _draw(
        self, request: Request, dialogue: list[Message], start: Start, sampling: Sampling
    ) -> Reply:
        self._messages_shown[:], self._tools_shown[:] = dialogue, request.tools
        started = self.elapsed()

        async def take() -> Reply:  # sampled and recorded, or neither
            generation = await self._generate(start.prompt_ids, sampling, ())
            return self._record(request, dialogue, start, generation, started)

        return await self._in_time(take())

    def _record(
        self, request: Request, dialogue: list[Message], start: Start, generation: Generation, started: float
    ) -> Reply:
        if self._closed:  # the engine took no notice of its cancellation
            raise Refused("The episode is over.", status=410, code="episode_over")
        trajectory, prompt = self._trajectory, start.prompt_ids
        if start.grows is None:
            trajectory.segments.append(Segment(list(prompt)))
        index = len(trajectory.segments) - 1 if start.grows is None else start.grows
        segment = trajectory.segments[index]
        segment.add_context(prompt[len(segment.token_ids) :])
        begin, end = segment.add_sampled(generation.token_ids, generation.logprobs, generation.versions)
        parsed = printable(self._chat.parse(prompt, generation.token_ids, request.tools))
        text, stop = _cut(parsed.content, request.stop)
        parsed = dataclasses.replace(parsed, content=text)
        message = self._chat.assistant_message(parsed)
        turn = Turn(
            index=len(trajectory.turns), segment=index, start=begin, end=end, text=text,
            raw=self._chat.decode(generation.token_ids), reasoning=parsed.reasoning,
            calls=[
                Call(call.name, call.arguments, call.id, "malformed" if call.error else "ok",
                     Observation(call.error or "", error=call.error is not None))
                for call in parsed.calls
            ],
            stop_reason=generation.stop_reason, started=started, generate_seconds=self.elapsed() - started,
        )  # fmt: skip
        trajectory.turns.append(turn)
        trajectory.messages = [*dialogue, message]
        self._history.remember(turn, trajectory.messages, request.tools)
        self._dialogues.append([*self._stored(request.after), *request.messages, message])
        self._limit = None
        self._setting.events.emit(
            TurnGenerated(trajectory.id, turn.index, end - begin, turn.generate_seconds, turn.stop_reason)
        )
        return Reply(
            turn=turn.index, text=message["content"], reasoning=parsed.reasoning,
            calls=tuple(call for call in parsed.calls if not call.error),
            cut_off=generation.stop_reason == "length", stop_string=stop,
            prompt_tokens=len(prompt), sampled_tokens=end - begin,
        )  # fmt: skip

    def _take_answers(self, start: Start) -> None:
        """What the agent answered the calls of the turn that it goes on from."""
        turn = start.follows
        if turn is None or turn.tool_seconds:
            return
        asked = turn.started + turn.generate_seconds
        turn.tool_seconds = self.elapsed() - asked
        calls = {call.id: call for call in turn.calls if call.status == "ok"}
        for message in start.new:
            call = calls.get(message.get("tool_call_id", ""))
            if message["role"] != "tool" or call is None:
                continue
            call.observation, _ = kept(Observation(message["content"]), self._setting.keep_characters)
            call.started, call.seconds = asked, turn.tool_seconds
            call.observation_tokens = len(self._chat.encode(call.observation.text))
            self._setting.events.emit(
                ToolCalled(self._trajectory.id, turn.index, call.name or "", call.status, call.seconds)
            )

    # Endings

    def _settle(self, problem: Exception | None) -> None:
        """The episode is over, because of a problem or since the agent has ended."""
        if self._over.done():
            return
        if problem is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(problem)

    async def _hang_up(self) -> None:
        """No turn is taken any more."""
        self._settle(None)
        for drawing in self._drawing:
            drawing.cancel()
        if self._drawing:
            await asyncio.wait(self._drawing)
        self._closed = True

    def _out_of_time(self, when: str) -> NoReturn:
        """Blame whoever took most of the time; an agent that never let the model speak is machinery."""
        elapsed, engine = self.elapsed(), self._engine_seconds
        if self._drawing:
            engine += elapsed - self._busy_since
        limit = f"rollout.episode_seconds={self._limits.episode_seconds:g} ran out {when}"
        if self._trajectory.turns and 2 * engine <= elapsed:
            raise Ended("truncated", f"the time limit: {limit}") from None
        raise EpisodeTimeout(
            f"{limit}, after {len(self._trajectory.turns)} turns and {engine:.1f} s in the engine: the agent "
            "hangs before it asks the model, or the engine is too slow for such episodes."
        ) from None


def _cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first of the stops in it, and which that is."""
    found = [(text.index(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    position, stop = min(found)
    return text[:position], stop
