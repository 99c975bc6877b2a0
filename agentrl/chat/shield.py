"""Keeps the words of users, tools and documents from becoming control tokens.

A tokenizer turns the *text* ``<|im_end|>`` into the control token of that name wherever it finds
it, and an option to treat special tokens as text leaves added ones such as ``<tool_call>``
untouched. So every string of a message is marked, before a renderer sees it, with a cut inside each
spelling of an added token; the tokenizer that the renderer works with encodes the two sides of a
cut apart, which can only give ordinary tokens. Markup that the renderer writes itself carries no
cut and becomes control tokens as it should.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# A printable ASCII mark survives JSON encoding and whitespace trimming. No end of it is a start of
# it, so text around it can never complete a second one.
_MARK = "~!@#"
_ESCAPED_MARK = _MARK + "0"
_CUT = _MARK + "1"


def added_spellings(tokenizer: Any) -> frozenset[str]:
    """Texts that ``tokenizer`` maps to an added token, whitespace runs and single characters aside.

    Whitespace runs are how some vocabularies compress indentation; they control nothing.
    """
    names: set[str] = set(getattr(tokenizer, "all_special_tokens", None) or ())
    get_added = getattr(tokenizer, "get_added_vocab", None)
    if get_added is not None:
        names.update(get_added())
    return frozenset(name for name in names if len(name.strip()) >= 2)


def _pattern(spellings: Iterable[str]) -> re.Pattern[str] | None:
    """Matches the first character of each spelling: one alternative per first character is fast."""
    by_first: dict[str, list[str]] = {}
    for spelling in sorted(spellings):
        by_first.setdefault(spelling[0], []).append(re.escape(spelling[1:]))
    if not by_first:
        return None
    return re.compile("|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in by_first.items()))


class Shield:
    """Marks strings so that a :class:`ShieldedTokenizer` encodes them as ordinary text."""

    def __init__(self, tokenizer: Any) -> None:
        self._pattern = _pattern(added_spellings(tokenizer))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._normalizer = getattr(backend, "normalizer", None)

    def text(self, text: str) -> str:
        """``text`` with a cut inside every spelling of an added token."""
        escaped = text.replace(_MARK, _ESCAPED_MARK)
        if self._pattern is None:
            return escaped
        if self._normalizer is not None:
            # A normalizer may bring a spelling about, out of look-alike characters for one.
            normalized = self._normalizer.normalize_str(escaped)
            if len(self._pattern.findall(normalized)) > len(self._pattern.findall(escaped)):
                escaped = normalized
        return self._pattern.sub(lambda match: match.group() + _CUT, escaped)

    def value(self, value: Any) -> Any:
        """``value`` with every string in it marked, dictionary keys included; other objects as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def _pieces(text: str) -> list[tuple[str, list[int]]]:
    """The parts of a marked text between its cuts, restored, each with where its characters stood."""
    pieces: list[tuple[str, list[int]]] = []
    start = 0
    for part in text.split(_CUT):
        positions = list(range(start, start + len(part)))
        for match in reversed(list(re.finditer(re.escape(_ESCAPED_MARK), part))):
            del positions[match.end() - 1]
        pieces.append((part.replace(_ESCAPED_MARK, _MARK), positions))
        start += len(part) + len(_CUT)
    return pieces


class ShieldedTokenizer:
    """The tokenizer that renderers are given: the wrapped one, except that marked text stays text.

    Text without marks is encoded exactly as the wrapped tokenizer does.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.wrapped = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def __len__(self) -> int:
        return len(self.wrapped)

    def encode(self, text: str, *args: Any, **kwargs: Any) -> list[int]:
        if _MARK not in text:
            return list(self.wrapped.encode(text, *args, **kwargs))
        kwargs["add_special_tokens"] = False
        return [
            token
            for piece, _ in _pieces(text)
            if piece
            for token in self.wrapped.encode(piece, *args, **kwargs)
        ]

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped tokenizer's; offsets of marked text are positions in the marked text."""
        if not isinstance(text, str) or _MARK not in text:
            return self.wrapped(text, *args, **kwargs)
        kwargs["add_special_tokens"] = False
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for piece, positions in _pieces(text):
            if not piece:
                continue
            encoding = self.wrapped(piece, *args, **kwargs)
            ids.extend(encoding["input_ids"])
            for start, end in encoding.get("offset_mapping", ()):
                first = positions[min(start, len(positions) - 1)]
                offsets.append((first, positions[end - 1] + 1 if end > start else first))
        return {"input_ids": ids, "offset_mapping": offsets}

    def apply_chat_template(self, messages: Any, *, tokenize: bool = True, **kwargs: Any) -> Any:
        kwargs.pop("return_dict", None)
        text = self.wrapped.apply_chat_template(messages, tokenize=False, **kwargs)
        return self.encode(text, add_special_tokens=False) if tokenize else text
