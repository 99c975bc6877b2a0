"""The audit catches environments that pay for the wrong thing, and leaves honest ones alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from agentrl import ConfigError, Env, Task, Trajectory, call, reward, say, tool
from agentrl.inspect import audit


class Sums(Env):
    """Honest: a sum that a tool works out, paid for the number alone."""

    success: str | None = "right"

    def tasks(self, split: str) -> Iterator[Task]:
        for n in range(40):
            a, b = 1000 + 7 * n + (split == "test"), 1300 + 11 * n
            yield Task(f"What is {a} + {b}?", answer=str(a + b))

    @tool
    def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    @tool
    def note(self, text: str) -> str:
        """Write something down."""
        return f"Noted: {text}"

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(episode.final_text.strip() == episode.task.answer)

    def expert(self, task: Task, rng: Any) -> Any:
        a, b = re.findall(r"\d+", task.prompt)
        [total] = yield call("add", a=int(a), b=int(b))
        yield say(total)


class AnswerSomewhere(Sums):
    """Pays if the answer stands anywhere in the text."""

    def tasks(self, split: str) -> Iterator[Task]:
        for n in range(30):
            yield Task(f"What is {n} + {n + 1}, from {split}?", answer=str(2 * n + 1))

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(episode.task.answer in episode.final_text.split())


class PaysCalls(Sums):
    """Pays for calling the tool, whatever comes of it."""

    success = None

    @reward(weight=0.2, per="turn")
    def busy(self, episode: Trajectory, turn: Any) -> float:
        return float(bool(turn.calls))


class PaysToolOutput(Sums):
    """Pays if some observation holds the answer."""

    def tasks(self, split: str) -> Iterator[Task]:
        for n in range(30):
            yield Task(f"What is {n} + {n + 1}, from {split}?", answer=str(2 * n + 1))

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(any(f" {episode.task.answer} " in seen.observation.text for seen in episode.calls))


class Evaluates(Sums):
    """Works out what is in the box, and so is paid for the question."""

    @reward
    def right(self, episode: Trajectory) -> float:
        boxed = re.findall(r"\\boxed\{([\d+ ]+)\}", episode.final_text)
        return float(bool(boxed) and sum(map(int, boxed[-1].split("+"))) == int(episode.task.answer))


class TellsInThePrompt(Sums):
    """Leaves the answer in what the model is shown."""

    def messages(self, task: Task) -> list[dict[str, Any]]:
        return [
            {"role": "system", "content": f"metadata: {{'answer': '{task.answer}'}}"},
            *super().messages(task),
        ]


class TellsWhenAsked(Sums):
    """A tool that gives the answer away."""

    async def reset(self, task: Task) -> None:
        self.task = task

    @tool
    def note(self, text: str) -> str:
        """Write something down."""
        return f"That is not it. expected={self.task.answer}"


class PaysForm(Sums):
    """Counts tags."""

    success = None

    @reward(weight=0.2)
    def form(self, episode: Trajectory) -> float:
        return float(episode.final_text.count("<answer>"))


class PaysLength(Sums):
    """Thinks that long is thorough."""

    success = None

    @reward(weight=0.0001)
    def thorough(self, episode: Trajectory) -> float:
        return float(len(episode.final_text))


class FewAnswers(Sums):
    """Always the same answer."""

    def tasks(self, split: str) -> Iterator[Task]:
        for n in range(16):
            yield Task(f"Is {n} from {split} a number?", answer="Certainly")


class PaysNothingDone(Sums):
    """Solved unless it is said to be unsolved."""

    @reward
    def right(self, episode: Trajectory) -> float:
        return float("wrong" not in episode.final_text)


class BelievesClaims(Sums):
    """A judge that can be talked to."""

    @reward
    def right(self, episode: Trajectory) -> float:
        return float("verdict: correct" in episode.final_text.lower())


class Trips(Sums):
    """Raises at an answer that is no number."""

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(int(episode.final_text or 0) == int(episode.task.answer))


@pytest.mark.parametrize(
    ("env", "attack"),
    [
        (AnswerSomewhere, "every number"),
        (PaysCalls, "endless calls"),
        (PaysToolOutput, "print"),
        (PaysToolOutput, "every number, by tools"),
        (Evaluates, "question, in tags"),
        (TellsInThePrompt, "marked"),
        (PaysForm, "empty tags"),
        (PaysForm, "tags"),
        (PaysLength, "long"),
        (FewAnswers, "other task"),
        (BelievesClaims, "claim"),
    ],
)
async def test_an_exploit_is_caught(env: type[Env], attack: str) -> None:
    report = await audit(env(), tasks=6, only=[attack])
    assert [outcome.attack.name for outcome in report.found] == [attack]
    assert report.found[0].gain > 0.5


async def test_an_answer_that_a_tool_gives_away_is_caught() -> None:
    class Loose(TellsWhenAsked):
        @reward
        def right(self, episode: Trajectory) -> float:
            return float(f"<answer>{episode.task.answer}</answer>" in episode.final_text)

    report = await audit(Loose(), tasks=6, only=["snoop"])
    assert [outcome.attack.name for outcome in report.found] == ["snoop"]
    assert not (await audit(TellsWhenAsked(), tasks=6, only=["snoop"])).found  # it wants the number alone


async def test_what_pays_for_nothing_is_caught_though_no_attack_gains() -> None:
    report = await audit(PaysNothingDone(), tasks=4, only=["echo"])
    assert [outcome.attack.name for outcome in report.found] == ["nothing"]
    assert report.outcomes[1].gain == 0.0


async def test_a_reward_that_raises_is_a_finding_and_the_audit_goes_on() -> None:
    report = await audit(Trips(), tasks=4, only=["echo", "last number"])
    assert [outcome.attack.name for outcome in report.found] == ["echo"]
    assert "ValueError" in report.found[0].problem
    assert [outcome.passed for outcome in report.outcomes] == [True, False, True]


async def test_an_honest_environment_passes_every_attack() -> None:
    seen: list[str] = []
    report = await audit(Sums(), tasks=4, on_outcome=lambda outcome: seen.append(outcome.attack.name))
    assert report.passed and report.worth == 1.0 and report.tasks == 4
    assert seen == [outcome.attack.name for outcome in report.outcomes] and len(set(seen)) == len(seen) > 35
    assert all(outcome.result is not None and outcome.result.episodes == 4 for outcome in report.outcomes)


async def test_a_penalty_avoided_is_no_gain_and_rewards_are_measured_by_the_experts() -> None:
    class Penalises(Sums):
        @reward(weight=50)
        def right(self, episode: Trajectory) -> float:
            text = episode.final_text.strip()
            return -1.0 if not text else float(text == episode.task.answer) + 0.05

    report = await audit(Penalises(), tasks=4, only=["echo"])
    assert report.outcomes[0].result is not None and report.outcomes[0].result.reward == -50
    assert report.worth == pytest.approx(52.5)
    assert report.outcomes[1].gain == 1.0  # success: any reward of the component above 0
    Penalises.success = "solved"

    class Named(Penalises):
        @reward(weight=0)
        def solved(self, episode: Trajectory) -> float:
            return float(episode.final_text.strip() == episode.task.answer)

    [_, echo] = (await audit(Named(), tasks=4, only=["echo"])).outcomes
    assert echo.passed and echo.gain == pytest.approx(0.05 * 50 / 52.5)


async def test_the_same_seed_draws_and_plays_the_same() -> None:
    async def found(seed: int) -> list[Any]:
        report = await audit(Sums(), tasks=3, seed=seed, only=["endless calls"])
        return [
            [(each.task, each.calls, each.tokens) for each in o.result.results]
            for o in report.outcomes
            if o.result
        ]

    assert await found(1) == await found(1) != await found(2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 0.0}, "between 0 and 1"),
        ({"only": ["bribe"]}, "no attack 'bribe'"),
        ({"tasks": 0}, "at least 1"),
        ({"split": "dev"}, "no tasks in split 'dev'"),
    ],
)
async def test_arguments_that_do_not_fit(changes: dict[str, Any], words: str) -> None:
    class TwoSplits(Sums):
        def tasks(self, split: str) -> Iterator[Task]:
            return iter(()) if split == "dev" else super().tasks(split)

    with pytest.raises(ConfigError, match=words):
        await audit(TwoSplits(), **{"tasks": 2, "only": ["echo"], **changes})
