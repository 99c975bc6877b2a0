"""A person in the model's place, played by a list of lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agentrl import DataError, Env, SessionLost, Task, Trajectory, reward, tool
from agentrl.config import Rollout
from agentrl.inspect.person import PersonPolicy
from agentrl.inspect.plain import in_bytes, plain_chat
from agentrl.observation import Picture
from agentrl.rollout import EpisodeRunner, Scene


class Vault(Env):
    """Opens when told the word that a tool whispers; talks back until then."""

    prompt = "Say the word."

    async def reset(self, task: Task) -> None:
        self.said: list[str] = []

    @tool
    def whisper(self, times: int = 1) -> str:
        """Whisper the word."""
        if times > 9:
            raise SessionLost("the whisperer has left")
        return " ".join(["sesame"] * times)

    async def reply(self, text: str) -> str | None:
        self.said.append(text)
        return None if text == "sesame" else f"{text} is not it."

    @reward
    def tries(self, episode: Trajectory) -> float:
        return 1.0 / max(len(self.said), 1)


class Desk:
    """Writes the lines, and keeps what was shown."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)
        self.opening: list[Any] = []
        self.seen: list[str] = []
        self.refused: list[str] = []
        self.pictures: list[Picture] = []

    def open(self, scene: Scene) -> None:
        self.opening = [[message["content"] for message in scene.messages], [*scene.tools]]

    def show(self, messages: Sequence[dict[str, Any]]) -> None:
        self.seen += [f"{message['role']}: {message['content']}" for message in messages]

    def picture(self, picture: Picture) -> None:
        self.pictures.append(picture)

    def refuse(self, why: str) -> None:
        self.refused.append(why)

    async def ask(self) -> str | None:
        return self._lines.pop(0) if self._lines else None


async def play(desk: Desk, **limits: Any) -> tuple[Trajectory, PersonPolicy]:
    chat = plain_chat()
    person = PersonPolicy(chat, desk)
    runner = EpisodeRunner(Vault(tasks=()), chat, person, in_bytes(Rollout(**limits), retries=0))
    return await runner.run(Task("Go."), episode_id="by-hand"), person


async def test_a_person_sees_what_a_model_would_and_is_paid_alike() -> None:
    desk = Desk("open", "whisper 2", "whisper times=2", '{"name": "shout", "arguments": {}}', "sesame")
    episode, person = await play(desk)
    assert desk.opening[0] == ["Say the word.", "Go."]
    assert [each["function"]["name"] for each in desk.opening[1]] == ["whisper"]
    assert desk.seen == [
        "user: open is not it.",
        "tool: sesame sesame",
        "tool: There is no tool 'shout'. Known: whisper.",
    ]
    assert len(desk.refused) == 1 and "'2' is no key=value" in desk.refused[0]
    assert (episode.status, episode.reward, len(episode.turns)) == ("finished", 0.5, 4)
    assert person.shown == len(episode.messages)
    assert [call.status for call in episode.calls] == ["ok", "unknown"]
    [segment] = episode.segments
    assert plain_chat().decode(segment.token_ids).count("sesame sesame") == 1


async def test_the_models_limits_hold_for_a_person() -> None:
    desk = Desk("whisper times=9", "no", "sesame")
    episode, person = await play(desk, max_turns=2, max_observation_tokens=16)
    assert episode.status == "truncated" and "max_turns=2" in episode.reason
    assert len(desk.seen[0].encode()) <= 64 + len("tool: ")
    assert [m["content"] for m in episode.messages[person.shown :]] == ["no is not it."]
    assert (await play(Desk("sesame" * 99), max_turn_tokens=100))[0].status == "truncated"


async def test_input_that_ends_too_soon_is_an_error_and_a_failed_machine_voids() -> None:
    with pytest.raises(DataError, match="ended before the episode did"):
        await play(Desk("open"))
    episode, _ = await play(Desk("whisper times=10"))
    assert (episode.status, episode.reward) == ("void", None)
