"""A small shop, served to one episode's browser alone."""

from __future__ import annotations

import copy
import random
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from agentrl import Trajectory
from agentrl.envs.web.play import Outcome, Play
from agentrl.envs.web.seen import Seen, Steps
from agentrl.envs.web.shop_pages import render
from agentrl.envs.web.shop_tasks import KINDS, Errand
from agentrl.envs.web.store import GOODS, SHIPPING, Store, make_store
from agentrl.tools.browser import OpenPage, Site

if TYPE_CHECKING:
    from aiohttp import web

PAGE_SIZE = 8
COOKIE = "session"
Form = Mapping[str, str]


class Shop(Site):
    """The shop's server.

    Args:
        store: what it sells, and what becomes of it.
    """

    host = "shop.test"

    def __init__(self, store: Store) -> None:
        self.store = store

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """A page, or where to find it."""
        from aiohttp import web

        for method, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match is not None and method == request.method:
                form = await request.post() if method == "POST" else request.query
                texts = {key: value for key, value in form.items() if isinstance(value, str)}
                return await handle(self, request, texts, *match.groups())
        return web.Response(status=404, text=self._page("missing", "Not found"), content_type="text/html")

    def _page(self, name: str, title: str, **values: Any) -> str:
        return render(name, title, store=self.store, **values)

    def _shown(self, name: str, title: str, **values: Any) -> web.Response:
        from aiohttp import web

        return web.Response(text=self._page(name, title, **values), content_type="text/html")

    def _signed_in(self, request: web.BaseRequest) -> bool:
        return request.cookies.get(COOKIE, "") in self.store.sessions

    def _total(self) -> str:
        store = self.store
        priced = ((store.product(number), pieces) for number, pieces in store.cart.items())
        return f"${sum(product.cents * pieces for product, pieces in priced if product) / 100:.2f}"

    # ---- what is shown --------------------------------------------------------------------------

    async def home(self, request: web.BaseRequest, form: Form) -> web.Response:
        """The first page."""
        return self._shown("home", "Shop", categories=list(GOODS))

    async def search(self, request: web.BaseRequest, form: Form) -> web.Response:
        """What was found, some at a time."""
        words, category, sort = form.get("q", ""), form.get("category", ""), form.get("sort", "name")
        found = self.store.search(words, category, sort)
        pages = max(1, -(-len(found) // PAGE_SIZE))
        page = min(max(_number(form.get("page", "1")), 1), pages)
        return self._shown(
            "search",
            "Goods",
            q=words,
            category=category,
            sort=sort,
            categories=list(GOODS),
            found=found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE],
            page=page,
            pages=pages,
            link="/search?" + urlencode({"q": words, "category": category, "sort": sort}),
        )

    async def product(self, request: web.BaseRequest, form: Form, number: str) -> web.StreamResponse:
        """One product."""
        from aiohttp import web

        found = self.store.product(int(number))
        if found is None:
            raise web.HTTPNotFound
        return self._shown("product", found.name, product=found)

    async def cart(self, request: web.BaseRequest, form: Form) -> web.Response:
        """What is about to be bought."""
        return self._shown("cart", "Cart", total=self._total())

    async def checkout(self, request: web.BaseRequest, form: Form) -> web.StreamResponse:
        """Where to, and how."""
        if not self.store.cart:
            return await self.cart(request, form)
        return self._shown("checkout", "Check out", total=self._total(), shipping=SHIPPING)

    async def order(self, request: web.BaseRequest, form: Form, number: str) -> web.Response:
        """An order was placed."""
        return self._shown("ordered", "Order placed", number=number)

    async def account(self, request: web.BaseRequest, form: Form) -> web.Response:
        """The customer's own page, once signed in."""
        if not self._signed_in(request):
            return self._shown("sign_in", "Sign in", wrong="wrong" in form)
        return self._shown("account", "Account")

    # ---- what changes something -------------------------------------------------------------------

    async def add(self, request: web.BaseRequest, form: Form) -> web.StreamResponse:
        """More of a product."""
        number = _number(form.get("id", ""))
        self.store.put(number, self.store.cart.get(number, 0) + _number(form.get("pieces", "")))
        return _see("/cart")

    async def put(self, request: web.BaseRequest, form: Form) -> web.StreamResponse:
        """So many of a product."""
        self.store.put(_number(form.get("id", "")), _number(form.get("pieces", "")))
        return _see("/cart")

    async def buy(self, request: web.BaseRequest, form: Form) -> web.StreamResponse:
        """Order the cart."""
        order = self.store.buy(form.get("street", ""), form.get("city", ""), form.get("shipping", ""))
        return _see(f"/orders/{len(self.store.orders)}" if order else "/checkout")

    async def sign_in(self, request: web.BaseRequest, form: Form) -> web.StreamResponse:
        """By the password."""
        if form.get("password", "") != self.store.password:
            return _see("/account?wrong=1")
        session = secrets.token_hex(8)
        self.store.sessions.add(session)
        answer = _see("/account")
        answer.set_cookie(COOKIE, session, httponly=True, samesite="Strict")
        return answer

    async def move(self, request: web.BaseRequest, form: Form) -> web.StreamResponse:
        """Another address."""
        street, city = form.get("street", "").strip(), form.get("city", "").strip()
        if self._signed_in(request) and street and city:
            self.store.street, self.store.city = street, city
        return _see("/account")

    async def cancel(self, request: web.BaseRequest, form: Form, number: str) -> web.StreamResponse:
        """No more of an order."""
        if self._signed_in(request) and 1 <= int(number) <= len(self.store.orders):
            self.store.orders[int(number) - 1].cancelled = True
        return _see("/account")


Handler = Callable[..., "Awaitable[web.StreamResponse]"]
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", Shop.home),
    ("GET", "/search", Shop.search),
    ("GET", r"/product/(\d{1,6})", Shop.product),
    ("GET", "/cart", Shop.cart),
    ("GET", "/checkout", Shop.checkout),
    ("GET", r"/orders/(\d{1,6})", Shop.order),
    ("GET", "/account", Shop.account),
    ("POST", "/cart/add", Shop.add),
    ("POST", "/cart/set", Shop.put),
    ("POST", "/checkout", Shop.buy),
    ("POST", "/sign-in", Shop.sign_in),
    ("POST", "/account", Shop.move),
    ("POST", r"/orders/(\d{1,6})/cancel", Shop.cancel),
)


