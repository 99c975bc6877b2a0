"""Questions about the World Factbook, each of which can be answered by looking up one or two entries."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from agentrl import ConfigError, Message, Task, call
from agentrl.envs.qa.factbook import ascii_letters, countries, entries

Reading = Generator[Message, list[str], str | None]
"""Calls of tools that find something out."""

TEST_SHARE = 4
"""Every fourth country, or question, is for ``test``."""
PARTNERS = 3
"""Countries that a country is compared with, per kind of comparison."""


@dataclass(frozen=True)
class Fact:
    """Something that an entry says.

    Args:
        field: the entry.
        read: finds it in the entry's text; ``None`` if it is not there, or not plainly.
        whole: whether the text has to be there to its end.
    """

    field: str
    read: Callable[[str], str | None]
    whole: bool = False

    def of(self, country: str) -> str | None:
        """What the Factbook says about a country."""
        return self.read(entries()[country].get(self.field, ""))


def _matched(pattern: str) -> Callable[[str], str | None]:
    compiled = re.compile(pattern)

    def read(text: str) -> str | None:
        found = compiled.search(text)
        return found[1].strip() if found else None

    return read


# How a neighbour's name stands where lengths of borders are told.
_OTHERWISE = {
    "Czech Republic": "Czechia", "Macedonia": "North Macedonia", "UAE": "United Arab Emirates",
    "UK": "United Kingdom", "US": "United States",
}  # fmt: skip
_BORDER = re.compile(r"([A-Z][^\d;:(]*?) ([\d,.]+) km")


def _longest_border(text: str) -> str | None:
    """The neighbour with the longest border, if the entry's list can be read and is more than one."""
    found = re.search(r"border countries(?: \(\d+\))?: ([^\n]+)", text)
    if not found or re.search(r"\) [\d,]+ km", found[1]):  # parts of a neighbour's border have to be added up
        return None
    lengths = [(float(km.replace(",", "")), name) for name, km in _BORDER.findall(found[1])]
    lengths.sort(reverse=True)
    if len(lengths) < 2 or lengths[0][0] == lengths[1][0]:
        return None
    name = _OTHERWISE.get(lengths[0][1], lengths[0][1])
    return name if name in countries() else None


