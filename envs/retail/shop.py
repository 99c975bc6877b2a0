"""The world of the retail desk: users, orders and products, made from a seed; and what may be done to them.

A state is plain data. Changes do what they are told, as a back office does; whether they keep to the rules is
said by :func:`forbidden`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

State = dict[str, Any]

RETURN_DAYS = 30

PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "lamp": ("black", "white", "brass"), "mug": ("blue", "green", "white"),
    "kettle": ("steel", "red", "black"),
    "chair": ("oak", "black", "white"), "tent": ("green", "orange", "grey"),
    "watch": ("silver", "gold", "black"),
    "jacket": ("blue", "grey", "red"), "boots": ("brown", "black", "tan"), "desk": ("oak", "walnut", "white"),
    "radio": ("red", "black", "cream"), "clock": ("white", "oak", "steel"), "scarf": ("red", "green", "grey"),
}  # fmt: skip
"""And the variants of each."""

NAMES = ("Ada Byron", "Ben Okoro", "Cleo Marsh", "Dan Silva", "Eva Lindt", "Finn Moran", "Gia Rossi",
         "Hal Weber", "Ida Novak", "Jon Reyes", "Kim Tanaka", "Leo Brandt", "Mia Costa",
         "Ned Avery", "Ola Berg", "Pia Haas")  # fmt: skip
STREETS = (
    "Mill Road",
    "Park Lane",
    "High Street",
    "Elm Avenue",
    "Station Road",
    "Church Lane",
    "Harbour Way",
)
STATUSES = ("pending", "shipped", "delivered", "delivered")


def address(rng: random.Random) -> str:
    """A made-up one."""
    return f"{rng.randint(2, 98)} {rng.choice(STREETS)}"


def make(rng: random.Random, users: int, orders: int, items: int) -> State:
    """A shop.

    Args:
        users: how many.
        orders: of each user; none of a user's products is in two of them.
        items: in an order at most.
    """
    numbers = iter(rng.sample(range(1000, 10_000), 500))
    products = {
        product: {
            str(next(numbers)): {
                "variant": variant, "price": f"{rng.randint(500, 9900) / 100:.2f}", "stock": True,
            }
            for variant in variants
        }
        for product, variants in PRODUCTS.items()
    }  # fmt: skip
    state: State = {"users": {}, "orders": {}, "products": products}
    for name in rng.sample(NAMES, users):
        user = str(next(numbers))
        state["users"][user] = {
            "name": name, "email": f"c{next(numbers)}@mail.net",
            "postcode": str(rng.randint(10_000, 99_999)), "address": address(rng),
        }  # fmt: skip
        wares = rng.sample(sorted(PRODUCTS), orders * items)
        for number in range(orders):
            bought = wares[number * items : number * items + rng.randint(1, items)]
            state["orders"][str(next(numbers))] = _order(rng, state, user, bought)
    for variants in products.values():  # one variant of each product is sold out
        variants[rng.choice(sorted(variants))]["stock"] = False
    return state


def _order(rng: random.Random, state: State, user: str, wares: list[str]) -> State:
    status = rng.choice(STATUSES)
    days = rng.choice((rng.randint(2, RETURN_DAYS - 2), rng.randint(RETURN_DAYS + 5, 90)))
    items = {}
    for ware in wares:
        item = rng.choice(sorted(state["products"][ware]))
        items[item] = {"product": ware, "state": "sold"}
    return {
        "user": user, "status": status, "days": days if status == "delivered" else 0,
        "address": state["users"][user]["address"], "items": items,
    }  # fmt: skip


def change(state: State, tool: str, arguments: Mapping[str, str]) -> None:
    """Do what a tool does. The order, and the items where some are named, are there."""
    order = state["orders"][arguments["order_id"]]
    if tool == "cancel_order":
        order["status"] = "cancelled"
    elif tool == "change_address":
        order["address"] = plain(arguments["address"])
    elif tool == "return_item":
        order["items"][arguments["item_id"]]["state"] = "returned"
    else:
        order["items"][arguments["item_id"]]["state"] = f"exchanged for {arguments['new_item_id']}"


def forbidden(state: State, tool: str, arguments: Mapping[str, str]) -> str | None:
    """Which rule a change would break, if any."""
    order = state["orders"][arguments["order_id"]]
    status = order["status"]
    fresh = status == "delivered" and order["days"] <= RETURN_DAYS
    if tool in ("cancel_order", "change_address"):
        return None if status == "pending" else f"{tool} on an order that is {status}"
    item = order["items"][arguments["item_id"]]
    if item["state"] != "sold":
        return f"{tool} of an item that is {item['state']}"
    if tool == "return_item":
        return None if fresh else f"{tool} of an order that is {status}, after {order['days']} days"
    if not fresh and status != "pending":
        return f"{tool} in an order that is {status}, after {order['days']} days"
    offered = state["products"][item["product"]].get(arguments["new_item_id"])
    if offered is None:
        return f"{tool} for another product"
    return None if offered["stock"] else f"{tool} for what is sold out"


def plain(text: str) -> str:
    """An address without extra spaces and final stop."""
    return " ".join(text.split()).rstrip(".")


def variant(state: State, item: str) -> dict[str, Any] | None:
    """The variant that an item id names, with its product; ``None`` if none has it."""
    for product, variants in state["products"].items():
        if item in variants:
            return {"product": product, **variants[item]}
    return None


def numbers(state: State) -> set[str]:
    """The ids of all orders and items."""
    return set(state["orders"]) | {item for variants in state["products"].values() for item in variants}
