"""What is asked of an assistant: requests drawn from an office, each with the calls that meet it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.envs.office import world

Step = tuple[str, dict[str, Any]]
"""A tool and its arguments."""


@dataclass(frozen=True)
class Request:
    """One thing that is asked.

    Args:
        say: in the user's words.
        looks: calls that find out what has to be known.
        does: calls that meet it.
    """

    say: str
    looks: Sequence[Step]
    does: Sequence[Step]


Form = Callable[[world.State, random.Random], Request | None]


def _event(state: world.State, rng: random.Random) -> tuple[str, dict[str, Any]] | None:
    found = [(number, each) for number, each in state["events"].items() if number not in state["added"]]
    return rng.choice(found) if found else None


def _time(state: world.State, rng: random.Random) -> tuple[str, int]:
    taken = {(each["day"], each["hour"]) for each in state["events"].values()}
    return rng.choice(
        [(day, hour) for day in state["days"] for hour in world.HOURS if (day, hour) not in taken]
    )


def _move(state: world.State, rng: random.Random) -> Request | None:
    if (found := _event(state, rng)) is None:
        return None
    number, event = found
    day, hour = _time(state, rng)
    say = f"Move the {event['title']} on {event['day']} to {day} at {hour}."
    return Request(say, [("events", {"day": event["day"]})],
                   [("move_event", {"event_id": number, "day": day, "hour": hour})])  # fmt: skip


def _move_and_tell(state: world.State, rng: random.Random) -> Request | None:
    if (found := _event(state, rng)) is None:
        return None
    number, event = found
    day, hour = _time(state, rng)
    text = f"The {event['title']} is now on {day} at {hour}."
    say = f"Move the {event['title']} to {day} at {hour} and send everybody in it the message: {text}"
    does: list[Step] = [("move_event", {"event_id": number, "day": day, "hour": hour})]
    return Request(
        say, [("events", {})], does + [("send", {"to": name, "text": text}) for name in event["people"]]
    )


def _cancel_with(state: world.State, rng: random.Random) -> Request | None:
    name = rng.choice(world.PEOPLE)
    found = [number for number, each in state["events"].items() if name in each["people"]]
    if not found:
        return None
    say = f"Delete every event of this week that {name} is in."
    return Request(say, [("events", {})], [("delete_event", {"event_id": number}) for number in found])


def _save_last(state: world.State, rng: random.Random) -> Request | None:
    name = rng.choice(world.PEOPLE)
    letters = [each["text"] for each in state["inbox"].values() if each["from"] == name]
    if not letters:
        return None
    path = f"inbox/{name.lower()}.txt"
    say = f"Save the last message that {name} wrote me as {path}, word for word."
    return Request(say, [("inbox", {"sender": name})], [("write_file", {"path": path, "text": letters[-1]})])


def _forward(state: world.State, rng: random.Random) -> Request | None:
    if not state["files"]:
        return None
    path, name = rng.choice(sorted(state["files"])), rng.choice(world.PEOPLE)
    say = f"Send {name} what is in {path}, word for word."
    return Request(
        say, [("read_file", {"path": path})], [("send", {"to": name, "text": state["files"][path]})]
    )


def _archive(state: world.State, rng: random.Random) -> Request | None:
    topic = rng.choice(world.TOPICS)
    paths = sorted(path for path in state["files"] if not path.startswith("archive/"))
    found = [path for path in paths if topic in state["files"][path]]
    if not found:
        return None
    say = f"Move every file whose text mentions the {topic} into the folder archive, under the name it has."
    looks: list[Step] = [("list_files", {}), *(("read_file", {"path": path}) for path in paths)]
    does = [("move_file", {"path": path, "to": f"archive/{path.rpartition('/')[2]}"}) for path in found]
    return None if any(step[1]["to"] in state["files"] for step in does) else Request(say, looks, does)


def _book(state: world.State, rng: random.Random) -> Request | None:
    name, day = rng.choice(world.PEOPLE), rng.choice(state["days"])
    taken = {each["hour"] for each in state["events"].values() if each["day"] == day}
    free = [hour for hour in world.HOURS if hour not in taken and hour not in state["busy"][name][day]]
    title = f"talk about the {rng.choice(world.TOPICS)}"
    if not free:
        return None
    say = (
        f"Add the event '{title}' with {name} on {day}, at the first hour from 8 on when both of us are free."
    )
    looks: list[Step] = [("events", {"day": day}), ("busy", {"name": name, "day": day})]
    what = {"title": title, "day": day, "hour": free[0], "people": name}
    return Request(say, looks, [("add_event", what)])


def _write_down(state: world.State, rng: random.Random) -> Request | None:
    if (found := _event(state, rng)) is None:
        return None
    number, event = found
    path = f"plans/{event['title'].replace(' ', '-')}.txt"
    if path in state["files"]:
        return None
    text = f"{event['title']}: {event['day']} {event['hour']}, {', '.join(event['people'])}"
    say = (
        f"Write when and with whom the {event['title']} is into {path}, as 'title: day hour, names', and "
        "delete it from the calendar."
    )
    looks: list[Step] = [("events", {})]
    return Request(
        say, looks, [("write_file", {"path": path, "text": text}), ("delete_event", {"event_id": number})]
    )


FORMS: Mapping[str, Form] = {
    "move": _move,
    "move and tell": _move_and_tell,
    "cancel with": _cancel_with,
    "save last": _save_last,
    "forward": _forward,
    "archive": _archive,
    "book": _book,
    "write down": _write_down,
}

PLANS: Mapping[int, tuple[Sequence[str], int]] = {
    1: (("move",), 1),
    2: (("move", "save last", "forward", "cancel with", "move and tell"), 2),
    3: (tuple(FORMS), 3),
}
"""By difficulty: which forms, and how many requests follow each other."""


def draw(state: world.State, forms: Sequence[str], count: int, rng: random.Random) -> list[Request]:
    """Requests in a row, each for the office as those before leave it; ``state`` becomes its end."""
    drawn: list[Request] = []
    while len(drawn) < count:
        request = FORMS[rng.choice(list(forms))](state, rng)
        if request is None:
            continue
        for name, arguments in request.does:
            world.ACTIONS[name](state, **arguments)
        drawn.append(request)
    return drawn
