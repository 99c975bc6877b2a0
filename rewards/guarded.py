"""What a change to code must not use: ways to the test runner that works in the same process.

Tests call the code under test within one process, so that code could change the runner, read what a test
expects off the stack, or return objects that equal everything. A change that newly uses what such tricks are
made of is refused. This is a list of names and no proof: it makes the known ways, and what lies near them,
worthless.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping

PURE = frozenset({
    "__future__", "abc", "array", "bisect", "calendar", "cmath", "collections", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools",
    "json", "math", "numbers", "operator", "random", "re", "statistics", "string", "struct", "textwrap",
    "time", "typing", "unicodedata",
})  # fmt: skip
"""Modules that a change may import beside those that the file imports already."""

_PLAIN_DUNDERS = frozenset({
    "__all__", "__annotations__", "__call__", "__contains__", "__delitem__", "__doc__", "__enter__",
    "__exit__", "__getitem__", "__init__", "__iter__", "__len__", "__main__", "__name__", "__next__",
    "__post_init__", "__repr__", "__reversed__", "__setitem__", "__slots__", "__str__", "__version__",
})  # fmt: skip
GUARDED = frozenset({
    # reaching what is not given, or running what is not there to be read
    "breakpoint", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals",
    "locals", "open", "quit", "setattr", "vars", "attrgetter", "methodcaller", "get_type_hints",
    "ForwardRef", "Formatter", "get_field", "vformat", "update_wrapper", "assigned", "updated",
    # the interpreter's insides
    "f_back", "f_builtins", "f_code", "f_globals", "f_locals", "tb_frame", "tb_next", "gi_frame", "gi_code",
    "cr_frame", "cr_code", "ag_frame", "ag_code", "co_code", "co_consts", "with_traceback", "modules",
    "meta_path", "path_hooks", "settrace", "setprofile", "addaudithook", "_getframe", "_current_frames",
    "get_objects", "get_referrers", "get_referents",
    # the process
    "_exit", "abort", "fork", "forkpty", "popen", "execv", "execve", "atexit",
    # the runner
    "pytest", "_pytest", "unittest", "pluggy", "conftest", "mock", "monkeypatch", "ANY",
})  # fmt: skip
_DUNDER = re.compile(r"__\w+__")


def guarded_uses(before: str, after: str, known: Collection[str] = ()) -> list[str]:
    """Names that a change to a file newly uses and must not, sorted; none if it is not Python that parses.

    Args:
        before: the file as it was; empty for a new one.
        after: the file as it is now.
        known: names that are allowed beside those of ``before``: modules of the repository, and what the
            canonical fix uses.
    """
    new = set(_uses(after)) - set(_uses(before)) - set(known)
    return sorted(new)


def names_of(files: Mapping[str, bytes | None]) -> set[str]:
    """The guarded names that some Python files use: what a canonical fix may, any fix may."""
    texts = (data.decode(errors="replace") for path, data in files.items() if data and path.endswith(".py"))
    return {name for text in texts for name in _uses(text)}


def _uses(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # it cannot be imported either
    for node in ast.walk(tree):
        for name in _identifiers(node):
            if name in GUARDED or (_DUNDER.fullmatch(name) and name not in _PLAIN_DUNDERS):
                yield name
        yield from _imports(node)
        yield from _private(node)


def _identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg | ast.keyword):
        yield node.arg or ""
    elif isinstance(node, ast.MatchClass):
        yield from node.kwd_attrs
    elif isinstance(node, ast.alias):
        yield from (*node.name.split("."), node.asname or "")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
        yield from (node.value, *_DUNDER.findall(node.value))  # the name as a text, for a way that takes one


def _imports(node: ast.AST) -> Iterator[str]:
    """Modules other than the pure ones, as ``import x``."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module or ""]
    for name in names:
        if (top := name.partition(".")[0]) not in PURE:
            yield f"import {top}"


def _private(node: ast.AST) -> Iterator[str]:
    """What modules keep for themselves, such as the ``sys`` within another one."""
    if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield f".{node.attr}"
    elif isinstance(node, ast.ImportFrom):
        yield from (f".{alias.name}" for alias in node.names if re.match(r"_[^_]", alias.name))
