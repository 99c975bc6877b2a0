"""The shop's goods and what customers did: plain data, made from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

GOODS = {
    "kitchen": ("kettle", "pan", "mug", "teapot", "toaster"),
    "office": ("lamp", "notebook", "stapler", "desk organiser", "pencil case"),
    "garden": ("watering can", "rake", "bird house", "lantern", "bench"),
    "travel": ("backpack", "umbrella", "water bottle", "suitcase", "travel pillow"),
}
"""Things, by category."""
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "grey", "orange")
MAKERS = ("Alder", "Brook", "Cedar", "Dune", "Elm", "Fjord", "Grove", "Heath")
NAMES = ("Ada Lind", "Ben Okoro", "Cleo Marsh", "Dan Ruiz", "Eve Novak", "Finn Berg", "Gia Rossi", "Hal Sato")
STREETS = ("Mill Lane", "Station Road", "Park Street", "High Street", "River Walk", "Oak Avenue")
CITIES = ("Leeds", "Ghent", "Turin", "Malmo", "Porto", "Bern", "Lyon", "Graz")
SHIPPING = ("standard", "express")
MOST_PIECES = 9
SIZE = 24


@dataclass(frozen=True)
class Product:
    """Something to buy; ``cents`` is its price and ``rating`` of 5 stars, in tenths."""

    id: int
    name: str
    category: str
    cents: int
    rating: int

    @property
    def price(self) -> str:
        """As it is shown."""
        return f"${self.cents / 100:.2f}"


@dataclass
class Order:
    """What was bought: pieces by product, where to, and whether it was cancelled."""

    pieces: dict[int, int]
    address: str
    shipping: str = "standard"
    cancelled: bool = False


@dataclass
class Store:
    """Everything that an episode can change, beside the goods.

    Attributes:
        sessions: the cookies that are signed in.
    """

    products: tuple[Product, ...]
    customer: str
    password: str
    street: str
    city: str
    cart: dict[int, int] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)

    @property
    def address(self) -> str:
        """Where orders go to."""
        return f"{self.street}, {self.city}"

    def product(self, number: int) -> Product | None:
        """The product with a number."""
        return next((product for product in self.products if product.id == number), None)

    def search(self, words: str, category: str, order: str) -> list[Product]:
        """Products with all the words in their names, of a category, sorted."""
        found = [
            product
            for product in self.products
            if all(word in product.name.lower() for word in words.lower().split())
            and category in ("", product.category)
        ]
        keys = {"price": lambda p: p.cents, "rating": lambda p: -p.rating}
        return sorted(found, key=keys[order]) if order in keys else found

    def put(self, number: int, pieces: int) -> None:
        """Have so many of a product in the cart; 0 takes it out."""
        self.cart.pop(number, None)
        if pieces > 0 and self.product(number) is not None:
            self.cart[number] = min(pieces, MOST_PIECES)

    def buy(self, street: str, city: str, shipping: str) -> Order | None:
        """Order what is in the cart."""
        if not self.cart or shipping not in SHIPPING or not street.strip() or not city.strip():
            return None
        order = Order(dict(self.cart), f"{street.strip()}, {city.strip()}", shipping)
        self.orders.append(order)
        self.cart.clear()
        return order

    def facts(self) -> tuple[object, ...]:
        """What a task is judged by: all but who is signed in and the order in which the cart was filled."""
        orders = [(sorted(o.pieces.items()), o.address, o.shipping, o.cancelled) for o in self.orders]
        return self.address, sorted(self.cart.items()), orders


def make_store(rng: random.Random) -> Store:
    """A shop with its goods, of one customer. No two products have one name or, in a category, one price."""
    names: set[str] = set()
    prices: set[tuple[str, int]] = set()
    products: list[Product] = []
    while len(products) < SIZE:
        category = rng.choice(list(GOODS))
        name = f"{rng.choice(MAKERS)} {rng.choice(COLOURS)} {rng.choice(GOODS[category])}"
        cents = rng.randrange(500, 9000, 5)
        if name not in names and (category, cents) not in prices:
            names.add(name)
            prices.add((category, cents))
            products.append(Product(len(products) + 1, name, category, cents, rng.randint(20, 50)))
    city, password = rng.choice(CITIES), str(rng.randrange(1000, 10000))
    street = f"{rng.randint(1, 99)} {rng.choice(STREETS)}"
    return Store(tuple(products), rng.choice(NAMES), password, street, city)
