"""Questions about the built-in database, each with the statement that answers it.

A form has gaps, which are filled with names, regions and numbers that occur in the facts. Orders are by
columns whose values all differ, so that a right answer has one order only.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentrl import ConfigError, Task
from agentrl.envs.sql import facts

TRIES = 100
"""Draws for a new question of a form before it is taken to have run out."""


@dataclass(frozen=True)
class Form:
    """One kind of question.

    Args:
        level: 1 (one table), 2 (joins, orders) or 3 (groups, nested statements).
        question: the text, with gaps in braces.
        sql: the statement, with the same gaps; ``{country}`` stands within quotes.
    """

    level: int
    question: str
    sql: str


FORMS: dict[str, Form] = {
    "fact": Form(
        1,
        "What is the {label} of {country}?",
        "SELECT {column} FROM country WHERE name = '{country}'",
    ),
    "count": Form(
        1,
        "How many countries in {place} have {a_label} above {number}?",
        "SELECT count(*) FROM country WHERE region = '{region}' AND {column} > {number}",
    ),
    "names": Form(
        1,
        "Which countries in {place} have {a_label} below {number}? Give their names.",
        "SELECT name FROM country WHERE region = '{region}' AND {column} < {number}",
    ),
    "extreme": Form(
        1,
        "What is the {extreme} {label} of the countries in {place} with more than {people} people?",
        "SELECT {function}({column}) FROM country WHERE region = '{region}' AND population > {people}",
    ),
    "economy": Form(
        2,
        "What is the {rate_label} of {country}?",
        "SELECT e.{rate} FROM economy e JOIN country c ON c.code = e.code WHERE c.name = '{country}'",
    ),
    "largest": Form(
        2,
        "Which {few} countries in {place} with less than {people} people have the largest {ranked}? "
        "Give names, largest first.",
        "SELECT name FROM country WHERE region = '{region}' AND population < {people} "
        "ORDER BY {ranked} DESC LIMIT {few}",
    ),
    "neighbours": Form(
        2,
        "Which countries share a border with {country}? Give names and populations.",
        "SELECT n.name, n.population FROM country c JOIN border b ON b.code = c.code "
        "JOIN country n ON n.code = b.neighbour WHERE c.name = '{country}'",
    ),
    "average": Form(
        2,
        "What is the average {rate_label} of the countries in {place} with more than {people} people? "
        "Round it to one decimal.",
        "SELECT round(avg(e.{rate}), 1) FROM country c JOIN economy e ON e.code = c.code "
        "WHERE c.region = '{region}' AND c.population > {people}",
    ),
    "customers": Form(
        2,
        "Which countries send more than {percent} percent of their exports to {country}? "
        "Give names and percentages.",
        "SELECT c.name, x.percent FROM export x JOIN country c ON c.code = x.code "
        "JOIN country p ON p.code = x.partner WHERE p.name = '{country}' AND x.percent > {percent}",
    ),
    "many_neighbours": Form(
        3,
        "Which countries in {place} with more than {people} people share a border with at least {few} "
        "countries? Give names and how many those are.",
        "SELECT c.name, count(*) FROM country c JOIN border b ON b.code = c.code WHERE c.region = '{region}' "
        "AND c.population > {people} GROUP BY c.code HAVING count(*) >= {few}",
    ),
    "regions": Form(
        3,
        "Give for each region the number of countries with {a_label} above {number}, leaving out regions "
        "without any.",
        "SELECT region, count(*) FROM country WHERE {column} > {number} GROUP BY region",
    ),
    "larger_neighbours": Form(
        3,
        "Which neighbours of {country} have a larger {ranked} than it has? Give their names, largest "
        "{ranked} first.",
        "SELECT n.name FROM country c JOIN border b ON b.code = c.code JOIN country n "
        "ON n.code = b.neighbour WHERE c.name = '{country}' AND n.{ranked} > c.{ranked} "
        "ORDER BY n.{ranked} DESC",
    ),
    "above_average": Form(
        3,
        "How many countries with more than {people} people have {a_rate} above the average of the "
        "countries in {place}?",
        "SELECT count(*) FROM country c JOIN economy e ON e.code = c.code WHERE c.population > {people} "
        "AND e.{rate} > (SELECT avg(e.{rate}) FROM country c JOIN economy e ON e.code = c.code "
        "WHERE c.region = '{region}')",
    ),
    "islands": Form(
        3,
        "Which countries in {place} with more than {people} people share no border? Give their names.",
        "SELECT name FROM country WHERE region = '{region}' AND population > {people} "
        "AND code NOT IN (SELECT code FROM border)",
    ),
    "bought_together": Form(
        3,
        "To which countries do both {country} and {other} export? Give their names.",
        "SELECT name FROM country WHERE code IN (SELECT x.partner FROM export x JOIN country c "
        "ON c.code = x.code WHERE c.name = '{country}') AND code IN (SELECT x.partner FROM export x "
        "JOIN country c ON c.code = x.code WHERE c.name = '{other}')",
    ),
}

_COLUMNS = {
    "area": "an area in square kilometres",
    "population": "a population",
    "life_expectancy": "a life expectancy",
    "airports": "a number of airports",
}
_RATES = {
    "gdp": "a gross domestic product in billions of dollars",
    "growth": "a growth rate",
    "unemployment": "an unemployment rate",
    "inflation": "an inflation rate",
}


class Gaps:
    """What fills gaps: the names in the facts, and numbers near those in the facts."""

    def __init__(self, database: sqlite3.Connection) -> None:
        asked = f"SELECT name, region, {', '.join(_COLUMNS)} FROM country ORDER BY code"
        self._countries, regions, *columns = zip(*database.execute(asked), strict=True)
        self._regions = sorted(set(regions))
        self._numbers = {
            name: [value for value in values if value] for name, values in zip(_COLUMNS, columns, strict=True)
        }

    def draw(self, rng: random.Random) -> dict[str, object]:
        """A filling for every gap that a form may have."""
        column, rate, region = rng.choice(list(_COLUMNS)), rng.choice(list(_RATES)), rng.choice(self._regions)
        extreme, function = rng.choice((("largest", "max"), ("smallest", "min")))
        country, other = rng.sample(self._countries, 2)
        return {
            "column": column, "a_label": _COLUMNS[column], "label": _COLUMNS[column].partition(" ")[2],
            "rate": rate, "a_rate": _RATES[rate], "rate_label": _RATES[rate].partition(" ")[2],
            "extreme": extreme, "function": function, "country": country, "other": other,
            "region": region, "place": "the Middle East" if region == "Middle East" else region,
            "ranked": rng.choice(("area", "population")), "few": rng.randint(2, 6),
            "number": self._number(column, rng), "people": self._number("population", rng),
            "percent": rng.randint(2, 30),
        }  # fmt: skip

    def _number(self, column: str, rng: random.Random) -> int:
        """A value of the column, in two significant digits."""
        value = rng.choice(self._numbers[column])
        return int(float(f"{value:.2g}")) or 1


def draw(
    forms: list[str], folder: Path, rng: random.Random, count: int, used: set[Hashable]
) -> Iterator[Task]:
    """``count`` tasks, each form in turn until it has run out; their prompts are added to ``used``.

    A task whose statement gives no rows is left out: anything without rows would answer it.

    Raises:
        ConfigError: the forms have too few questions.
    """
    connection = sqlite3.connect(f"file:{folder / facts.SEEN}?mode=ro", uri=True)
    try:
        gaps, left, made = Gaps(connection), list(forms), 0
        while made < count:
            if not left:
                raise ConfigError(
                    f"The forms {', '.join(forms)} have no more than {made} questions: lower size."
                )
            for name in list(left):
                task = _one(name, gaps, connection, rng, used)
                if task is None:
                    left.remove(name)
                elif made < count:
                    made += 1
                    yield task
    finally:
        connection.close()


def _one(
    name: str, gaps: Gaps, connection: sqlite3.Connection, rng: random.Random, used: set[Hashable]
) -> Task | None:
    form = FORMS[name]
    for _ in range(TRIES):
        filling = gaps.draw(rng)
        question = form.question.format(**filling)
        quoted = {
            gap: value.replace("'", "''") if isinstance(value, str) else value
            for gap, value in filling.items()
        }
        sql = form.sql.format(**quoted)
        if question not in used and _has_answer(connection, sql):
            used.add(question)
            return Task(question, answer=sql, metadata={"database": facts.SEEN, "form": name})
    return None


def _has_answer(connection: sqlite3.Connection, sql: str) -> bool:
    """Whether the statement gives a row that holds more than NULL."""
    row = connection.execute(sql).fetchone()
    return row is not None and any(value is not None for value in row)
