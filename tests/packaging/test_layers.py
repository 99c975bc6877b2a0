"""The shape of the code: which part may import which, and how large a module may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentrl

ROOT = Path(__file__).parents[2]
LIBRARY = ["agentrl", "tools", "envs", "rewards", "sandbox"]
USER_ROOMS = ["tools", "envs", "rewards"]
MOST_LINES = 400

# A part may import from its own layer and those before it. Modules right under agentrl/ are the vocabulary.
LAYERS = [
    ["vocabulary"],
    ["chat", "algorithms", "sandbox", "store", "tape"],
    ["rollout"],
    [
        "tools",
        "envs",
        "rewards",
    ],  # found by name at run time, as users' own are: only the layers above may name one
    ["train", "serve", "evaluate", "inspect", "view", "doctor", "simulate"],
    ["cli"],
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def modules(*folders: str) -> list[Path]:
    """Every Python file under the folders, each under its real place only."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line, module, names taken from it) of a file's imports, wherever they stand, as absolute ones.

    Those for the type checker alone (under ``if TYPE_CHECKING``) are no dependency and left out.
    """
    inside = list(path.relative_to(ROOT).with_suffix("").parts)
    package = (inside if inside[0] == "agentrl" else ["agentrl", *inside])[:-1]
    for node in run_time_nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield node.lineno, module, [alias.name for alias in node.names]


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from run_time_nodes(node)


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT).parts
    if inside[0] != "agentrl":
        return inside[0]
    return inside[1] if len(inside) > 2 else "vocabulary"


def parts_named(module: str, names: list[str]) -> set[str]:
    """The parts of agentrl that an import reaches."""
    first, *rest = module.split(".")
    if first != "agentrl":
        return set()
    if rest:
        return {rest[0] if rest[0] in RANK or is_folder(rest[0]) else "vocabulary"}
    return {name if name in RANK or is_folder(name) else "vocabulary" for name in names} or {"vocabulary"}


def is_folder(name: str) -> bool:
    return (ROOT / "agentrl" / name).is_dir()


def test_every_part_has_a_layer() -> None:
    parts = {part_of(path) for path in modules(*LIBRARY)}
    assert parts <= set(RANK), "give the new folder a place in LAYERS"


def test_imports_point_down() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {part_of(path)} imports {part}"
        for path in modules("agentrl", "sandbox")
        for line, module, names in imports(path)
        for part in parts_named(module, names)
        if RANK[part] > RANK[part_of(path)]
    ]
    assert not upward, "\n".join(upward)


def test_tools_environments_and_rewards_are_written_as_a_users_own() -> None:
    """They take from agentrl what `from agentrl import ...` offers, and from each other."""
    inside = [
        f"{path.relative_to(ROOT)}:{line}: {module} {names}"
        for path in modules(*USER_ROOMS)
        for line, module, names in imports(path)
        if module.split(".")[0] == "agentrl"
        and module.split(".")[1:2] not in [[room] for room in USER_ROOMS]
        and not (module == "agentrl" and names and set(names) <= set(agentrl.__all__))
    ]
    assert not inside, "\n".join(inside)


def test_linked_folders_are_imported_through_the_package() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in modules(*LIBRARY, "tests", "examples", "benchmarks")
        for line, module, _ in imports(path)
        if module.split(".")[0] in {"tools", "envs", "rewards", "sandbox"}
    ]
    assert not bare, "\n".join(bare)


@pytest.mark.parametrize("folder", LIBRARY)
def test_modules_can_be_read_at_one_sitting(folder: str) -> None:
    counts = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in modules(folder)}
    assert not {name: count for name, count in counts.items() if count > MOST_LINES}


@pytest.mark.parametrize("folder", LIBRARY)
def test_library_code_does_not_print(folder: str) -> None:
    prints = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules(folder)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, "\n".join(prints)
