"""A retail desk: a customer wants orders changed; a policy text says what may be done, and how.

An episode is solved when the database is as it should be, what was asked was told, and no rule was broken.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping
from typing import Any

from agentrl import (
    ConfigError,
    Env,
    Expert,
    Message,
    Splits,
    Task,
    ToolError,
    Trajectory,
    call,
    reward,
    say,
    split_size,
    tool,
)
from agentrl.envs.retail import shop
from agentrl.envs.retail.customer import Customer, Played, Scripted, Visit, names, tells
from agentrl.envs.retail.goals import PLANS, Goal, as_data, draw, wanted
from agentrl.envs.users import ModelUser
from agentrl.rewards.endpoint import Endpoint
from agentrl.rewards.state import compare, facts

TEST_SIZE = 256
SIZES: Mapping[int, tuple[int, int, int]] = {1: (2, 2, 1), 2: (4, 4, 2), 3: (6, 5, 2)}
"""By difficulty: users, orders of each, and items of an order at most."""

TOOLS = {1: ["find_user", "cancel_order"]}
SHORT = "Find the user. Ask before you cancel."
POLICY = f"""You serve customers of a shop. The rules:
- Find the customer with find_user first, by e-mail, or by name and postcode, as they give them. Look at and
  change the orders of this customer only.
- Before every change, name the ids of the order and the items (and a new address) in a question. Make the
  change only after the customer's yes.
- Pending orders can be cancelled, and their address changed. Others cannot.
- Items of orders delivered at most {shop.RETURN_DAYS} days ago can be returned.
- Items of these, and of pending orders, can be exchanged for another variant of the same product that is in
  stock.
