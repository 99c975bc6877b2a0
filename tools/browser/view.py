"""A page as text: Chromium's accessibility tree, one line for each thing, with numbers to act on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ACTIVE = {
    "button", "link", "textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "switch", "slider",
    "spinbutton", "tab", "menuitem", "menuitemcheckbox", "menuitemradio", "treeitem", "option", "image",
    "Date", "DateTime", "InputTime", "ColorWell", "DisclosureTriangle",
}  # fmt: skip
"""Roles of elements that are numbered and shown by their names."""
TITLED = {"heading", "dialog", "alertdialog", "alert", "rowheader", "columnheader"}
SKIPPED = {"InlineTextBox", "LineBreak", "ListMarker", "Canvas", "none", "scrollbar"}
LISTS = {"combobox", "listbox"}
ROWS = {"row", "LayoutTableRow"}
COMPOSED = {"Date", "DateTime", "InputTime"}
"""Made of parts that need not be shown."""
MOST_OPTIONS = 40
MOST_DEPTH = 100
NAME_CHARACTERS = 2000
MARK_CHARACTERS = 40


@dataclass
class Numbers:
    """The numbers of a document's elements: an element keeps its own as long as the document is there."""

    document: int = 0
    of: dict[int, int] = field(default_factory=dict)

    def number(self, element: int) -> int:
        """The number of an element, by its id in the browser."""
        return self.of.setdefault(element, len(self.of) + 1)


