"""Is the answer to a question right?

The answer is what stands between the last ``<answer>`` and ``</answer>`` of the final text, as in Search-R1.
It is compared with ``task.answer``, a text or a list of texts of which any will do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentrl import DefinitionError, Reward, Trajectory, reward
from agentrl.rewards.words import normalize

MOST_CHARACTERS = 1000
"""Of an answer; a longer one is none."""

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_TAG = re.compile(r"</?answer>")
_VERDICTS = ("yes", "no", "noanswer")


@reward
def exact(episode: Trajectory) -> float:
    """1.0 if the answer in tags is one of the wanted ones, normalised; else 0.0. Search-R1's outcome reward.

    Raises:
        DefinitionError: the task has no answer to compare with.
    """
    return _exact(episode)


@reward
def f1(episode: Trajectory) -> float:
    """How many words the answer in tags shares with the best of the wanted ones, from 0 to 1.

    Raises:
        DefinitionError: the task has no answer to compare with.
    """
    golds, given = wanted(episode), extract_answer(episode.final_text)
    return 0.0 if given is None else token_f1(given, golds)


@reward
def answer_format(episode: Trajectory) -> float:
    """1.0 if the final text ends with one answer in tags and has no other, else 0.0."""
    text = episode.final_text.strip()
    well = text.endswith("</answer>") and len(_TAG.findall(text)) == 2
    return float(well and extract_answer(text) is not None)


def search_r1(format_score: float = 0.0, weight: float = 1.0) -> Reward:
    """Search-R1's rule: 1 for the right answer, ``format_score`` for another one in tags, 0 for none.

    Args:
        format_score: what a wrong answer in tags is worth; below 1.
        weight: see :class:`agentrl.Reward`.
    """
    if not 0 <= format_score < 1:
        raise DefinitionError(f"format_score={format_score!r} must be at least 0 and below 1.")

    def score(episode: Trajectory) -> float:
        if _exact(episode):
            return 1.0
        return 0.0 if extract_answer(episode.final_text) is None else format_score

    return Reward(score, "search_r1", weight)


def _exact(episode: Trajectory) -> float:
    golds, given = wanted(episode), extract_answer(episode.final_text)
    return float(given is not None and exact_match(given, golds))


def wanted(episode: Trajectory) -> list[str]:
    """The answers that are right.

    Raises:
        DefinitionError: the task has none.
    """
    answer: Any = episode.task.answer
    answers = list(answer) if isinstance(answer, list | tuple) else [] if answer is None else [answer]
    if not answers:
        raise DefinitionError(
            f"Rewards of questions compare with task.answer, and task {episode.task.id} has none; give it "
            "a text or a list of texts."
        )
    return [str(one) for one in answers]


def extract_answer(text: str) -> str | None:
    """What stands in the last ``<answer>…</answer>``; ``None`` if nothing does, or too much."""
    found = _ANSWER.findall(text)
    answer = found[-1].strip() if found else ""
    return answer if 0 < len(answer) <= MOST_CHARACTERS else None


def exact_match(given: str, golds: Sequence[str]) -> bool:
    """Whether an answer equals one of the wanted ones, normalised.

    One of which normalising leaves nothing, such as ``+``, must be given as it stands.
    """
    plain = normalize(given)
    return any(plain == normalize(gold) if plain else given.strip() == gold.strip() for gold in golds)


def token_f1(given: str, golds: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over normalised words, for the best of the wanted answers.

    As with HotpotQA, ``yes``, ``no`` and ``noanswer`` are right or wrong as a whole.
    """
    return max((_f1(normalize(given), normalize(gold)) for gold in golds), default=0.0)


def _f1(given: str, gold: str) -> float:
    if given != gold and (given in _VERDICTS or gold in _VERDICTS):
        return 0.0
    words, others = given.split(), gold.split()
    common = sum((Counter(words) & Counter(others)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(others)
    return 2 * precision * recall / (precision + recall)