- What the rules do not allow you decline: say that you cannot do it, and do nothing else instead.
- One thing at a time. Say when it is done, and wait for what comes next."""


class Retail(Env):
    """A customer's requests to a shop, met by tools on its database, under rules.

    Args:
        difficulty: 1 (cancel one order), 2 (one or two requests of five kinds) or 3 (up to four, some of
            which the rules forbid).
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other shops.
        user: a model that plays the customer, instead of the script: fields of
            :class:`agentrl.rewards.endpoint.Endpoint`, at least ``url`` and ``model``.
        patience: of the scripted customer: messages that lead nowhere before it leaves.
        expert_rate: the share of episodes in which the expert keeps to the rules.

    Raises:
        ConfigError: an option does not fit.
    """

    name = "retail"
    success = "solved"

    def __init__(
        self,
        difficulty: int = 2,
        size: int = 1000,
        seed: int = 0,
        user: Mapping[str, Any] | None = None,
        patience: int = 3,
        expert_rate: float = 1.0,
    ) -> None:
        super().__init__(prompt=SHORT if difficulty == 1 else POLICY)
        if difficulty not in PLANS:
            raise ConfigError(f"difficulty={difficulty!r} must be 1, 2 or 3.")
        if size < 4 or patience < 0 or not 0 <= expert_rate <= 1:
            raise ConfigError(
                f"size={size} must be at least 4, patience={patience} not below 0, and "
                f"expert_rate={expert_rate} from 0 to 1."
            )
        self.difficulty, self.size, self.seed = difficulty, size, seed
        self.patience, self.expert_rate = patience, expert_rate
        self.customer: Customer = Scripted() if user is None else Played(ModelUser(_endpoint(user)))
        self._splits = Splits(self._make, key=lambda task: task.metadata["shop"])

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made once; each has a shop of its own.

        Raises:
            ConfigError: the split is unknown.
        """
        return self._splits(split)

    def _make(self, split: str, _: set[Hashable]) -> list[Task]:
        count = split_size(split, self.size, TEST_SIZE)
        made: list[Task] = []
        number = 0
        while len(made) < count:
            key = f"{self.seed} {split} {number}"
            number += 1
            state = self._shop(key)
            rng = random.Random(f"goals {key}")
            user = rng.choice(sorted(state["users"]))
            goals = draw(state, user, rng.choice(PLANS[self.difficulty]), rng)
            if goals is not None:
                made.append(self._task(key, state, user, goals, rng))
        return made

    def _shop(self, key: str) -> shop.State:
        return shop.make(random.Random(key), *SIZES[self.difficulty])

    def _task(self, key: str, state: shop.State, user: str, goals: list[Goal], rng: random.Random) -> Task:
        who = state["users"][user]
        by_email = self.difficulty == 1 or rng.random() < 0.5
        identity = {"email": who["email"]} if by_email else {"name": who["name"], "postcode": who["postcode"]}
        words = f"I am {', '.join(identity.values())}."
        opening = f"{goals[0].say} {words}" if self.difficulty == 1 else f"Hello. {goals[0].say}"
        metadata = {"shop": key, "goals": as_data(goals), "identity": identity, "words": words}
        if self.difficulty in TOOLS:
            metadata["tools"] = TOOLS[self.difficulty]
        return Task(opening, answer=wanted(state, goals), metadata=metadata)

    async def reset(self, task: Task) -> None:
        """Open the task's shop for the customer."""
        self.state = self._shop(task.metadata["shop"])
        self.start = facts(self.state)
        self.user = ""
        self.breaches: list[str] = []
        goals = [Goal(**goal) for goal in task.metadata["goals"]]
        self.visit = Visit(goals, task.metadata["words"], self.patience)
        self.visit.speak(task.prompt)

    async def reply(self, text: str) -> str | None:
        """The customer's answer."""
        self.visit.hear(text)
        answer = await self.customer.answer(self.visit, self.state, self.start)
        return None if answer is None else self.visit.speak(answer)

    # ---- tools ----------------------------------------------------------------------------------

    @tool
    async def find_user(self, email: str = "", name: str = "", postcode: str = "") -> str:
        """Find a user by email, or by name and postcode.

        Args:
            email: as the customer gave it
            name: first and last name
            postcode: as the customer gave it
        """
        if not email and not (name and postcode):
            raise ToolError("Give an email, or a name and a postcode.")
        given = {"email": email} if email else {"name": name, "postcode": postcode}
        for number, user in self.state["users"].items():
            if all(user[key].lower() == value.strip().lower() for key, value in given.items()):
                if not names(" ".join(self.visit.said("user")), [user[key] for key in given]):
                    self.breaches.append("found a user by what the customer had not said")
                self.user = number
                return self._shown(number)
        raise ToolError("There is no such user.")

    def _shown(self, number: str) -> str:
        user = self.state["users"][number]
        lines = [f"user {number}: {user['name']}, {user['address']}"] if self.difficulty > 1 else []
        for order, what in self.state["orders"].items():
            if what["user"] == number:
                held = ", ".join(self._called(item) for item in what["items"])
                lines.append(f"order {order} {what['status']}: {held}")
        return "\n".join(lines)

    def _called(self, item: str) -> str:
        found = shop.variant(self.state, item)
        return "" if found is None else f"{found['variant']} {found['product']}"

    @tool
    async def get_order(self, order_id: str) -> str:
        """Look at an order.

        Args:
            order_id: its number
        """
        order = self._order(order_id)
        when = f" {order['days']} days ago" if order["status"] == "delivered" else ""
        lines = [f"order {order_id}: {order['status']}{when}, to {order['address']}"]
        for item, held in order["items"].items():
            found = shop.variant(self.state, item)
            assert found is not None
            lines.append(
                f"item {item}: {found['variant']} {found['product']}, {found['price']}, {held['state']}"
            )
        return "\n".join(lines)

    @tool
    async def get_product(self, product: str) -> str:
        """See the variants of a product.

        Args:
            product: its name, such as lamp
        """
        if product not in self.state["products"]:
            raise ToolError(
                f"There is no product {product[:40]!r}; there are {', '.join(self.state['products'])}."
            )
        return "\n".join(
            f"item {item}: {each['variant']}, {each['price']}, {'in stock' if each['stock'] else 'sold out'}"
            for item, each in self.state["products"][product].items()
        )

    @tool
    async def cancel_order(self, order_id: str) -> str:
        """Cancel an order.

        Args:
            order_id: its number
        """
        return self._change("cancel_order", order_id=order_id)

    @tool
    async def change_address(self, order_id: str, address: str) -> str:
        """Send an order to another address.

        Args:
            order_id: its number
            address: number and street
        """
        return self._change("change_address", order_id=order_id, address=shop.plain(address))

    @tool
    async def return_item(self, order_id: str, item_id: str) -> str:
        """Take an item back.

        Args:
            order_id: the order's number
            item_id: the item's number
        """
        return self._change("return_item", order_id=order_id, item_id=item_id)

    @tool
    async def exchange_item(self, order_id: str, item_id: str, new_item_id: str) -> str:
        """Exchange an item for another variant.

        Args:
            order_id: the order's number
            item_id: the item's number
            new_item_id: the number of the variant that is sent instead
        """
        return self._change("exchange_item", order_id=order_id, item_id=item_id, new_item_id=new_item_id)

    def _order(self, number: str) -> dict[str, Any]:
        order: dict[str, Any] | None = self.state["orders"].get(number)
        if order is None:
            raise ToolError(f"There is no order {number[:20]!r}.")
        if order["user"] != self.user:
            self.breaches.append(f"order {number} is not of the customer that was found")
        return order

    def _change(self, what: str, **arguments: str) -> str:
        """Do as told, and note which rules that breaks."""
        order = self._order(arguments["order_id"])
        if arguments.get("item_id", next(iter(order["items"]))) not in order["items"]:
            raise ToolError(f"There is no item {arguments['item_id'][:20]!r} in this order.")
        new = arguments.get("new_item_id")
        if new is not None and shop.variant(self.state, new) is None:
            raise ToolError(f"There is no item {new[:20]!r}.")
        if broken := shop.forbidden(self.state, what, arguments):
            self.breaches.append(broken)
        if not self.visit.agreed(list(arguments.values())):
            self.breaches.append(f"{what} without the customer's yes")
        shop.change(self.state, what, arguments)
        return "Done."

    # ---- rewards --------------------------------------------------------------------------------

    @reward
    def solved(self, episode: Trajectory) -> bool:
        """Whether the database is as wanted, all that was asked was told, and every rule was kept."""
        return bool(self.reached(episode) and self.kept(episode) and self.told(episode))

    @reward(weight=0)
    def reached(self, episode: Trajectory) -> bool:
        """Whether the database is as wanted, with nothing else changed."""
        found = compare(self.start, facts(self.state), episode.task.answer)
        episode.metadata["missing"], episode.metadata["collateral"] = (
            list(found.missing),
            list(found.collateral),
        )
        return found.reached

    @reward(weight=0)
    def kept(self, episode: Trajectory) -> bool:
        """Whether every rule was kept."""
        episode.metadata["breaches"] = list(self.breaches)
        return not self.breaches

    @reward(weight=0)
    def told(self, episode: Trajectory) -> bool:
        """Whether all that the customer asked was told."""
        said = self.visit.said("assistant")
        return all(any(tells(text, goal.told) for text in said) for goal in self.visit.goals if goal.told)

    # ---- the expert -----------------------------------------------------------------------------

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Keeps to the rules, or forgets one of them: to find the user, or to ask."""
        careless = rng.random() >= self.expert_rate
        forgets_user = careless and rng.random() < 0.5
        if not forgets_user:
            if self.difficulty > 1:
                yield say("Who are you? Please give your e-mail, or your name and postcode.")
            yield call("find_user", **task.metadata["identity"])
        for goal in [Goal(**goal) for goal in task.metadata["goals"]]:
            yield from self._meet(goal, asks=not careless or forgets_user)
        while True:
            yield say("Good bye.")

    def _meet(self, goal: Goal, *, asks: bool) -> Expert:
        if self.difficulty > 1:
            for number, order in self.state["orders"].items():
                if order["user"] == self.user:
                    yield call("get_order", order_id=number)
        if not goal.tool:
            yield say(f"It costs {goal.told}.")
            return
        if goal.tool == "exchange_item":
            found = shop.variant(self.state, goal.arguments["item_id"])
            assert found is not None
            yield call("get_product", product=found["product"])
        if goal.refused:
            yield say("I am sorry, I cannot do that.")
            return
        if asks:
            yield _question(goal)
        yield call(goal.tool, **goal.arguments)
        yield say("Done.")


def _question(goal: Goal) -> Message:
    order, *more = goal.arguments.values()
    asked = {
        "cancel_order": "Cancel order {0}?", "change_address": "Send order {0} to {1}?",
        "return_item": "Return item {1} of order {0}?",
        "exchange_item": "Exchange item {1} of order {0} for {2}?",
    }  # fmt: skip
    return say(asked[goal.tool].format(order, *more))


def _endpoint(fields: Mapping[str, Any]) -> Endpoint:
    try:
        return Endpoint(**fields)
    except TypeError as problem:
        raise ConfigError(f"user={dict(fields)} does not describe an endpoint: {problem}.") from problem
