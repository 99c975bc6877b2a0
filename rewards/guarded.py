"""What a change to code must not use: ways to the test runner that works in the same process.

Tests call the code under test within one process, so that code could change the runner, read what a test
expects off the stack, or return objects that equal everything. A change that newly uses what such tricks are
made of is refused. This is a list of names and no proof: it makes the known ways, and what lies near them,
worthless.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from types import ModuleType

PURE = frozenset({
    "__future__", "abc", "array", "bisect", "calendar", "cmath", "collections", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq", "itertools",
    "json", "math", "numbers", "operator", "random", "re", "statistics", "string", "struct", "textwrap",
    "time", "typing", "unicodedata",
})  # fmt: skip
"""Modules that a change may import beside those that the file imports already.

Not ``enum``, whose classes make classes of a namespace that is computed.
"""
_PURE_BELOW = frozenset({"collections.abc", "json.decoder", "json.encoder"})

_PLAIN_DUNDERS = frozenset({
    "__all__", "__call__", "__contains__", "__delitem__", "__doc__", "__enter__",
    "__exit__", "__getitem__", "__init__", "__iter__", "__len__", "__main__", "__name__", "__next__",
    "__post_init__", "__repr__", "__reversed__", "__setitem__", "__slots__", "__str__", "__version__",
})  # fmt: skip
GUARDED = frozenset({
    # reaching what is not given, or running what is not there to be read
    "breakpoint", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals",
    "locals", "open", "quit", "setattr", "vars", "attrgetter", "methodcaller", "get_type_hints",
    "ForwardRef", "Formatter", "get_field", "vformat", "update_wrapper", "assigned", "updated",
    # making classes of a namespace that is not there to be read
    "ABCMeta", "EnumMeta", "EnumType", "NamedTupleMeta", "get_args", "get_origin", "make_dataclass",
    "new_class",
    # the interpreter's insides
    "code_context", "currentframe", "findsource", "getinnerframes", "getouterframes", "getsource",
    "getsourcelines",
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
_FORMAT_PATH = re.compile(r"\{[^{}!:]*[.\[]")


def guarded_uses(before: str | bytes, after: str | bytes, known: Collection[str] = ()) -> list[str]:
    """Names that a change to a file newly uses and must not, sorted; none if it is not Python that parses.

    Args:
        before: the file as it was; empty for a new one. Bytes are decoded as Python does.
        after: the file as it is now.
        known: names that are allowed beside those of ``before``: modules of the repository, and what the
            canonical fix uses.
    """
    new = set(_uses(after)) - set(_uses(before)) - set(known)
    return sorted(new)


def names_of(files: Mapping[str, bytes | None]) -> set[str]:
    """The guarded names that some Python files use: what a canonical fix may, any fix may."""
    sources = (data for path, data in files.items() if data and path.endswith(".py"))
    return {name for source in sources for name in _uses(source)}


def _uses(source: str | bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (RecursionError, MemoryError):
        yield "deep nesting"  # it may be imported all the same, from a stack that is less deep
        return
    except (SyntaxError, ValueError):
        return  # it cannot be imported either
    shown = {id(name) for node in ast.walk(tree) for name in _shown_types(node)}
    for node in ast.walk(tree):
        for name in _identifiers(node):
            if name in GUARDED or (_DUNDER.fullmatch(name) and name not in _PLAIN_DUNDERS):
                yield name
        if isinstance(node, ast.Name) and node.id == "type" and id(node) not in shown:
            yield "type"
        yield from _imports(node)
        yield from _inner_modules(node)
        yield from _formats(node)
        yield from _private(node)


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Every name that a node holds itself, whatever it is the name of."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and " " not in node.value:
            yield from (node.value, *_DUNDER.findall(node.value))  # as a text, for a way that takes one
        return
    for _, value in ast.iter_fields(node):
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                yield from name.split(".")


def _shown_types(node: ast.AST) -> Iterator[ast.expr]:
    """Where ``type`` stands for comparing and showing alone: with three arguments it makes a class."""
    places: list[ast.expr] = []
    if isinstance(node, ast.Compare):  # `in` would hand it to a method of the change's own
        if all(isinstance(operator, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) for operator in node.ops):
            places = [node.left, *node.comparators]
    elif isinstance(node, ast.FormattedValue) or (
        isinstance(node, ast.Attribute) and node.attr == "__name__"
    ):
        places = [node.value]
    for place in places:
        yield place
        if isinstance(place, ast.Call) and len(place.args) == 1 and not place.keywords:
            yield place.func


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
        elif name not in PURE | _PURE_BELOW:
            yield f"import {name}"


@functools.cache
def inner_modules() -> frozenset[str]:
    """Names under which the pure modules hold others: ``os`` is ``contextlib.os``."""
    modules = [importlib.import_module(name) for name in sorted(PURE | _PURE_BELOW)]
    return frozenset(
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in PURE
    )


def _inner_modules(node: ast.AST) -> Iterator[str]:
    """Another module by way of a pure one, and what modules give of the stack, by whatever name they go."""
    names: list[str] = []
    if isinstance(node, ast.Attribute) and not (
        isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    ):
        names = [node.attr]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.MatchClass):
        names = node.kwd_attrs
    yield from (f".{name}" for name in names if name in inner_modules() | {"stack", "trace"})


def _formats(node: ast.AST) -> Iterator[str]:
    """Formats that reach into what they show, or that are not there to be read."""
    if isinstance(node, ast.Attribute) and node.attr in ("format", "format_map"):
        template = node.value.value if isinstance(node.value, ast.Constant) else None
        if not isinstance(template, str) or _FORMAT_PATH.search(template):
            yield f".{node.attr}"


def _private(node: ast.AST) -> Iterator[str]:
    """What modules keep for themselves, such as the ``sys`` within another one."""
    if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield f".{node.attr}"
    elif isinstance(node, ast.ImportFrom):
        yield from (f".{alias.name}" for alias in node.names if re.match(r"_[^_]", alias.name))
