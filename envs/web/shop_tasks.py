"""Errands in the shop: what is asked for, what the shop is to be afterwards, and how it is done."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass

from agentrl import Message, call, say
from agentrl.envs.web.seen import Seen, Steps, choose, click, write
from agentrl.envs.web.store import CITIES, SHIPPING, STREETS, Order, Store


@dataclass(frozen=True)
class Errand:
    """A task in the shop.

    Args:
        asked: what the model reads.
        wanted: the shop's facts afterwards.
        script: solves it, from what the pages show.
        answer: what the final message has to be, where one is asked for.
    """

    asked: str
    wanted: tuple[object, ...]
    script: Callable[[Seen], Steps]
    answer: str | None = None


def product(store: Store, rng: random.Random) -> Errand:
    """Something by its name."""
    wanted, pieces = rng.choice(store.products), rng.randint(1, 3)

    def script(page: Seen) -> Steps:
        page = yield from _find(page, wanted.name)
        yield from _add(page, pieces)

    return Errand(
        f"Put {pieces} of the {wanted.name} into the cart.",
        _after(store, lambda shop: shop.put(wanted.id, pieces)),
        script,
    )


def price(store: Store, rng: random.Random) -> Errand:
    """What something costs."""
    wanted = rng.choice(store.products)

    def script(page: Seen) -> Steps:
        page = yield from _find(page, wanted.name)
        yield say(next(line for line in page.text.splitlines() if "$" in line).partition("$")[2])

    asked = f"What does the {wanted.name} cost? Answer with the number alone, such as 12.50."
    return Errand(asked, store.facts(), script, answer=wanted.price.removeprefix("$"))


def order(store: Store, rng: random.Random) -> Errand:
    """Buy something, to the usual address."""
    wanted, pieces, shipping = rng.choice(store.products), rng.randint(1, 3), rng.choice(SHIPPING)

    def script(page: Seen) -> Steps:
        page = yield from _find(page, wanted.name)
        page = yield from _add(page, pieces)
        yield from _check_out(page, shipping)

    def buy(shop: Store) -> None:
        shop.put(wanted.id, pieces)
        shop.buy(shop.street, shop.city, shipping)

    asked = f"Order {pieces} of the {wanted.name} with {shipping} shipping."
    return Errand(asked, _after(store, buy), script)


def cheapest(store: Store, rng: random.Random) -> Errand:
    """Buy the cheapest of a category."""
    category = rng.choice(sorted({each.category for each in store.products}))
    wanted = store.search("", category, "price")[0]

    def script(page: Seen) -> Steps:
        page = yield from _do(click(page.first("link", category)))
        page = yield from _do(choose(page.first("combobox", "Sort by"), "price"))
        page = yield from _do(click(page.first("button", "Find")))
        page = yield from _do(click(page.after("button Find", "link")))
        page = yield from _add(page, 1)
        yield from _check_out(page, "standard")

    def buy(shop: Store) -> None:
        shop.put(wanted.id, 1)
        shop.buy(shop.street, shop.city, "standard")

    asked = f"Order one of the cheapest product in the category {category}, with standard shipping."
    return Errand(asked, _after(store, buy), script)


def empty(store: Store, rng: random.Random) -> Errand:
    """Take something out of the cart."""
    chosen = rng.sample(store.products, 3)
    for each in chosen:
        store.put(each.id, rng.randint(1, 3))
    unwanted = rng.choice(chosen)

    def script(page: Seen) -> Steps:
        page = yield from _do(click(next(link for link in page.all("link") if "Cart" in link.text)))
        yield click(page.first("button", f"Remove {unwanted.name}"))

    return Errand(
        f"Remove the {unwanted.name} from the cart.",
        _after(store, lambda shop: shop.put(unwanted.id, 0)),
        script,
    )


def move(store: Store, rng: random.Random) -> Errand:
    """Another address."""
    street = f"{rng.randint(100, 199)} {rng.choice(STREETS)}"
    city = rng.choice([each for each in CITIES if each != store.city])

    def script(page: Seen) -> Steps:
        page = yield from _sign_in(page, store.password)
        page = yield from _do(write(page.first("textbox", "Street"), street))
        page = yield from _do(write(page.first("textbox", "City"), city))
        yield click(page.first("button", "Save address"))

    def change(shop: Store) -> None:
        shop.street, shop.city = street, city

    asked = f"Change the address of the account to {street}, {city}. The password is {store.password}."
    return Errand(asked, _after(store, change), script)


def cancel(store: Store, rng: random.Random) -> Errand:
    """Cancel the order with something in it."""
    chosen = rng.sample(store.products, 6)
    pairs = zip(chosen[::2], chosen[1::2], strict=True)
    store.orders = [Order({a.id: 1, b.id: rng.randint(1, 3)}, store.address) for a, b in pairs]
    index = rng.randrange(3)
    known = chosen[2 * index]

    def script(page: Seen) -> Steps:
        page = yield from _sign_in(page, store.password)
        row = next(line for line in page.text.splitlines() if known.name in line)
        yield click(Seen(row).first("button"))

    def change(shop: Store) -> None:
        shop.orders[index].cancelled = True

    asked = f"Cancel the order that has the {known.name} in it. The password is {store.password}."
    return Errand(asked, _after(store, change), script)


KINDS: dict[str, Callable[[Store, random.Random], Errand]] = {
    make.__name__: make for make in (product, price, order, cheapest, empty, move, cancel)
}
"""How each kind of errand is made: it may change the store, and says what is to become of it."""


def _after(store: Store, change: Callable[[Store], object]) -> tuple[object, ...]:
    changed = copy.deepcopy(store)
    change(changed)
    return changed.facts()


# ---- steps of the scripts ----------------------------------------------------------------------------

Doing = Generator[Message, list[str], Seen]


def _do(message: Message) -> Doing:
    """A call, and the page after it."""
    [text] = yield message
    return Seen(text)


def _find(page: Seen, name: str) -> Doing:
    """The page of a product."""
    page = yield from _do(write(page.first("textbox", "Search"), name, enter=True))
    return (yield from _do(click(page.first("link", name))))


def _add(page: Seen, pieces: int) -> Doing:
    """Put so many of the product of this page into the cart."""
    if pieces > 1:
        page = yield from _do(choose(page.first("combobox", "Pieces"), str(pieces)))
    return (yield from _do(click(page.first("button", "Add to cart"))))


def _check_out(page: Seen, shipping: str) -> Steps:
    """Order what is in the cart."""
    page = yield from _do(click(page.first("link", "Check out")))
    if shipping != SHIPPING[0]:
        page = yield from _do(choose(page.first("combobox", "Shipping"), shipping))
    yield click(page.first("button", "Place order"))


def _sign_in(page: Seen, password: str) -> Doing:
    """The customer's account."""
    page = yield from _do(call("goto", url="/account"))
    return (yield from _do(write(page.first("textbox", "Password"), password, enter=True)))
