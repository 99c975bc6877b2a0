"""The customer at the desk: a script that reveals one goal after the other, or a model that is told them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentrl import Message, say
from agentrl.envs.retail import shop
from agentrl.envs.retail.goals import Goal
from agentrl.envs.users import ModelUser, agrees
from agentrl.rewards.state import changes, facts

_WHO = re.compile(r"\b(e-?mail|name|postcode|zip|identi\w+|verify|who)\b", re.IGNORECASE)
_NO = re.compile(r"\b(can ?not|can't|unable|not possible|not allowed|not eligible|sorry)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b\d{4}\b")
_PRICE = re.compile(r"\d+\.\d\d")


@dataclass
class Visit:
    """A customer's state in one episode.

    Args:
        goals: in the order in which they are revealed.
        identity: what the customer says when asked who it is.
        patience: messages that lead nowhere before it leaves.
        talk: what was said, the customer's words as ``user``.
        at: the goal that it is at.
    """

    goals: list[Goal]
    identity: str
    patience: int
    talk: list[Message] = field(default_factory=list)
    at: int = 0

    def hear(self, text: str) -> None:
        """Note what the policy said."""
        self.talk.append(say(text))

    def speak(self, text: str) -> str:
        """Note what the customer says."""
        self.talk.append({"role": "user", "content": text})
        return text

    def said(self, role: str) -> list[str]:
        """All that one side said."""
        return [str(message["content"]) for message in self.talk if message["role"] == role]

    def agreed(self, mentions: list[str]) -> bool:
        """Whether the customer said yes to a message that names all of these."""
        pairs = zip(self.talk, self.talk[1:], strict=False)
        return any(
            asked["role"] == "assistant"
            and agrees(str(answer["content"]))
            and names(str(asked["content"]), mentions)
            for asked, answer in pairs
        )


def names(text: str, mentions: list[str]) -> bool:
    """Whether a text has each of these, as whole words."""
    return all(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text, re.IGNORECASE) for each in mentions)


def tells(text: str, price: str) -> bool:
    """Whether a text names this price, and no other: who lists them all has told none."""
    return set(_PRICE.findall(text)) == {price}


class Customer(Protocol):
    """Who answers the policy. Holds nothing of an episode: that is in the visit."""

    async def answer(self, visit: Visit, state: shop.State, start: dict[str, Any]) -> str | None:
        """What the customer says next; ``None`` when it leaves."""


class Scripted:
    """Follows the goals in their order and says yes to what names a goal's details, and to nothing else."""

    async def answer(self, visit: Visit, state: shop.State, start: dict[str, Any]) -> str | None:
        """The customer's next words, by what was said last and what has been done."""
        heard = visit.said("assistant")[-1]
        goal = visit.goals[visit.at]
        if self._settled(goal, heard, state, start):
            visit.at += 1
            return None if visit.at == len(visit.goals) else f"Thanks. {visit.goals[visit.at].say}"
        if goal.tool and names(heard, goal.mentions) and not _others(heard, goal, state) and not goal.refused:
            return "Yes."
        if _WHO.search(heard) and visit.identity not in visit.said("user"):
            return visit.identity
        visit.patience -= 1
        return None if visit.patience < 0 else f"No. {goal.say}"

    @staticmethod
    def _settled(goal: Goal, heard: str, state: shop.State, start: dict[str, Any]) -> bool:
        if goal.told:
            return tells(heard, goal.told)
        if goal.refused:
            return _NO.search(heard) is not None
        order = f"orders.{goal.arguments['order_id']}."
        return any(path.startswith(order) for path in changes(start, facts(state)))


def _others(text: str, goal: Goal, state: shop.State) -> set[str]:
    """Orders and items that a text names beside those that the goal is about."""
    return set(_NUMBER.findall(text)) & shop.numbers(state) - set(goal.mentions)


class Played:
    """A model in the customer's part.

    Args:
        user: who plays it.
    """

    def __init__(self, user: ModelUser) -> None:
        self.user = user

    async def answer(self, visit: Visit, state: shop.State, start: dict[str, Any]) -> str | None:
        """The model's next words. Raises InfrastructureError where it gives none."""
        requests = "\n".join(f"{number}. {goal.say}" for number, goal in enumerate(visit.goals, 1))
        part = (
            f"You are a customer of a shop. Only when asked who you are you say: {visit.identity}\nWhat you "
            "want, one after the other, the next only when the one before is settled or was declined:\n"
            f"{requests}"
        )
        return await self.user.answer(part, visit.talk)
