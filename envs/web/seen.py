"""A page's text, read back by the scripts that play it."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from agentrl import Message, call

Steps = Generator[Message, list[str], None]
"""What a script yields, and is sent: the answers to its calls."""

ROLES = {
    "button", "link", "textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "slider",
    "spinbutton", "tab", "menuitem", "treeitem", "image", "Date", "InputTime",
}  # fmt: skip
_STATES = re.compile(r" ?\(([a-z, ]+)\)$")
_ITEM = re.compile(r"\[(\d+)\] ?((?:(?! \| )[^\[\n])*)")


@dataclass(frozen=True)
class Item:
    """A numbered element: its number, its role (``text`` if none is shown) and what is said of it."""

    id: int
    role: str
    text: str

    @property
    def name(self) -> str:
        """What is said of it, without its state."""
        return re.sub(r" ?(=|of:) .*$| ?\([a-z, ]+\)$", "", self.text)

    @property
    def value(self) -> str:
        """What a field holds."""
        return _STATES.sub("", self.text.partition("= ")[2])

    @property
    def states(self) -> list[str]:
        """Such as ``checked``."""
        found = _STATES.search(self.text)
        return found[1].split(", ") if found else []


class Seen:
    """The items of a page's text, in order.

    Args:
        text: as an observation has it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.items = [_item(int(number), said.strip()) for number, said in _ITEM.findall(text)]

    def all(self, role: str = "", name: str | None = None) -> list[Item]:
        """Those with a role and a name."""
        return [
            item
            for item in self.items
            if (not role or item.role == role) and (name is None or item.name == name)
        ]

    def first(self, role: str = "", name: str | None = None) -> Item:
        """The first of them.

        Raises:
            LookupError: there is none.
        """
        for item in self.all(role, name):
            return item
        raise LookupError(f"There is no {role or 'element'} {name!r} on the page:\n{self.text}")

    def after(self, mark: str, role: str = "") -> Item:
        """The first item with a role behind the place where a text stands.

        Raises:
            LookupError: there is none.
        """
        _, found, rest = self.text.partition(mark)
        if not found:
            raise LookupError(f"There is no {mark!r} on the page:\n{self.text}")
        return Seen(rest).first(role)


def click(item: Item) -> Message:
    """A call of click."""
    return call("click", id=item.id)


def write(item: Item, text: str, enter: bool = False) -> Message:
    """A call of type."""
    return call("type", id=item.id, text=text, **({"enter": True} if enter else {}))


def choose(item: Item, option: str) -> Message:
    """A call of select."""
    return call("select", id=item.id, option=option)


def quoted(text: str) -> list[str]:
    """What stands in double quotes."""
    return re.findall(r'"([^"]*)"', text)


def _item(number: int, said: str) -> Item:
    role, _, rest = said.partition(" ")
    return Item(number, role, rest) if role in ROLES else Item(number, "text", said)
