r"""Is the final number, or formula, right?

``correct`` is the reward: 1 if the last ``\boxed{…}`` of the final answer equals ``task.answer``.
Numbers are compared exactly in microseconds; only where the wanted answer is no plain number
does `math-verify <https://github.com/huggingface/Math-Verify>`_ compare formulas.

Where a number is wanted, a number must be given: ``\boxed{12*13}`` is not 156, and ``26/2`` is
not 13, or a policy would be paid for handing the question back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from agentrl import DefinitionError, Trajectory, reward
from agentrl.rewards.formulas import judge

MAX_ANSWER = 200
"""Characters of an answer that are looked at; a longer one is wrong."""

SEARCHED = 4000
"""Characters at the end of a text in which an answer is searched."""


@reward
async def correct(episode: Trajectory) -> float:
    r"""1.0 if the last ``\boxed{…}`` of the final answer equals ``task.answer``, else 0.0.

    Raises:
        DefinitionError: the task has no answer to compare with.
        ConfigError, InfrastructureError: formulas have to be compared, and math-verify is not
            installed or its process does not start.
    """
    gold = episode.task.answer
    if gold is None:
        raise DefinitionError(
            f"Reward 'correct' compares with task.answer, and task {episode.task.id} has none; give it one."
        )
    given = extract_answer(episode.final_text)
    if given is None:
        return 0.0
    if read_number(str(gold)):
        return float(math_equal(given, str(gold)))
    return float(await asyncio.to_thread(math_equal, given, str(gold)))  # formulas may take seconds


torl = 2 * correct - 1
"""ToRL's outcome: 1 for a correct answer, -1 for any other."""


# ---- finding the answer -----------------------------------------------------------------------


def extract_answer(text: str, styles: Sequence[str] = ("boxed",)) -> str | None:
    r"""The final answer in a text, or ``None``.

    Args:
        text: what the model wrote; only the last 4,000 characters are searched.
        styles: where to look, first match wins: ``boxed`` (the last complete ``\boxed{…}``),
            ``hash`` (after the last ``####``), ``phrase`` (after the last "answer is"), ``number``
            (the last number). The default is strict; ``tuple(STYLES)`` looks everywhere.

    Raises:
        DefinitionError: a style is unknown.
    """
    unknown = [style for style in styles if style not in STYLES]
    if unknown:
        raise DefinitionError(f"There is no answer style {unknown[0]!r}; known: {', '.join(STYLES)}.")
    tail = text[-SEARCHED:]
    for style in styles:
        found = STYLES[style](tail)
        if found and len(found) <= MAX_ANSWER:
            return found
    return None


def _boxed(text: str) -> str | None:
    start = len(text)
    while (start := text.rfind(r"\boxed{", 0, start)) >= 0:
        opening = start + len(r"\boxed{")
        depth = 1
        for position in range(opening, min(len(text), opening + MAX_ANSWER + 1)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[opening:position].strip()
    return None


def _last(pattern: str) -> Callable[[str], str | None]:
    compiled = re.compile(pattern, re.IGNORECASE)

    def find(text: str) -> str | None:
        found = compiled.findall(text)
        return found[-1].strip().rstrip(".") if found else None

    return find


STYLES: dict[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "hash": _last(r"####[ \t]*([^\n]+)"),
    "phrase": _last(r"\banswer\s+is:?[ \t]*([^\n]+?)(?=\.?\s*(?:\n|$))"),
    "number": _last(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?%?"),
}


# ---- numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written.

    Args:
        value: exact; a percentage is a hundredth.
        places: digits after the decimal point.
        fraction: whether it was written as one.
        percent: whether it carried a percent sign.
    """

    value: Fraction
    places: int = 0
    fraction: bool = False
    percent: bool = False


_NOISE = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle)(?![a-z])|\\?\$|[£€]|\{,\}|~")
_UNIT = re.compile(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}$|\^\{?\\circ\}?$")
_SCALES = re.compile(
    r"hundred|thousand|million|billion|trillion|dozen|percent|half|third|quarter|\bor\b|\band\b|[0-9]"
)
_NAMED = re.compile(r"^[a-zA-Z]\s*=\s*")
_LATEX_FRACTION = re.compile(r"^(-?)\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}$")
_PLAIN = re.compile(
    r"^(?P<sign>[+-]?)(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.(?P<places>[0-9]*))?"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,2}))?(?:/(?P<divisor>[0-9]+))?(?P<percent>(?:\\?%)?)$"
)


def read_number(text: str) -> Number | None:
    r"""The number a text is, or ``None``: ``-1,234.50``, ``3/4``, ``\frac{3}{4}``, ``50\%``, ``x=3``."""
    text = _NOISE.sub("", text.replace("\N{MINUS SIGN}", "-")).strip()
    unit = _UNIT.search(text)
    if unit and not _SCALES.search(unit[1] or ""):
        text = text[: unit.start()].strip()
    text = _LATEX_FRACTION.sub(r"\1\2/\3", _NAMED.sub("", text)).rstrip(".")
    match = _PLAIN.match(text.replace(" %", "%"))
    if match is None or len(text) > MAX_ANSWER:
        return None
    whole, places = match["whole"].replace(",", ""), match["places"] or ""
    divisor = int(match["divisor"] or 1)
    if not whole + places or divisor == 0:
        return None
    value = Fraction(int(whole + places), 10 ** len(places)) * Fraction(10) ** int(match["exponent"] or 0)
    value = value / divisor / (100 if match["percent"] else 1)
    return Number(
        -value if match["sign"] == "-" else value,
        places=len(places),
        fraction=match["divisor"] is not None,
        percent=bool(match["percent"]),
    )


def same_number(given: Number, gold: Number) -> bool:
    """Whether two numbers are equal, allowing for how they were written.

    A percent sign on one side only is overlooked. A decimal of four or more places equals the
    fraction that it rounds, and one of ten or more may carry a float's noise (1e-9 of its size).
    A fraction does not equal an integer: ``26/2`` is a division still to be done.
    """
    if given.fraction and gold.value.denominator == 1:
        return False
    wanted = {gold.value}
    if given.percent != gold.percent:
        wanted |= {gold.value / 100, gold.value * 100}
    if given.value in wanted:
        return True
    if given.places >= 10 and any(abs(given.value - value) <= abs(value) / 10**9 for value in wanted):
        return True
    return (
        gold.fraction
        and given.places >= 4
        and any(round(value, given.places) == given.value for value in wanted)
    )


# ---- equality ---------------------------------------------------------------------------------


def math_equal(given: str, gold: str) -> bool:
    """Whether a given answer is the wanted one.

    Args:
        given: untrusted; beyond 200 characters it is not equal.
        gold: the wanted answer. If it is a number, only a number can equal it; otherwise
            math-verify compares formulas, sets, intervals and matrices, for at most 3 seconds.
    """
    given, gold = given.strip(), gold.strip()
    if not given or len(given) > MAX_ANSWER:
        return False
    wanted = read_number(gold)
    if wanted is not None:
        number = read_number(given)
        return number is not None and same_number(number, wanted)
    if "".join(given.split()) == "".join(gold.split()):
        return True
    return judge().same(given, gold)
