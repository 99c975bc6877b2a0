"""RLSP: a reward for exploring at length beside the verdict on the outcome."""

from __future__ import annotations

from agentrl.errors import DefinitionError

NO_ANSWER = -0.5


def base_reward(correct: bool | None, length: float, *, constant: float, cap: float = 10.0) -> float:
    """1, 0, or -.5 without an answer, minus ``C / length`` (RLSP, orm_server_efficient.py:94).

    Args:
        correct: ``None`` without an answer.
        length: of the reasoning, in tokens; RLSP takes characters / 4.
        constant: ``C``; 0 turns the length off. RLSP's runs take 0 and 1000.
        cap: the most that is taken away. Inferred: a length of 0 would divide by 0, which RLSP scores as 0.

    Raises:
        DefinitionError: a number is negative.
    """
    if length < 0 or constant < 0 or cap < 0:
        raise DefinitionError(f"length={length}, constant={constant} and cap={cap} must not be negative.")
    base = NO_ANSWER if correct is None else float(correct)
    if constant == 0:
        return base
    return base - (min(constant / length, cap) if length > 0 else cap)


def explored(base: float, grade: float | None, *, share: float = 0.2) -> float:
    """``(1 - share) * base + share * grade``; a judge that fails (``None``) counts .5.

    Raises:
        DefinitionError: the grade or the share is outside 0 … 1.
    """
    value = 0.5 if grade is None else grade
    if not 0 <= value <= 1 or not 0 <= share <= 1:
        raise DefinitionError(f"grade={grade} and share={share} must lie within 0 and 1.")
    return (1 - share) * base + share * value
