"""One attempt at an episode: set up, turn by turn to an ending, judged, cleaned up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from agentrl.env import Env
from agentrl.errors import DataError, EngineError, EpisodeTimeout
from agentrl.events import ToolCalled, TurnGenerated
from agentrl.observation import Observation
from agentrl.rollout.context import Context, shortened
from agentrl.rollout.pictures import Gallery, content_of
from agentrl.rollout.policy import Generation, Sampling, Scene
from agentrl.rollout.sampled_turn import SampledTurn
from agentrl.rollout.seeds import derive_seed
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.rollout.setting import Ended, Setting
from agentrl.rollout.toolbox import ToolBox, distinct, inherited, kept, printable, user_code
from agentrl.rollout.waiting import OutOfTime, StrayExit, finish_quietly, to_the_end, within
from agentrl.scoring import score_episode
from agentrl.snapshot import World
from agentrl.tool import ToolContext
from agentrl.trajectory import Message, Segment, Trajectory, Turn

if TYPE_CHECKING:
    from agentrl.chat import ParsedTurn

T = TypeVar("T")
MakeMessages = Callable[[Sequence[str]], list[Message]]
Parts = list[dict[str, Any]]

CLOSE_SECONDS = 10.0
"""How long each tool, session and environment may take to close."""

FIT_ROUNDS = 4
"""Tries at shortening observations: a text may have a token more in its place than alone."""


class Attempt:
    """Plays an episode once, into a trajectory.

    Args:
        setting: what it shares with other episodes.
        trajectory: an empty one; filled in as the episode goes on.
        sampling: temperature, top-p and stops of every turn.
        seed: the episode's, if its sampling is to be repeatable.
        name: by which the policy knows this attempt.
    """

    def __init__(
        self, setting: Setting, trajectory: Trajectory, sampling: Sampling, *, seed: int | None, name: str
    ) -> None:
        self._setting, self._trajectory, self._sampling = setting, trajectory, sampling
        self._seed, self._name = seed, name
        self._limits, self._chat = setting.limits, setting.chat
        self._clock = setting.clock or asyncio.get_running_loop().time
        self._began = self._clock()
        self._tool_seconds = 0.0
        self._prompt_length = 0
        self._sessions = EpisodeSessions(setting.sandbox)
        self._gallery = Gallery(setting.chat, setting.pictures, self._sessions.run)
        trajectory.pictures = self._gallery.pictures
        self._env: Env | None = None
        self._tools: ToolBox | None = None
        self._context: Context | None = None

    def elapsed(self) -> float:
        """Seconds since the attempt began."""
        return self._clock() - self._began

    def left(self) -> float:
        """Seconds left to it."""
        return self._limits.episode_seconds - self.elapsed()

    async def run(self) -> None:
        """Play to an ending, judge, and close everything, whatever happens.

        Raises:
            InfrastructureError: the attempt is void.
            UsageError: the run has to stop.
        """
        try:
            await self._play_and_judge()
        finally:
            if self._setting.player is not None:
                self._setting.player.end(self._name)
            if self._holds_something() or self._sessions.seal():
                await to_the_end(self._close())

    async def _play_and_judge(self) -> None:
        trajectory = self._trajectory
        try:
            await self._play()
        except Ended as ending:
            trajectory.status, trajectory.reason = ending.status, ending.reason
        trajectory.seconds = self.elapsed()
        assert self._env is not None
        await self._judge(self._env)

    async def _play(self) -> None:
        """Set up and take turns.

        Raises:
            Ended: always, if nothing fails.
        """
        env, tools = await self._set_up()
        while True:
            await self._turn(env, tools)

    def _spawn(self) -> tuple[Env, ToolContext]:
        """The episode's own environment, and what it offers its tools."""
        setting, sessions, trajectory = self._setting, self._sessions, self._trajectory
        with user_code(f"Environment {setting.env.name}: spawn()"):
            env = self._env = setting.env.spawn()
        env.context = ToolContext(
            trajectory.task, trajectory.id, sessions.open, sessions.run, setting.blocking
        )
        world = env.context.world = World(env.context, sessions)
        world.add("", env)
        return env, env.context

    async def _set_up(self) -> tuple[Env, ToolBox]:
        setting, task = self._setting, self._trajectory.task
        env, context = self._spawn()
        if not inherited(env.reset, Env.reset):
            await self._users(f"Environment {env.name}: reset()", env.reset(task))
        characters, invoke = setting.keep_characters, setting.control.invoke
        tools = ToolBox.of(env, context, self._limits, setting.ledger, characters, invoke)
        self._tools = tools
        if tools.stateful:
            await self._users(f"Opening the tools of environment {env.name}", tools.open())
        context.the_world().complete()
        with user_code(f"Environment {env.name}: messages()"):
            messages = setting.opened(env.messages(task))
        if not self._gallery.is_text(messages):
            messages = await self._users(
                "Showing the task's images", self._gallery.opening(messages, env.name)
            )
        prompt = self._chat.prompt(messages, tools.schemas)
        self._begin(env, prompt)
        self._trajectory.messages = messages
        self._trajectory.segments = [Segment(prompt, images=self._gallery.of(messages))]
        self._context = setting.control.context(self._chat, tools.schemas, prompt, messages)
        self._introduce(env, tools.schemas, messages)
        return env, tools

    def _begin(self, env: Env, prompt: list[int]) -> None:
        """Take the first prompt's length: the room after it is counted from there."""
        if len(prompt) > self._limits.max_prompt_tokens:
            raise DataError(
                f"The prompt of task {self._trajectory.task.id} of environment {env.name} has {len(prompt)} "
                "tokens (tool descriptions included), more than "
                f"rollout.max_prompt_tokens={self._limits.max_prompt_tokens}. Raise that, or leave the task "
                "out."
            )
        self._prompt_length = len(prompt)

    def _introduce(self, env: Env, tools: list[dict[str, object]], messages: list[Message]) -> None:
        """Show the episode to a policy that plays a part; it follows both lists as they change."""
        player, task = self._setting.player, self._trajectory.task
        if player is not None:
            seed = derive_seed(task.id, self._name) if self._seed is None else self._seed
            player.begin(self._name, Scene(env, task, seed, tools, messages))

    async def _turn(self, env: Env, tools: ToolBox) -> None:
        """One generation and what came of it.

        Raises:
            Ended: it was the last.
        """
        turn, parsed = await self._sample(tools)
        if parsed.calls:
            make, texts = await self._call(turn, parsed, tools)
        else:
            make, texts = await self._reply(turn, parsed, env)
        if len(self._trajectory.turns) >= self._limits.max_turns:
            self._trajectory.messages += make(texts)
            raise Ended("truncated", f"the turn limit: rollout.max_turns={self._limits.max_turns}")
        self._go_on(turn, make, texts, tools)

    async def _sample(self, tools: ToolBox) -> tuple[Turn, ParsedTurn]:
        trajectory, segment = self._trajectory, self._trajectory.segments[-1]
        index, prompt, started = len(trajectory.turns), list(segment.token_ids), self.elapsed()
        most = min(self._limits.max_turn_tokens, self._room(len(prompt)))
        sampled = await self._piece(prompt, most, index)
        if sampled.stop_reason == "length" and not self._parse(prompt, sampled.token_ids, tools).calls:
            sampled = await self._interrupt(prompt, sampled, index)
        seconds = self.elapsed() - started
        start, end, forced = sampled.into(segment)
        completion = segment.token_ids[start:end]
        parsed = distinct(self._parse(prompt, completion, tools), trajectory)
        turn = Turn(
            index=index, segment=len(trajectory.segments) - 1, start=start, end=end, text=parsed.content,
            raw=self._chat.decode(completion), reasoning=parsed.reasoning, forced=forced,
            stop_reason=sampled.stop_reason, started=started, generate_seconds=seconds,
        )  # fmt: skip
        trajectory.turns.append(turn)
        trajectory.messages.append(self._chat.assistant_message(parsed))
        told = TurnGenerated(trajectory.id, index, turn.sampled, seconds, turn.stop_reason)
        self._setting.events.emit(told)
        return turn, parsed

    async def _piece(self, ids: list[int], most: int, *place: int) -> SampledTurn:
        """Sample ``most`` tokens at most behind ``ids``; their seed depends on their place in the episode."""
        seed, banned = self._seed, self._chat.banned_token_ids
        seed = None if seed is None else derive_seed(seed, *place)
        sampling = dataclasses.replace(self._sampling, max_tokens=most, banned_token_ids=banned, seed=seed)
        images = self._trajectory.segments[-1].images
        return SampledTurn(await self._in_time(self._generate(ids, sampling, images)))

    async def _interrupt(self, prompt: list[int], sampled: SampledTurn, index: int) -> SampledTurn:
        """Have a turn that was cut off come to its end, if the algorithm wants that."""
        cut = self._setting.control.interruption(self._chat, self._limits, prompt, sampled.token_ids)
        if cut is None:
            return sampled
        finish = await self._piece([*prompt, *sampled.token_ids, *cut.ids], cut.max_tokens, index, 1)
        return sampled.finished(cut.ids, finish)

    def _parse(self, prompt: list[int], completion: list[int], tools: ToolBox) -> ParsedTurn:
        return printable(self._chat.parse(prompt, completion, tools.schemas))

    async def _generate(self, prompt: list[int], sampling: Sampling, images: Sequence[str]) -> Generation:
        seen = self._gallery.named(images)
        with self._setting.load.engine:
            answer = self._setting.policy.generate(prompt, sampling, episode=self._name, images=seen)
            return (await answer).checked(sampling)

    async def _in_time(self, generating: Coroutine[Any, Any, T]) -> T:
        """Await a generation of the engine, in the time there is for one."""
        left, limit = self.left(), self._limits.response_seconds
        if left <= 0:
            generating.close()
            self._out_of_time("before the next turn")
        try:
            return await within(generating, min(left, limit))
        except StrayExit as problem:
            raise EngineError(f"The engine gave up on a generation: {problem}.") from problem
        except OutOfTime:
            if left <= limit:
                self._out_of_time("while the engine was generating")
            raise EngineError(
                f"The engine did not end a turn in {limit:g} s (rollout.response_seconds). It hangs, or it "
                "is too slow for so many tokens."
            ) from None

    async def _call(self, turn: Turn, parsed: ParsedTurn, tools: ToolBox) -> tuple[MakeMessages, list[str]]:
        """Answer the turn's calls; returns what to show and how."""
        trajectory, started = self._trajectory, self.elapsed()
        with self._setting.load.tools:
            turn.calls = await tools.answer(parsed.calls, elapsed=self.elapsed, left=self.left)
        turn.tool_seconds = self.elapsed() - started
        self._tool_seconds += turn.tool_seconds
        for call in turn.calls:
            self._setting.events.emit(
                ToolCalled(trajectory.id, turn.index, call.name or "", call.status, call.seconds)
            )
        if turn.stop_reason == "length" and all(call.error is not None for call in parsed.calls):
            self._cut_off(turn)
        texts, pictures = [], []
        for call in turn.calls:
            text, parts, cut = await self._show(call.observation, f"Tool {call.name}")
            call.truncated = call.truncated or cut
            call.observation_tokens = len(self._chat.encode(text))
            texts.append(text)
            pictures.append(parts)

        def make(texts: Sequence[str]) -> list[Message]:
            contents = [content_of(text, parts) for text, parts in zip(texts, pictures, strict=True)]
            return self._chat.observation_messages(parsed.calls, contents)

        last = next((call for call in turn.calls if call.observation.done), None)
        if last is not None:
            trajectory.messages += make(texts)
            raise Ended("finished", f"tool {last.name} ended the episode")
        if self.left() <= 0:
            trajectory.messages += make(texts)
            self._out_of_time("during tool calls")
        return make, texts

    async def _reply(self, turn: Turn, parsed: ParsedTurn, env: Env) -> tuple[MakeMessages, list[str]]:
        """Ask the environment to answer a turn without calls; returns what to show and how."""
        if turn.stop_reason == "length":
            self._cut_off(turn)
        answer: str | Observation | None = None
        if not inherited(env.reply, Env.reply):
            answer = await self._users(f"Environment {env.name}: reply()", env.reply(parsed.content))
        if answer is None:
            raise Ended("finished", "the model gave its answer")
        observation, _ = kept(Observation.of(answer), self._setting.keep_characters)
        text, parts, _ = await self._show(observation, f"Environment {env.name}")

        def make(texts: Sequence[str]) -> list[Message]:
            return [{"role": "user", "content": content_of(text, parts)} for text in texts]

        if observation.done:
            self._trajectory.messages += make([text])
            raise Ended("finished", f"environment {env.name} ended the episode")
        return make, [text]

    def _go_on(self, turn: Turn, make: MakeMessages, texts: list[str], tools: ToolBox) -> None:
        """Append what the model sees next, shortened until a token can be sampled after it.

        Raises:
            Ended: even then it does not fit.
        """
        trajectory, context = self._trajectory, self._context
        segment = trajectory.segments[turn.segment]
        assert context is not None
        context.take(segment.token_ids[turn.start : turn.end], trajectory.messages[-1])
        for _ in range(FIT_ROUNDS):
            messages = make(texts)
            following = context.after(messages)
            over = 1 - self._room(len(following.ids))
            if over <= 0:
                break
            shorter = shortened(self._chat, texts, over)
            if shorter is None:
                break
            texts = shorter
            for call, text in zip(turn.calls, texts, strict=False):
                call.truncated, call.observation_tokens = True, len(self._chat.encode(text))
        trajectory.messages += messages
        if over > 0:
            raise Ended("truncated", self._token_limit())
        context.accept(following, messages)
        if following.grows:
            segment.add_context(following.ids[len(segment.token_ids) :], self._gallery.of(messages))
            return
        images = self._gallery.of(following.messages)
        trajectory.segments.append(Segment(following.ids, images=images))

    def _room(self, length: int) -> int:
        """Tokens that may follow a context of this length."""
        return self._prompt_length + self._limits.max_trajectory_tokens - self._setting.reserved - length

    async def _show(self, observation: Observation, source: str) -> tuple[str, Parts, bool]:
        """What the model sees of an observation: its text, its pictures, and whether the text was cut."""
        text, parts = observation.text, Parts()
        if observation.images:
            text, parts = await self._users(f"Images of {source}", self._gallery.show(observation, source))
        text, cut = self._chat.truncate(text, self._limits.max_observation_tokens)
        return text, parts, cut

    def _cut_off(self, turn: Turn) -> NoReturn:
        if turn.forced is not None:
            raise Ended("truncated", f"the token limit of turn {turn.index}, although it was told to finish")
        if self._room(len(self._trajectory.segments[-1].token_ids)) < 1:
            raise Ended("truncated", self._token_limit())
        limit = self._limits.max_turn_tokens
        raise Ended("truncated", f"the token limit of turn {turn.index}: rollout.max_turn_tokens={limit}")

    def _token_limit(self) -> str:
        return f"the token limit: rollout.max_trajectory_tokens={self._limits.max_trajectory_tokens}"

    def _out_of_time(self, when: str) -> NoReturn:
        """Blame what took most of the time: tool calls are the model's choice, all else is machinery."""
        limit = f"rollout.episode_seconds={self._limits.episode_seconds:g} ran out {when}"
        if 2 * self._tool_seconds >= self.elapsed():
            raise Ended("truncated", f"the time limit: {limit}")
        raise EpisodeTimeout(
            f"{limit}, with only {self._tool_seconds:.1f} s spent in tool calls: the engine or the "
            "environment hangs, "
            "or is too slow for such episodes."
        ) from None

    async def _users(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Await the user's code in the time left."""
        try:
            with user_code(what):
                return await within(work, self.left())
        except OutOfTime:
            self._out_of_time(f"in {what}")

    async def _judge(self, env: Env) -> None:
        seconds = self._limits.episode_seconds
        try:
            with user_code(f"Rewards of environment {env.name}"):
                terms, shape = env.own_rewards(), self._setting.shape
                shaped = None if shape is None else shape(terms)
                await within(score_episode(self._trajectory, terms, shaped), seconds)
        except OutOfTime:
            raise EpisodeTimeout(
                f"The rewards of environment {env.name} took longer than rollout.episode_seconds={seconds:g}."
            ) from None

    def _holds_something(self) -> bool:
        tools, env = self._tools, self._env
        kept_open = tools is not None and tools.stateful
        return kept_open or (env is not None and not inherited(env.close, Env.close))

    async def _close(self) -> None:
        if self._tools is not None:
            await self._tools.close(CLOSE_SECONDS)
        await self._sessions.close(CLOSE_SECONDS)
        if self._env is not None:
            await finish_quietly(self._env.close(), CLOSE_SECONDS, f"closing environment {self._env.name}")
