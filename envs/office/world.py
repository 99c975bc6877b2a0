"""The world of the office: a calendar, files and messages, made from a seed; and what may be done to them.

A state is plain data. Everything here is synchronous and pure but for the state that it is given.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl import ToolError

State = dict[str, Any]

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri")
DATES = ("21", "22", "23", "24", "25")
"""The same week in numbers, none of which is an hour."""
HOURS = range(8, 18)
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hal")
TITLES = ("review", "lunch", "planning", "interview", "demo", "training", "budget talk", "retro", "workshop",
          "audit", "call", "briefing")  # fmt: skip
FOLDERS = ("notes", "plans", "drafts")
TOPICS = ("budget", "launch", "hiring", "travel", "garden", "server", "contract", "survey")
OPENINGS = ("The {} is late by a week.", "Who takes the {}?", "The {} looks good.", "We should drop the {}.",
            "I will finish the {} soon.")  # fmt: skip

MOST_TEXT = 2000
"""Characters of a text or a name."""

MOST_THINGS = 200
"""Events, files and sent messages, each."""


def make(rng: random.Random, events: int, files: int, letters: int, days: Sequence[str] = DAYS) -> State:
    """An office.

    Args:
        events: in the user's week, each with a title of its own; others' weeks have as many busy hours.
        files: in all.
        letters: messages that came in.
        days: what the days of the week are called.
    """
    numbers = iter(rng.sample(range(10, 100), 80))
    slots = rng.sample([(day, hour) for day in days for hour in HOURS], events)
    titles = rng.sample(TITLES, events)
    week = {
        str(next(numbers)): {
            "title": title, "day": day, "hour": hour, "people": sorted(rng.sample(PEOPLE, rng.randint(1, 3))),
        }
        for title, (day, hour) in zip(titles, slots, strict=True)
    }  # fmt: skip
    busy = {name: {day: sorted(rng.sample(HOURS, rng.randint(2, 6))) for day in days} for name in PEOPLE}
    written = {}
    for topic in rng.sample(TOPICS, min(files, len(TOPICS))):
        written[f"{rng.choice(FOLDERS)}/{topic}.txt"] = sentence(rng, rng.choice(TOPICS))
    inbox = {
        str(next(numbers)): {"from": rng.choice(PEOPLE), "text": sentence(rng, rng.choice(TOPICS))}
        for _ in range(letters)
    }
    return {
        "days": list(days), "events": week, "busy": busy, "files": written, "inbox": inbox, "sent": [],
        "added": [],
    }  # fmt: skip


def sentence(rng: random.Random, topic: str) -> str:
    """Something that people write."""
    return rng.choice(OPENINGS).format(topic)


def view(state: State) -> dict[str, Any]:
    """What an episode is judged by. What was added counts by what it is, not by its number or order."""
    sent = Counter(f"{each['to']}: {plain(each['text'])}" for each in state["sent"])
    return {
        "events": {number: each for number, each in state["events"].items() if number not in state["added"]},
        "new events": Counter(_described(state["events"][number]) for number in state["added"]),
        "files": {path: plain(text) for path, text in state["files"].items()},
        "sent": sent,
    }  # fmt: skip


def _described(event: Mapping[str, Any]) -> str:
    return f"{plain(event['title']).lower()}, {event['day']} {event['hour']}, {', '.join(event['people'])}"


def plain(text: str) -> str:
    """A text without extra spaces."""
    return " ".join(text.split())


# ---- what may be done: each answers with what a caller is told ----------------------------------------


def events(state: State, day: str = "") -> str:
    """The calendar of a day, or of the week."""
    if day:
        _known(day, state["days"], "day")
    found = sorted(
        (state["days"].index(each["day"]), each["hour"], number, each)
        for number, each in state["events"].items()
        if day in ("", each["day"])
    )
    return "\n".join(
        f"{number}: {each['title']}, {each['day']} at {hour}, {', '.join(each['people'])}"
        for _, hour, number, each in found
    ) or "Nothing."  # fmt: skip


def add_event(state: State, title: str, day: str, hour: int, people: str) -> str:
    """A new event; its number is the first that is free."""
    names = sorted({_known(name.strip(), PEOPLE, "person") for name in people.split(",") if name.strip()})
    _known(day, state["days"], "day")
    _known(hour, HOURS, "hour")
    _room(state["events"])
    number = next(str(n) for n in range(100, 1000) if str(n) not in state["events"])
    state["events"][number] = {"title": _text(title), "day": day, "hour": hour, "people": names}
    state["added"].append(number)
    return f"Added as {number}."


def move_event(state: State, event_id: str, day: str, hour: int) -> str:
    """An event at another time."""
    event = _found(state["events"], event_id, "event")
    event["day"], event["hour"] = _known(day, state["days"], "day"), _known(hour, HOURS, "hour")
    return "Moved."


def delete_event(state: State, event_id: str) -> str:
    """No event any more."""
    _found(state["events"], event_id, "event")
    del state["events"][event_id]
    state["added"] = [number for number in state["added"] if number != event_id]
    return "Deleted."


def busy(state: State, name: str, day: str) -> str:
    """When somebody else has no time."""
    hours = state["busy"][_known(name, PEOPLE, "person")][_known(day, state["days"], "day")]
    return f"{name} is busy on {day} at {', '.join(map(str, hours))}."


def list_files(state: State, folder: str = "") -> str:
    """The paths of a folder, or all."""
    return "\n".join(sorted(path for path in state["files"] if path.startswith(folder))) or "Nothing."


def read_file(state: State, path: str) -> str:
    """A file's text."""
    return str(_found(state["files"], path, "file"))


def write_file(state: State, path: str, text: str) -> str:
    """A file with this text."""
    _room(state["files"])
    state["files"][_text(path)] = _text(text)
    return "Written."


def move_file(state: State, path: str, to: str) -> str:
    """A file under another path."""
    text = _found(state["files"], path, "file")
    if to in state["files"]:
        raise ToolError(f"There is a file {to[:80]!r} already.")
    del state["files"][path]
    state["files"][_text(to)] = text
    return "Moved."


def inbox(state: State, sender: str = "") -> str:
    """What came in, the oldest first."""
    if sender:
        _known(sender, PEOPLE, "person")
    found = [each for each in state["inbox"].values() if sender in ("", each["from"])]
    return "\n".join(f"{each['from']}: {each['text']}" for each in found) or "Nothing."


def send(state: State, to: str, text: str) -> str:
    """A message to one person."""
    _room(state["sent"])
    state["sent"].append({"to": _known(to, PEOPLE, "person"), "text": _text(text)})
    return "Sent."


_ALL = (events, add_event, move_event, delete_event, busy, list_files, read_file, write_file, move_file,
        inbox, send)  # fmt: skip
ACTIONS: Mapping[str, Callable[..., str]] = {each.__name__: each for each in _ALL}
"""By the names that tools have."""


def _known(value: Any, values: Any, what: str) -> Any:
    if value not in values:
        raise ToolError(f"There is no {what} {str(value)[:40]!r}; there are {', '.join(map(str, values))}.")
    return value


def _found(things: Mapping[str, Any], key: str, what: str) -> Any:
    if key not in things:
        raise ToolError(f"There is no {what} {key[:80]!r}.")
    return things[key]


def _text(text: str) -> str:
    if len(text) > MOST_TEXT or not text.strip():
        raise ToolError(f"A text has 1 to {MOST_TEXT} characters.")
    return text


def _room(things: Any) -> None:
    if len(things) >= MOST_THINGS:
        raise ToolError("There is no more room.")
