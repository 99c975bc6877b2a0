"""Small bugs: one operator, constant or word of a program replaced by another, its layout kept."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not",
                "is not": "is", "in": "not in", "not in": "in"}  # fmt: skip
_ARITHMETIC = {"+": "-", "-": "+", "*": "+", "/": "*", "//": "/", "%": "//", "<<": ">>", ">>": "<<", "&": "|",
               "|": "&"}  # fmt: skip
_WORDS = {"and": "or", "or": "and"}
_OPERATOR = re.compile(r"not\s+in|is\s+not|<<|>>|//|\*\*|[<>=!]=|\b(?:in|is|and|or)\b|[-+*/%<>&|]")


@dataclass(frozen=True)
class Mutation:
    """A replacement in a file.

    Args:
        kind: what was mutated, such as ``comparison``.
        function: the function it lies in, with the names of what surrounds that.
        start, end: characters of the file that are replaced.
        new: what takes their place.
    """

    kind: str
    function: str
    start: int
    end: int
    new: str

    def applied(self, source: str) -> str:
        """The file with the bug."""
        return source[: self.start] + self.new + source[self.end :]


def mutations(source: str) -> list[Mutation]:
    """All that can be made in the functions of a file, in its order; each leaves Python that parses.

    Raises:
        SyntaxError: the file is no Python.
    """
    found = sorted(set(_Finder(source).found()), key=lambda each: (each.start, each.new))
    return [each for each in found if _parses(each.applied(source))]


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


class _Finder:
    def __init__(self, source: str) -> None:
        self._source, self._tree = source, ast.parse(source)
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))
        self._bytes = source.encode()

    def found(self) -> Iterator[Mutation]:
        for function, node in self._within_functions(self._tree, ()):
            for kind, start, end, new in self._of(node):
                # what is counted in bytes becomes characters
                first = len(self._bytes[:start].decode())
                yield Mutation(kind, function, first, first + len(self._bytes[start:end].decode()), new)

    def _within_functions(self, node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*names, child.name)
            elif names and not isinstance(child, ast.JoinedStr):
                yield ".".join(names), child
            if not isinstance(child, ast.JoinedStr):  # the places of what is in an f-string are not told
                yield from self._within_functions(child, inner)

    def _of(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        if isinstance(node, ast.Compare):
            for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
                yield from self._operator("comparison", left, right, _COMPARISONS)
        elif isinstance(node, ast.BinOp):
            yield from self._operator("arithmetic", node.left, node.right, _ARITHMETIC)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self._operator("logic", left, right, _WORDS)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield "negation", self._at(node), self._at(node.operand), ""
        elif isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.BoolOp | ast.Compare):
            if not isinstance(node.test, ast.Constant):
                start, end = self._at(node.test), self._end(node.test)
                yield "condition", start, end, f"not ({self._text(start, end)})"
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            start, end = self._at(node), self._end(node)
            if self._text(start, end).isdigit():
                yield "constant", start, end, str(node.value + 1)
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield "constant", self._at(node), self._end(node), str(not node.value)
        elif isinstance(node, ast.Call) and len(node.args) == 2 and not node.keywords:
            yield from self._swapped(node)
        elif isinstance(node, ast.Break | ast.Continue):
            other = "continue" if isinstance(node, ast.Break) else "break"
            yield "jump", self._at(node), self._end(node), other

    def _operator(
        self, kind: str, left: ast.expr, right: ast.expr, others: dict[str, str]
    ) -> Iterator[tuple[str, int, int, str]]:
        start, end = self._end(left), self._at(right)
        between = self._text(start, end)
        match = _OPERATOR.search(between)
        if match and "#" not in between and (new := others.get(" ".join(match[0].split()))):
            yield kind, start + match.start(), start + match.end(), new

    def _swapped(self, node: ast.Call) -> Iterator[tuple[str, int, int, str]]:
        first, second = node.args
        if isinstance(first, ast.Starred) or isinstance(second, ast.Starred):
            return
        start, middle, after, end = self._at(first), self._end(first), self._at(second), self._end(second)
        one, between, two = self._text(start, middle), self._text(middle, after), self._text(after, end)
        if one != two and "\n" not in one + between + two:
            yield "arguments", start, end, two + between + one

    def _at(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, start: int, end: int) -> str:
        return self._bytes[start:end].decode()
