"""Partial credit from what a program printed (RL for machine-learning engineering agents)."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from agentrl.errors import DefinitionError

HIT = 0.1
FAILURE = -10.0

MARK = "MARK"
"""The first word of what another model's prints say, when it puts them into a program."""


def hits(stdout: str, marks: Sequence[str]) -> int:
    """How many of the regular expressions are found in the output; each counts once.

    Raises:
        DefinitionError: one is no regular expression.
    """
    try:
        return sum(re.search(mark, stdout) is not None for mark in marks)
    except re.error as problem:
        raise DefinitionError(f"{problem.pattern!r} is no regular expression: {problem}.") from problem


def credit(
    reached: int,
    score: float | None,
    *,
    lower_is_better: bool = False,
    hit: float = HIT,
    failure: float = FAILURE,
) -> float:
    """The grader's score of a valid submission, or else ``failure + hit * reached``.

    Args:
        reached: marks found; see :func:`hits`.
        score: the grader's; ``None`` without a valid submission. It replaces all partial credit.
        lower_is_better: turns the score's sign.
        hit, failure: .1 and -10 are the paper's. That a failing program has both is inferred.
    """
    if score is not None:
        return -score if lower_is_better else score
    return failure + hit * reached


def instrumented(program: str, changed: str, mark: str) -> str | None:
    """Another model's version of a program, if all that it did was to put prints of marks into it.

    Such a print stands on a line of its own and says ``MARK`` and some words, as they are. Without them both
    versions must be the same code; how it is laid out and commented may differ.

    Args:
        program: Python, as the policy wrote it.
        changed: with the prints.
        mark: what the prints say in the place of ``MARK``, which the policy must not know.

    Returns:
        The changed program with ``mark`` in it; ``None`` where it is another program, or none.
    """
    if MARK in program:  # it would be taken for the other model's
        return None
    try:
        wanted, tree = ast.parse(program), ast.parse(changed)
        plain = ast.dump(_Marks(None).visit(ast.parse(changed)))
        if plain != ast.dump(wanted) or _hides_a_value(wanted.body, tree.body):
            return None
        return ast.unparse(_Marks(mark).visit(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Marks(ast.NodeTransformer):
    """Has the prints of marks say another word, or takes them out."""

    def __init__(self, word: str | None) -> None:
        self._word = word

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """What becomes of a statement that is an expression."""
        words = _words(node)
        if words is None:
            return node
        return None if self._word is None else ast.Expr(_print(self._word + words))


def _words(node: ast.stmt) -> str | None:
    """What a print of a mark says behind ``MARK``; ``None`` of anything else."""
    match node:
        case ast.Expr(ast.Call(ast.Name("print"), [ast.Constant(str(text))], [])) if text.startswith(MARK):
            return text.removeprefix(MARK)
    return None


def _print(text: str) -> ast.Call:
    return ast.Call(ast.Name("print", ast.Load()), [ast.Constant(text)], [])


def _hides_a_value(wanted: Sequence[ast.stmt], changed: Sequence[ast.stmt]) -> bool:
    """Whether a notebook would no longer show the value of the program's last expression."""
    if not wanted or _words(changed[-1]) is None:
        return False
    match wanted[-1]:
        case ast.Expr(ast.Call(ast.Name("print"))):  # which has none
            return False
    return isinstance(wanted[-1], ast.Expr)