@dataclass(frozen=True)
class Element:
    """What a number stands for.

    Args:
        id: in the browser's DOM (``backendNodeId``).
        role: what it is, as the accessibility tree says.
        options: the texts of a list's options.
    """

    id: int
    role: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A page at one moment: its lines, and the elements by their numbers."""

    lines: Sequence[str]
    elements: Mapping[int, Element]


def make_view(
    nodes: Iterable[Mapping[str, Any]], numbers: Numbers, marks: Mapping[int, str] = MappingProxyType({})
) -> View:
    """Read what ``Accessibility.getFullAXTree`` answers.

    Args:
        nodes: the tree, root first.
        numbers: of the page; begun anew where the document is another one.
        marks: for elements without a name, by their ids, what stands in for it.
    """
    tree = {node["nodeId"]: node for node in nodes}
    if not tree:
        return View([], {})
    root = next(iter(tree.values()))
    if numbers.document != root.get("backendDOMNodeId", 0):
        numbers.document, numbers.of = root.get("backendDOMNodeId", 0), {}
    reader = _Reader(tree, numbers, marks)
    lines = [line for line in reader.lines(root, 0) if line]
    return View(_without_labels(lines, reader.names), reader.elements)


class _Reader:
    def __init__(
        self, tree: Mapping[str, Mapping[str, Any]], numbers: Numbers, marks: Mapping[int, str]
    ) -> None:
        self._tree, self._numbers, self._marks = tree, numbers, marks
        self.elements: dict[int, Element] = {}
        self.names: set[str] = set()

    def lines(self, node: Mapping[str, Any], depth: int) -> Iterator[str]:
        """What is shown of a node and all below it."""
        role = _value(node, "role")
        if role in SKIPPED or depth > MOST_DEPTH:
            return
        if role == "StaticText":
            yield _value(node, "name")
        elif role in ACTIVE and "backendDOMNodeId" in node:  # else a decoration
            yield self._active(node, role)
            yield from self._actives_below(node, role, depth)
        elif self._is_leaf_text(node):
            text = " ".join(_value(child, "name") for child in self._children(node)).strip()
            yield self._numbered(node, "", text) if text else ""
        elif role in ROWS:
            yield " | ".join(filter(None, (self._joined(child, depth) for child in self._children(node))))
        elif role == "heading":
            yield f"# {self._joined_children(node, depth)}"
        else:
            if role in TITLED and _value(node, "name"):
                yield f"{role} {_value(node, 'name')}:"
            yield from self._lines_below(node, depth)

    def _lines_below(self, node: Mapping[str, Any], depth: int) -> Iterator[str]:
        """Those of its children; texts side by side are one line."""
        texts: list[str] = []
        for child in self._children(node):
            if _value(child, "role") == "StaticText":
                texts.append(_value(child, "name"))
                continue
            yield " ".join(filter(None, texts))
            texts.clear()
            yield from self.lines(child, depth + 1)
        yield " ".join(filter(None, texts))

    def _joined(self, node: Mapping[str, Any], depth: int) -> str:
        return " ".join(filter(None, self.lines(node, depth + 1)))

    def _joined_children(self, node: Mapping[str, Any], depth: int) -> str:
        return " ".join(filter(None, (self._joined(child, depth) for child in self._children(node))))

    def _children(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Its children in the tree as it is shown: those of ignored nodes are their parents'."""
        found: list[Mapping[str, Any]] = []
        for name in node.get("childIds", ()):
            child = self._tree.get(name)
            if child is None:
                continue
            found += self._children(child) if child.get("ignored") else [child]
        return found

    def _is_leaf_text(self, node: Mapping[str, Any]) -> bool:
        """Whether it is an element of text alone: only the browser knows whether clicks do anything."""
        children = self._children(node)
        roles = {_value(child, "role") for child in children} - SKIPPED
        return _value(node, "role") == "generic" and roles == {"StaticText"}

    def _active(self, node: Mapping[str, Any], role: str) -> str:
        states = {entry["name"]: entry["value"].get("value") for entry in node.get("properties", ())}
        name = _value(node, "name")
        mark = self._marks.get(node.get("backendDOMNodeId", 0), "")
        shown = [name or mark] if name or mark else []
        if role in LISTS:
            options = [child for child in self._below(node, 0) if _value(child, "role") == "option"]
            texts = tuple(_value(option, "name") for option in options)
            chosen = [
                _value(option, "name") for option in options if _state(option, "selected") is True
            ] or list(filter(None, [_value(node, "value")]))
            more = f", {len(texts) - MOST_OPTIONS} more" if len(texts) > MOST_OPTIONS else ""
            shown += [f"= {', '.join(chosen)}"] if chosen else []
            shown += [f"of: {', '.join(texts[:MOST_OPTIONS])}{more}"] if texts else []
        else:
            texts = ()
            if value := _value(node, "value"):
                shown.append(f"= {value}")
        marks = [
            word for word in ("disabled", "expanded", "selected", "multiline") if states.get(word) is True
        ]
        marks += ["checked"] if states.get("checked") in ("true", "mixed") else []
        marks += ["on"] if states.get("pressed") == "true" else []
        shown += [f"({', '.join(marks)})"] if marks else []
        if name:
            self.names.add(name)
        return self._numbered(node, role, " ".join(shown), texts)

    def _actives_below(self, node: Mapping[str, Any], role: str, depth: int) -> Iterator[str]:
        if role in LISTS | COMPOSED:
            return
        for child in self._below(node, depth):
            inner, told = _value(child, "role"), _value(child, "name") == _value(node, "name")
            if inner in ACTIVE and inner != "image" and not told:
                yield self._active(child, inner)

    def _below(self, node: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
        if depth > MOST_DEPTH:
            return
        for child in self._children(node):
            yield child
            yield from self._below(child, depth + 1)

    def _numbered(self, node: Mapping[str, Any], role: str, text: str, options: tuple[str, ...] = ()) -> str:
        element = int(node["backendDOMNodeId"])
        number = self._numbers.number(element)
        self.elements[number] = Element(element, role or "text", options)
        return " ".join(filter(None, [f"[{number}]", role, text.strip()]))


def nameless(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether there are elements to act on of which the tree gives no name."""
    return any(
        _value(node, "role") in ACTIVE and not node.get("ignored") and not _value(node, "name")
        for node in nodes
    )


def read_marks(document: Mapping[str, Any]) -> dict[int, str]:
    """From what ``DOM.getDocument`` answers: ``#id`` of an element, or else ``.class``."""
    marks: dict[int, str] = {}
    left = [document]
    while left:
        node = left.pop()
        left += [*node.get("children", ()), *node.get("shadowRoots", ())]
        pairs = node.get("attributes", ())
        attributes = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if name := attributes.get("id", "").strip():
            marks[node["backendNodeId"]] = f"#{name[:MARK_CHARACTERS]}"
        elif name := attributes.get("class", "").strip():
            marks[node["backendNodeId"]] = f".{'.'.join(name.split())[:MARK_CHARACTERS]}"
    return marks


def _without_labels(lines: Sequence[str], names: set[str]) -> list[str]:
    """Labels are said again by what they label."""
    return [line for line in lines if line not in names and line.rstrip(" :*") not in names]


def _value(node: Mapping[str, Any], key: str) -> str:
    """A text of a node, with its white space as one sees it."""
    return " ".join(str(node.get(key, {}).get("value", "")).split())[:NAME_CHARACTERS]


def _state(node: Mapping[str, Any], name: str) -> Any:
    for entry in node.get("properties", ()):
        if entry["name"] == name:
            return entry["value"].get("value")
    return None
