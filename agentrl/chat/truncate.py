"""Cuts a long text down to a number of tokens, keeping its head and its tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Encode = Callable[[str], Sequence[int]]

# A first guess at characters per token. Wrong guesses only cost another round.
_CHARACTERS_PER_TOKEN = 4
_ROUNDS = 6


def truncate_tokens(text: str, limit: int, encode: Encode) -> tuple[str, bool]:
    """``text`` in at most ``limit`` tokens, and whether anything was left out.

    What is kept is the text's own head and tail, cut between characters, around a line that says
    how many tokens are missing ("about" so many where the text was too long to be counted). The time
    depends on ``limit``, not on the length of ``text``: no more of it is tokenized than may be
    kept. With a limit too small for the line the head alone is kept.

    Args:
        text: any text, of any length.
        limit: the most tokens that ``encode`` may find in the result; 0 or less gives "".
        encode: text to token ids, as :meth:`agentrl.chat.Chat.encode`.
    """
    if not text or limit <= 0:
        return "", bool(text)
    window, tokens = _window(text, limit, encode)
    if window == len(text) and tokens <= limit:
        return text, False
    total = tokens if window == len(text) else None
    reserve = len(encode(_marker(len(text), about=True)))
    budget = limit - reserve
    if budget < 2:
        return _fit(text, limit, encode, tail=False), True
    while True:
        head = _fit(text, (budget + 1) // 2, encode, tail=False)
        tail = _fit(text[len(head) :], budget // 2, encode, tail=True)
        result = head + _missing(text, head, tail, budget, total) + tail
        over = len(encode(result)) - limit
        if over <= 0:
            return result, True
        budget -= over
        if budget < 2:
            return _fit(text, limit, encode, tail=False), True


def _window(text: str, limit: int, encode: Encode) -> tuple[int, int]:
    """How many characters from the start hold more than ``limit`` tokens (or all), and their tokens."""
    window = min(len(text), (limit + 1) * _CHARACTERS_PER_TOKEN)
    tokens = len(encode(text[:window]))
    while tokens <= limit and window < len(text):
        window = min(len(text), window * 4)
        tokens = len(encode(text[:window]))
    return window, tokens


def _fit(text: str, budget: int, encode: Encode, *, tail: bool) -> str:
    """A long piece of the head (or tail) of ``text`` that ``encode`` gives at most ``budget`` tokens."""

    def piece(characters: int) -> str:
        return text[len(text) - characters :] if tail else text[:characters]

    fits, size = 0, min(len(text), budget * _CHARACTERS_PER_TOKEN)
    too_long = len(text) + 1
    for _ in range(_ROUNDS):
        tokens = len(encode(piece(size)))
        if tokens <= budget:
            fits = size
            if tokens == budget:
                break
        else:
            too_long = size
        guess = size * budget // max(tokens, 1)
        size = max(fits + 1, min(guess, too_long - 1))
        if size >= too_long:
            break
    while fits == 0 and too_long > 1:
        # The guesses never came down to a size that fits: halving always does.
        size = too_long // 2
        if len(encode(piece(size))) <= budget:
            fits = size
            break
        too_long = size
    return piece(fits)


def _missing(text: str, head: str, tail: str, budget: int, total: int | None) -> str:
    """The line between head and tail."""
    if total is not None:
        return _marker(max(total - budget, 1), about=False)
    kept = len(head) + len(tail)
    return _marker(max(1, (len(text) - kept) * budget // max(kept, 1)), about=True)


def _marker(tokens: int, *, about: bool) -> str:
    return f"\n[… {'about ' if about else ''}{tokens} tokens left out …]\n"
