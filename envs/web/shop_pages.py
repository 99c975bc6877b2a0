"""The shop's pages, as templates. Everything that comes from outside is escaped."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_FRAME = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body {font: 16px sans-serif; margin: 1em auto; max-width: 50em} nav a {margin-right: 1em}
td, th {padding: .3em .8em; text-align: left} label {display: block; margin: .4em 0}
</style>
<nav><a href="/">Shop</a><a href="/search">All goods</a><a href="/cart">Cart ({{ store.cart.values()|sum }})</a
><a href="/account">Account</a></nav>
<main><h1>{{ title }}</h1>{% block main %}{% endblock %}</main></html>"""

_PAGES = {
    "home": """<form action="/search"><label>Search <input name="q"></label><button>Find</button></form>
<ul>{% for category in categories %}<li><a href="/search?category={{ category }}">{{ category }}</a></li>
{% endfor %}</ul>""",
    "search": """<form action="/search"><label>Search <input name="q" value="{{ q }}"></label>
<label>Category <select name="category"><option value="">all</option>{% for each in categories %}
<option{% if each == category %} selected{% endif %}>{{ each }}</option>{% endfor %}</select></label>
<label>Sort by <select name="sort">{% for each in ("name", "price", "rating") %}
<option{% if each == sort %} selected{% endif %}>{{ each }}</option>{% endfor %}</select></label>
<button>Find</button></form>
<table>{% for product in found %}<tr><td><a href="/product/{{ product.id }}">{{ product.name }}</a></td>
<td>{{ product.price }}</td><td>{{ product.rating / 10 }} stars</td></tr>{% else %}<tr><td>Nothing was found.</td></tr>
{% endfor %}</table>
{% if pages > 1 %}<p>{% if page > 1 %}<a href="{{ link }}&amp;page={{ page - 1 }}">Back a page</a> {% endif %}
Page {{ page }} of {{ pages }} {% if page < pages %}<a href="{{ link }}&amp;page={{ page + 1 }}">Next page</a>{% endif %}
</p>{% endif %}""",
    "product": """<p>{{ product.price }}</p><p>{{ product.rating / 10 }} stars</p><p>Category: {{ product.category }}</p>
<form method="post" action="/cart/add"><input type="hidden" name="id" value="{{ product.id }}">
<label>Pieces <select name="pieces">{% for n in range(1, 10) %}<option>{{ n }}</option>{% endfor %}</select></label>
<button>Add to cart</button></form>""",
    "cart": """{% if store.cart %}<table>{% for id, pieces in store.cart.items() %}{% set product = store.product(id) %}
<tr><td>{{ product.name }}</td><td>{{ pieces }} x {{ product.price }}</td><td>
<form method="post" action="/cart/set"><input type="hidden" name="id" value="{{ id }}">
<input type="hidden" name="pieces" value="0"><button>Remove {{ product.name }}</button></form></td></tr>{% endfor %}
</table><p>Total: {{ total }}</p><p><a href="/checkout">Check out</a></p>{% else %}<p>The cart is empty.</p>{% endif %}""",
    "checkout": """<p>Total: {{ total }}</p><form method="post" action="/checkout">
<label>Street <input name="street" value="{{ store.street }}"></label>
<label>City <input name="city" value="{{ store.city }}"></label>
<label>Shipping <select name="shipping">{% for each in shipping %}<option>{{ each }}</option>{% endfor %}</select></label>
<button>Place order</button></form>""",
    "ordered": """<p>Thank you. Your order has the number {{ number }}.</p>""",
    "sign in": """{% if wrong %}<p role="alert">The password is wrong.</p>{% endif %}
<form method="post" action="/sign-in"><label>Password <input name="password" type="password"></label>
<button>Sign in</button></form>""",
    "account": """<p>{{ store.customer }}</p><form method="post" action="/account">
<label>Street <input name="street" value="{{ store.street }}"></label>
<label>City <input name="city" value="{{ store.city }}"></label><button>Save address</button></form>
<h2>Orders</h2><table>{% for order in store.orders %}<tr><td>Order {{ loop.index }}</td><td>
{% for id, pieces in order.pieces.items() %}{{ pieces }} x {{ store.product(id).name }}{{ ", " if not loop.last }}{% endfor %}
</td><td>{% if order.cancelled %}cancelled{% else %}<form method="post" action="/orders/{{ loop.index }}/cancel">
<button>Cancel order {{ loop.index }}</button></form>{% endif %}</td></tr>{% endfor %}</table>""",
    "missing": """<p>There is no such page.</p>""",
}


def render(name: str, title: str, **values: Any) -> str:
    """The HTML of a page."""
    return _environment().get_template(name).render(title=title, **values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    pages = {
        name: '{% extends "frame" %}{% block main %}' + text + "{% endblock %}"
        for name, text in _PAGES.items()
    }
    return Environment(
        loader=DictLoader({"frame": _FRAME, **pages}), autoescape=True, undefined=StrictUndefined
    )
