"""What customers want: requests drawn from a shop, each with the change that meets it, if any may."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentrl.envs.retail import shop
from agentrl.rewards.state import changes, facts


@dataclass
class Goal:
    """One thing that a customer wants.

    Args:
        say: the request, in the customer's words.
        tool, arguments: the call that meets it; without a tool, it is a question.
        mentions: what a message that asks for the customer's yes has to name.
        told: the price that the policy has to name, for a question.
        refused: whether the rules forbid it, so that it is to be declined.
    """

    say: str
    tool: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    mentions: list[str] = field(default_factory=list)
    told: str = ""
    refused: bool = False


Maker = Callable[[shop.State, str, random.Random], Iterator[Goal]]


def _orders(state: shop.State, user: str) -> dict[str, Any]:
    return {number: order for number, order in state["orders"].items() if order["user"] == user}


def _called(state: shop.State, item: str) -> str:
    found = shop.variant(state, item)
    assert found is not None
    return f"{found['variant']} {found['product']}"


def _first(state: shop.State, order: Mapping[str, Any]) -> str:
    return _called(state, next(iter(order["items"])))


def _cancel(state: shop.State, user: str, rng: random.Random) -> Iterator[Goal]:
    for number, order in _orders(state, user).items():
        yield _judged(state, f"Please cancel the order with the {_first(state, order)}.", "cancel_order",
                      {"order_id": number})  # fmt: skip


def _address(state: shop.State, user: str, rng: random.Random) -> Iterator[Goal]:
    for number, order in _orders(state, user).items():
        new = shop.address(rng)
        if new != order["address"]:
            say = f"Please send the order with the {_first(state, order)} to {new}."
            yield _judged(state, say, "change_address", {"order_id": number, "address": new})


def _return(state: shop.State, user: str, rng: random.Random) -> Iterator[Goal]:
    for number, order in _orders(state, user).items():
        for item in order["items"]:
            say = f"I want to return the {_called(state, item)}."
            yield _judged(state, say, "return_item", {"order_id": number, "item_id": item})


def _exchange(state: shop.State, user: str, rng: random.Random) -> Iterator[Goal]:
    for number, order in _orders(state, user).items():
        for item, held in order["items"].items():
            for new, offered in state["products"][held["product"]].items():
                if new != item:
                    say = f"I want to exchange the {_called(state, item)} for one in {offered['variant']}."
                    what = {"order_id": number, "item_id": item, "new_item_id": new}
                    yield _judged(state, say, "exchange_item", what)


def _price(state: shop.State, user: str, rng: random.Random) -> Iterator[Goal]:
    for order in _orders(state, user).values():
        for item in order["items"]:
            found = shop.variant(state, item)
            assert found is not None
            yield Goal(f"What does the {_called(state, item)} that I ordered cost?", told=found["price"])


def _judged(state: shop.State, say: str, tool: str, arguments: dict[str, str]) -> Goal:
    refused = shop.forbidden(state, tool, arguments) is not None
    return Goal(say, tool, arguments, list(arguments.values()), refused=refused)


KINDS: Mapping[str, Maker] = {
    "cancel": _cancel,
    "address": _address,
    "return": _return,
    "exchange": _exchange,
    "price": _price,
}

PLANS: Mapping[int, Sequence[Sequence[str]]] = {
    1: (("cancel",),),
    2: (("cancel",), ("address",), ("return",), ("exchange",), ("price", "return"),
        ("cancel", "exchange")),
    3: (("cancel", "exchange", "price"), ("-return", "exchange", "address"),
        ("-cancel", "return", "exchange"), ("-exchange", "cancel"), ("price", "-address", "return"),
        ("return", "-exchange", "cancel", "price")),
}  # fmt: skip
"""By difficulty: kinds of goals in their order; those with a minus are to be declined."""


def draw(state: shop.State, user: str, plan: Sequence[str], rng: random.Random) -> list[Goal] | None:
    """Goals of a plan for a user, no two about the same order; ``None`` if the user's orders offer none."""
    chosen: list[Goal] = []
    for kind in plan:
        found = [
            goal
            for goal in KINDS[kind.lstrip("-")](state, user, rng)
            if goal.refused == kind.startswith("-") and not _overlap(goal, chosen)
        ]
        if not found:
            return None
        chosen.append(rng.choice(found))
    return chosen


def _overlap(goal: Goal, others: Sequence[Goal]) -> bool:
    return any(
        goal.tool and goal.arguments["order_id"] == other.arguments.get("order_id") for other in others
    )


def wanted(state: shop.State, goals: Sequence[Goal]) -> dict[str, Any]:
    """The facts that change when all goals are met and the others declined."""
    after = copy.deepcopy(state)
    for goal in goals:
        if goal.tool and not goal.refused:
            shop.change(after, goal.tool, goal.arguments)
    return changes(facts(state), facts(after))


def as_data(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    """For a task's metadata; ``Goal(**data)`` makes one again."""
    return [asdict(goal) for goal in goals]
