"""Is the text laid out in tags, as in ``<think>…</think><answer>…</answer>``?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl import DefinitionError, Reward, Trajectory

_SPECIAL = re.compile(r"<\|[a-zA-Z0-9_]+\|>")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def tag_problem(
    text: str,
    names: Sequence[str],
    *,
    once: Sequence[str] = (),
    needed: Sequence[str] = (),
    first: str | None = None,
    last: str | None = None,
    covered: bool = False,
) -> str | None:
    """What is wrong with the tags of a text; ``None`` if nothing is.

    Tags of ``names`` must be closed in order, stand beside and not within each other, and hold more
    than white space. Other tags are text.

    Args:
        text: what the model wrote.
        names: the tags that count.
        once: those that must stand there exactly once.
        needed: those that must stand there at least once.
        first, last: the tag that the text must begin and end with.
        covered: whether nothing but white space may stand outside of tags.
    """
    counts = dict.fromkeys(names, 0)
    order: list[str] = []
    opened: tuple[str, int] | None = None
    outside, closed_at = "", 0
    for match in re.finditer(rf"<(/?)({'|'.join(map(re.escape, names))})>", text):
        closing, name = bool(match[1]), match[2]
        if opened is None:
            if closing:
                return f"</{name}> closes nothing"
            outside += text[closed_at : match.start()]
            if not order and first is not None and (name != first or outside.strip()):
                return f"the text does not begin with <{first}>"
            opened = name, match.end()
        elif not closing or name != opened[0]:
            return f"{match[0]} stands within <{opened[0]}>"
        else:
            if not text[opened[1] : match.start()].strip():
                return f"<{name}> is empty"
            counts[name] += 1
            order.append(name)
            opened, closed_at = None, match.end()
    if opened is not None:
        return f"<{opened[0]}> is not closed"
    rest = text[closed_at:]
    if last is not None and (order[-1:] != [last] or rest.strip()):
        return f"the text does not end with </{last}>"
    if covered and (outside + rest).strip():
        return "text stands outside of the tags"
    wrong = [f"<{name}> stands there {counts[name]} times" for name in once if counts[name] != 1]
    missing = [f"<{name}> is missing" for name in needed if counts[name] == 0]
    return next(iter(wrong + missing), None)


def find_tag(text: str, name: str) -> str | None:
    """What the last complete ``<name>…</name>`` of a text holds, or ``None``."""
    end = text.rfind(f"</{name}>")
    start = text.rfind(f"<{name}>", 0, max(end, 0))
    return None if end < 0 or start < 0 else text[start + len(name) + 2 : end].strip()


def tagged(
    *names: str,
    once: Sequence[str] = (),
    needed: Sequence[str] = (),
    first: str | None = None,
    last: str | None = None,
    covered: bool = False,
    name: str = "format",
    weight: float = 1.0,
) -> Reward:
    """A reward of 1 for an episode whose text is laid out in tags, else 0.

    All that the model wrote counts, turn by turn in order, with the tokens that end a turn taken off. A chat
    format may read ``<think>`` or ``<tool_call>`` as its own; they stand in the text all the same.

    Args:
        names, once, needed, first, last, covered: as of :func:`tag_problem`.
        name, weight: as of every reward.

    Raises:
        DefinitionError: there are no names, or one is none of the tags.
    """
    odd = [tag for tag in names if not _NAME.fullmatch(tag)]
    unknown = [tag for tag in (*once, *needed, first, last) if tag is not None and tag not in names]
    if not names or odd or unknown:
        raise DefinitionError(
            f"tagged({', '.join(names)}): {(odd or unknown or ['nothing'])[0]!r} is not one of its tags; "
            "name all tags first, without < and >."
        )

    def layout(episode: Trajectory) -> float:
        written = "\n".join(_SPECIAL.sub("", turn.raw) for turn in episode.turns)
        problem = tag_problem(
            written, names, once=once, needed=needed, first=first, last=last, covered=covered
        )
        return float(problem is None)

    return Reward(layout, name, weight)
