"""Questions about images: is the answer right, and did the policy look for itself?

Pixel-Reasoner (arXiv:2505.15966) pays for looking while few episodes do, and takes a little off for each
operation beyond those allowed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

from agentrl import DefinitionError, Reward, Trajectory, reward
from agentrl.rewards.qa import extract_answer, wanted

OPERATIONS = ("crop", "zoom", "rotate", "draw_box", "measure_color", "select_frames", "ocr")
"""Tools that look at images."""


@reward
def correct(episode: Trajectory) -> float:
    """1.0 if what stands in the last ``<answer>…</answer>`` is one of the wanted answers, else 0.0.

    Raises:
        DefinitionError: the task has no answer to compare with.
    """
    given = extract_answer(episode.final_text)
    golds = wanted(episode)
    return float(given is not None and any(same_answer(given, gold) for gold in golds))


def same_answer(given: str, gold: str) -> bool:
    """Whether two short answers are alike: case, spaces and a full stop at the end do not count."""
    return _plain(given) == _plain(gold)


def curiosity(
    actions: Sequence[int],
    *,
    bonus: float = 0.5,
    least_rate: float = 0.3,
    cost: float = 0.05,
    most_actions: int = 1,
) -> list[float]:
    """Pixel-Reasoner's term for each episode of a group.

    ``bonus * [actions > 0] * max(0, least_rate - rate) + cost * min(0, most_actions - actions)``, where the
    rate is the share of the group's episodes with an action.

    Args:
        actions: operations on images, of each episode. ``[G]``
        bonus: the paper's alpha.
        least_rate: the rate from which on looking is not paid any more; the paper's H.
        cost: of each operation beyond ``most_actions``; the paper's beta.
        most_actions: that are free.
    """
    rate = sum(count > 0 for count in actions) / max(1, len(actions))
    paid = bonus * max(0.0, least_rate - rate)
    return [paid * (count > 0) + cost * min(0, most_actions - count) for count in actions]


def pixel_reasoner(
    tools: Collection[str] = OPERATIONS,
    *,
    bonus: float = 0.5,
    least_rate: float = 0.3,
    cost: float = 0.05,
    most_actions: int = 1,
    weight: float = 1.0,
) -> Reward:
    """:func:`curiosity` as a reward per group, where an answered call of one of ``tools`` is an action.

    Raises:
        DefinitionError: a factor is below 0, or the rate is not from 0 to 1.
    """
    if min(bonus, cost, most_actions) < 0 or not 0 <= least_rate <= 1:
        raise DefinitionError(
            f"bonus={bonus}, cost={cost} and most_actions={most_actions} must be 0 or more, and "
            f"least_rate={least_rate} from 0 to 1."
        )

    def score(episodes: Sequence[Trajectory]) -> list[float]:
        actions = [
            sum(call.status == "ok" and call.name in tools for call in each.calls) for each in episodes
        ]
        return curiosity(actions, bonus=bonus, least_rate=least_rate, cost=cost, most_actions=most_actions)

    return Reward(score, "curiosity", weight, per="group")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".")
