"""Observations cut down to a number of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from chat_families import chat_for
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.chat import truncate_tokens

CHAT = chat_for("chatml-json")
MARKED = "tokens left out …]\n"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400) | st.text(alphabet="a \n日🙂", max_size=400), st.integers(-1, 120))
def test_the_limit_is_never_passed_and_short_texts_are_left_alone(text: str, limit: int) -> None:
    result, truncated = truncate_tokens(text, limit, CHAT.encode)
    assert len(CHAT.encode(result)) <= max(limit, 0)
    assert truncated == (len(CHAT.encode(text)) > max(limit, 0))
    assert truncated or result == text
    if MARKED in result and MARKED not in text:
        head, _, tail = result.partition("\n[… ")[0], "", result.rpartition(MARKED)[2]
        assert text.startswith(head)
        assert text.endswith(tail)


def test_head_and_tail_are_kept_and_the_missing_tokens_counted() -> None:
    text = "".join(f"line {number}\n" for number in range(200))
    result, truncated = CHAT.truncate(text, 120)
    assert truncated
    assert result.startswith("line 0\nline 1\n")
    assert result.endswith("line 198\nline 199\n")
    assert 100 < len(CHAT.encode(result)) <= 120
    counted = re.search(r"\n\[… (?:about )?(\d+) tokens left out …\]\n", result)
    assert counted is not None
    kept = len(CHAT.encode(result.replace(counted.group(), "")))
    assert int(counted[1]) == pytest.approx(len(CHAT.encode(text)) - kept, rel=0.1)


@pytest.mark.parametrize("unit", ["word and more words. ", "🙂", " ", "x" * 1000, "\n", "<|im_end|>"])
def test_a_huge_text_is_not_tokenized_as_a_whole(unit: str) -> None:
    """Proportional to the limit: 50 MB cost no more characters than the limit calls for."""
    text = unit * (50_000_000 // len(unit))
    seen = 0

    def encode(piece: str) -> Sequence[int]:
        nonlocal seen
        seen += len(piece)
        return CHAT.encode(piece)

    result, truncated = truncate_tokens(text, 500, encode)
    assert truncated
    assert len(CHAT.encode(result)) <= 500
    assert seen < 500_000
    assert result.startswith(unit[:10])


def test_nothing_fits_into_no_tokens() -> None:
    assert truncate_tokens("words", 0, CHAT.encode) == ("", True)
    assert truncate_tokens("", 0, CHAT.encode) == ("", False)
    assert truncate_tokens("words " * 50, 3, CHAT.encode) == (
        CHAT.decode(CHAT.encode("words " * 50)[:3]),
        True,
    )