class ShopPlay(Play):
    """An errand in the shop."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        rng = random.Random(f"shop {name} {seed}")
        store = make_store(rng)
        self.errand: Errand = KINDS[name](store, rng)
        self.site: Shop = Shop(store)

    async def begin(self, opened: OpenPage) -> str:
        return self.errand.asked

    async def outcome(self, opened: OpenPage, episode: Trajectory | None = None) -> Outcome:
        """1 at the end of the episode if the shop is in the state that was asked for, and in no other way
        changed, and what was asked is answered; else 0."""
        if episode is None:
            return Outcome(False, 0.0)
        right_state = self.site.store.facts() == self.errand.wanted
        right_answer = self.errand.answer is None or _says(episode.final_text, self.errand.answer)
        reason = "" if right_state and right_answer else "the answer" if right_state else "the shop's state"
        return Outcome(True, float(right_state and right_answer), reason)

    async def save(self, opened: OpenPage) -> Any:
        cookies = await opened.do(opened.page.cookies())
        return copy.deepcopy(self.site.store), opened.page.url, cookies

    async def load(self, opened: OpenPage, state: Any) -> None:
        store, url, cookies = state
        self.site.store = copy.deepcopy(store)
        await opened.do(opened.page.set_cookies(cookies))
        await opened.do(opened.page.goto(url))

    def script(self, asked: str, page: Seen) -> Steps:
        return self.errand.script(page)


def _says(text: str, answer: str) -> bool:
    """Whether a final message is the answer and nothing else, but for ``Answer:`` or a full stop."""
    return text.strip().rstrip(".").removeprefix("Answer:").strip() == answer


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def _see(path: str) -> web.Response:
    from aiohttp import web

    return web.Response(status=303, headers={"Location": path})
