"""Short answers as SQuAD compares them: without case, punctuation, articles and spare blanks."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, wanted: Sequence[str]) -> float:
    """1.0 if the given answer is one of those wanted, else 0.0. An answer without a word is none."""
    found = normalize(given)
    return float(found != "" and found in map(normalize, wanted))


def f1(given: str, wanted: Sequence[str]) -> float:
    """The harmonic mean of precision and recall in words, with the wanted answer that fits best."""
    return max((_f1(normalize(given).split(), normalize(text).split()) for text in wanted), default=0.0)


def _f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0
