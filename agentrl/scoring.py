"""Judging episodes: every component is measured once and kept by name, then the terms are added up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from agentrl.errors import DefinitionError, NoVerdict, UserCodeError
from agentrl.reward import Reward
from agentrl.terms import Amount, Term
from agentrl.trajectory import Trajectory, Turn


def components_of(terms: Iterable[Term]) -> list[Reward]:
    """The components that terms use, each once, in order.

    Raises:
        DefinitionError: two different ones have the same name.
    """
    found: dict[str, Reward] = {}
    for term in terms:
        for component in term.components():
            first = found.setdefault(component.name, component)
            if first.function != component.function:
                raise DefinitionError(
                    f"Two rewards are called {component.name!r}; give one another name with name=."
                )
    return list(found.values())


def grouped(terms: Iterable[Term]) -> bool:
    """Whether terms use a component that is of a whole group."""
    return any(component.per == "group" for component in components_of(terms))


async def score_episode(
    episode: Trajectory, terms: Sequence[Term], shaped: Sequence[Term] | None = None
) -> None:
    """Fill in an episode's rewards: components by name, per turn, and the sum that is trained on.

    Components per group are left open; :func:`score_group` fills them in.

    Args:
        episode: as it was played.
        terms: the environment's.
        shaped: what an algorithm makes of them and is trained on in their place. They are asked when the sum
            of the environment's is known, which is kept as ``episode.unshaped``.

    Raises:
        NoVerdict: a component has no value and must not be left out, or none has one.
        UserCodeError: a component failed.
    """
    components = components_of(terms)
    for component in components:
        await _measure(component, episode)
    whole = all(component.per != "group" for component in components)
    add_up(episode, terms, complete=whole)
    if shaped is not None and whole:
        episode.unshaped = episode.reward
        if not grouped(shaped):
            await _shape([episode], components, shaped)


async def score_group(
    episodes: Sequence[Trajectory], terms: Sequence[Term], shaped: Sequence[Term] | None = None
) -> None:
    """Fill in what depends on all episodes of a task, and each one's sum.

    Args:
        episodes: those that count, at least one, each judged by :func:`score_episode`.
        terms: the environment's.
        shaped: see :func:`score_episode`.

    Raises:
        NoVerdict: a component has no value and must not be left out, or none has one.
        UserCodeError: a component failed.
    """
    components = components_of(terms)
    for component in components:
        if component.per == "group":
            await _compare(component, episodes)
    for episode in episodes:
        add_up(episode, terms)
    if shaped is not None:
        for episode in episodes:
            episode.unshaped = episode.reward
        await _shape(episodes, components, shaped)


async def _shape(episodes: Sequence[Trajectory], known: Sequence[Reward], shaped: Sequence[Term]) -> None:
    """Measure what shaped terms use beside the known components, and add them up."""
    names = {component.name for component in known}
    for component in components_of(shaped):
        if component.name in names:
            continue
        if component.per == "group":
            await _compare(component, episodes)
        else:
            for episode in episodes:
                await _measure(component, episode)
    for episode in episodes:
        add_up(episode, shaped)


async def _measure(component: Reward, episode: Trajectory) -> None:
    places: Mapping[str, Sequence[Turn | None]] = {"turn": episode.turns, "episode": [None]}
    for turn in places.get(component.per, ()):
        try:
            value = await component.score(episode, turn)
        except NoVerdict as problem:
            _leave_out(component, problem, [episode])
        else:
            (episode if turn is None else turn).rewards[component.name] = value


async def _compare(component: Reward, episodes: Sequence[Trajectory]) -> None:
    try:
        values = await component.score_group(episodes)
    except NoVerdict as problem:
        _leave_out(component, problem, episodes)
        return
    for episode, value in zip(episodes, values, strict=True):
        episode.rewards[component.name] = value


def add_up(episode: Trajectory, terms: Sequence[Term], *, complete: bool = True) -> None:
    """The sum over terms by the episode's record; what has no value is left out of it.

    Args:
        episode: whose components were measured.
        terms: the environment's.
        complete: whether all of them were, so that an episode without any value has no verdict.

    Raises:
        NoVerdict: components were left out, and no term has a value.
        UserCodeError: the sum is no finite number.
    """
    whole, judged = Amount(), False
    for term in terms:
        amount = term.amount(episode)
        if amount is not None:
            judged = True
            whole = whole.plus(amount.scaled(term.weight) if isinstance(term, Reward) else amount)
    if complete and not judged and episode.missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in episode.missing.items())
        raise NoVerdict(f"No reward of episode {episode.id} has a value ({reasons}).")
    if not math.isfinite(whole.total()):
        raise UserCodeError(
            f"The rewards of task {episode.task.id} add up to {whole.total()}; the components are "
            f"{episode.components}. Bound them with clip()."
        )
    episode.turn_reward, episode.episode_reward = whole.turns, whole.episode
    episode.reward = whole.total()


def _leave_out(component: Reward, problem: NoVerdict, episodes: Sequence[Trajectory]) -> None:
    if component.no_verdict != "leave out":
        raise problem
    for episode in episodes:
        episode.missing[component.name] = str(problem)