CAPITAL = Fact("Capital", _matched(r"^name: ([^\n;(,]+?)(?: \([^)]*\))?(?:\n|$)"))
CODE = Fact("Internet country code", _matched(r"^(\.[a-z]{2})(?![^\s;,])"))
HIGHEST = Fact("Elevation", _matched(r"highest point: ((?!unnamed)[A-Z][^\d\n;(,]+) [\d,]+ m(?![a-z])"))
POPULATION = Fact("Population", _matched(r"^total: ([\d,]+) \("))
AREA = Fact("Area", _matched(r"^total: ([\d,]+) sq km"))
COASTLINE = Fact("Coastline", _matched(r"^([\d,]+) km"))
HEIGHT = Fact("Elevation", _matched(r"highest point: [^\d\n;(,]+ ([\d,]+) m(?![a-z])"))
BORDERS = Fact("Land boundaries", _matched(r"^total: ([1-9][\d,]*) km"))
BORDER = Fact("Land boundaries", _longest_border, whole=True)


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    Args:
        ask: what is asked about some countries.
        answer: what is right; ``None`` if the Factbook does not say it plainly.
        work: finds the answer with tools, from the question alone.
        compares: whether it is about two countries.
    """

    ask: str
    answer: Callable[..., str | None]
    work: Callable[..., Reading]
    compares: bool = False

    def solve(self, question: str) -> Reading:
        """Work on a question of this kind."""
        pattern = re.escape(self.ask).replace(r"\{\}", "(.+)")
        found = re.fullmatch(pattern, question)
        assert found is not None, question
        return (yield from self.work(*found.groups()))


# ---- finding out ------------------------------------------------------------------------------


def look_up(fact: Fact, country: str) -> Reading:
    """Search for an entry and read it; open it where the search shows too little of it."""
    title = f"{country}: {fact.field}"
    [seen] = yield call("search", query=f"{country} {fact.field}")
    text = _shown(seen, title)
    found = None if fact.whole and text.endswith("…") else fact.read(_surely(text))
    if found is None:
        [seen] = yield call("open_document", title=title)
        found = fact.read(seen.removeprefix(f"{title}\n"))
    return found


def _shown(seen: str, title: str) -> str:
    """What a search shows of a document; empty if it is not among the results."""
    for part in re.split(r"(?:^|\n)Doc \d+ ", seen):
        if part.startswith(f"(Title: {title}) "):
            return part.removeprefix(f"(Title: {title}) ").strip()
    return ""


def _surely(text: str) -> str:
    """A text without the line in which it was cut off."""
    return text.rpartition("\n")[0] if text.endswith("…") else text


def _single(fact: Fact) -> Callable[[str], Reading]:
    return lambda country: look_up(fact, country)


def _capital_by_code(code: str) -> Reading:
    [seen] = yield call("search", query=f"{CODE.field} {code}")
    found = re.search(rf"\(Title: (.+): {CODE.field}\) {re.escape(code)}(?![a-z])", seen)
    return (yield from look_up(CAPITAL, found[1])) if found else None


def _capital_of_neighbour(country: str) -> Reading:
    neighbour = yield from look_up(BORDER, country)
    return (yield from look_up(CAPITAL, neighbour)) if neighbour else None


def _greater(fact: Fact) -> Callable[[str, str], Reading]:
    def work(one: str, other: str) -> Reading:
        sizes = []
        for country in (one, other):
            sizes.append((yield from look_up(fact, country)))
        return _larger(one, other, *sizes)

    return work


def _larger(one: str, other: str, first: str | None, second: str | None) -> str | None:
    if first is None or second is None or _number(first) == _number(second):
        return None
    return one if _number(first) > _number(second) else other


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _neighbours_capital(country: str) -> str | None:
    neighbour = BORDER.of(country)
    return CAPITAL.of(neighbour) if neighbour else None


def _compared(fact: Fact) -> Callable[[str, str], str | None]:
    return lambda one, other: _larger(one, other, fact.of(one), fact.of(other))


KINDS: dict[str, Kind] = {
    "capital": Kind("What is the capital of {}?", CAPITAL.of, _single(CAPITAL)),
    "code": Kind("What is the Internet country code of {}?", CODE.of, _single(CODE)),
    "highest_point": Kind("What is the highest point of {}?", HIGHEST.of, _single(HIGHEST)),
    "population": Kind("How many inhabitants does {} have?", POPULATION.of, _single(POPULATION)),
    "area": Kind("How many square kilometres does {} have?", AREA.of, _single(AREA)),
    "coastline": Kind("How many kilometres of coast does {} have?", COASTLINE.of, _single(COASTLINE)),
    "height": Kind("How many metres high is the highest point of {}?", HEIGHT.of, _single(HEIGHT)),
    "borders": Kind("How many kilometres of land borders does {} have?", BORDERS.of, _single(BORDERS)),
    "longest_border": Kind(
        "With which country does {} share its longest land border?", BORDER.of, _single(BORDER)
    ),
    "capital_by_code": Kind(
        "What is the capital of the country with the Internet country code {}?", CAPITAL.of, _capital_by_code
    ),
    "capital_of_neighbour": Kind(
        "What is the capital of the country with which {} shares its longest land border?",
        _neighbours_capital,
        _capital_of_neighbour,
    ),
    "more_people": Kind(
        "Which has more inhabitants, {} or {}?", _compared(POPULATION), _greater(POPULATION), compares=True
    ),
    "more_land": Kind("Which has the larger area, {} or {}?", _compared(AREA), _greater(AREA), compares=True),
}


# ---- tasks ------------------------------------------------------------------------------------


def make_tasks(
    split: str, kinds: Sequence[str], size: int, seed: int, known_countries: int | None = None
) -> list[Task]:
    """Questions about the countries of a split, in an order that ``seed`` decides.

    Args:
        split: ``train`` or ``test``; which questions are whose does not depend on ``size`` and ``seed``.
        kinds: of :data:`KINDS`.
        size: at most so many, as many of each kind as there are.
        known_countries: instead, about so many countries in both splits, which share no question.

    Raises:
        ConfigError: the Factbook is not installed.
    """
    rng = random.Random(f"{split} {seed}")
    made: list[list[Task]] = []
    for name in kinds:
        if known_countries is None:
            questions = list(_questions(name, _countries(split), rng))
        else:
            questions = _held_out(split, list(_questions(name, _shuffled()[:known_countries], rng)))
        rng.shuffle(questions)
        made.append(questions)
    chosen = [task for column in _columns(made) for task in column][:size]
    rng.shuffle(chosen)
    return chosen


def _countries(split: str) -> list[str]:
    return [name for at, name in enumerate(_shuffled()) if (at % TEST_SHARE == 0) == (split == "test")]


def _shuffled() -> list[str]:
    names = list(countries())
    random.Random(0).shuffle(names)
    return names


def _held_out(split: str, questions: list[Task]) -> list[Task]:
    """Those of a split: a question's own words decide."""
    return [
        task
        for task in questions
        if (random.Random(task.prompt).randrange(TEST_SHARE) == 0) == (split == "test")
    ]


def _questions(name: str, about: Sequence[str], rng: random.Random) -> Iterator[Task]:
    kind = KINDS[name]
    codes = Counter(CODE.of(country) for country in countries())
    for country in about:
        code = CODE.of(country) or ""
        if name == "capital_by_code" and codes[code] != 1:
            continue
        others = [other for other in rng.sample(about, PARTNERS + 1) if other != country][:PARTNERS]
        for subjects in [(country, other) for other in others] if kind.compares else [(country,)]:
            answer = kind.answer(*subjects)
            asked = (code,) if name == "capital_by_code" else subjects
            if answer is not None:
                yield Task(kind.ask.format(*asked), answer=_accepted(answer), metadata={"kind": name})


def _accepted(answer: str) -> str | list[str]:
    plain = ascii_letters(answer)
    return answer if plain == answer else [answer, plain]


def _columns(made: Sequence[Sequence[Task]]) -> Iterator[list[Task]]:
    """The first question of every kind, then the second of every kind, and so on."""
    for at in range(max(map(len, made), default=0)):
        yield [questions[at] for questions in made if at < len(questions)]


def checked_kinds(names: Sequence[str] | str | None) -> tuple[str, ...]:
    """The kinds that are asked for; all by default.

    Raises:
        ConfigError: there is no such kind.
    """
    chosen = list(KINDS) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in KINDS]
    if unknown or not chosen:
        what = f"There is no kind of question {unknown[0]!r}" if unknown else "questions= is empty"
        raise ConfigError(f"{what}; known: {', '.join(KINDS)}.")
    return tuple(dict.fromkeys(chosen))
