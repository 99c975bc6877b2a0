"""Events: written whole, read as they were, and never waited for."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agentrl import events
from agentrl.events import KINDS, Event, EventReader, FileSink, NullSink, StageStarted, Warned, decode, encode

VALUES: dict[str, Any] = {
    "str": "naïve \n \x85 \u2028 text", "int": 7, "float": 0.1, "bool": True,
    "dict[str, int]": {"2": 31}, "list[str]": ["a group"],
    "dict[str, float]": {"reward/mean": 0.25}, "dict[str, str]": {"a check": "pass"},
}  # fmt: skip


def example(kind: type[Event]) -> Event:
    return kind(**{field.name: VALUES[str(field.type)] for field in dataclasses.fields(kind)})


ALL = [example(kind) for kind in KINDS.values()]


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_every_event_is_one_line_of_json_and_comes_back(event: Event) -> None:
    line = encode(event)
    assert json.loads(line)["event"] == type(event).__name__
    assert len(line.splitlines()) == 1
    assert decode(line) == event


def test_every_kind_of_event_is_known() -> None:
    defined = {
        k: v
        for k, v in vars(events).items()
        if isinstance(v, type) and issubclass(v, Event) and v is not Event
    }
    assert defined == KINDS


def test_what_is_emitted_is_read_in_order_and_once(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "events", "rollout")
    for event in ALL:
        sink.emit(event)
    sink.close()
    assert [path.name for path in (tmp_path / "events").iterdir()] == [f"rollout-{os.getpid()}.jsonl"]
    reader = EventReader(tmp_path / "events")
    assert list(reader.poll()) == ALL
    assert list(reader.poll()) == []


def test_the_files_of_several_processes_are_followed_as_they_appear(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert list(reader.poll()) == []
    for role in ("driver", "rollout"):
        sink = FileSink(tmp_path, role)
        sink.emit(StageStarted(role))
        sink.close()
        assert [event.stage for event in reader.poll() if isinstance(event, StageStarted)] == [role]


def test_a_sink_adds_to_the_file_that_is_there(tmp_path: Path) -> None:
    for stage in ("one", "two"):
        sink = FileSink(tmp_path, "driver")
        sink.emit(StageStarted(stage))
        sink.close()
    assert [vars_of(event)["stage"] for event in EventReader(tmp_path).poll()] == ["one", "two"]


def vars_of(event: Event) -> dict[str, Any]:
    return dataclasses.asdict(event)


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    line = encode(Warned("über")).encode() + b"\n"
    path, reader = tmp_path / "driver-1.jsonl", EventReader(tmp_path)
    for cut in (1, len(line) // 2, len(line) - 1):
        path.write_bytes(line + line[:cut])
        assert len(list(reader.poll())) == (1 if cut == 1 else 0)
    path.write_bytes(line + line + line[:5])
    assert [vars_of(event)["message"] for event in reader.poll()] == ["über"]


def test_a_reader_that_stops_half_way_misses_nothing(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "driver")
    for number in range(3):
        sink.emit(Warned(str(number)))
    sink.close()
    reader = EventReader(tmp_path)
    seen = [next(reader.poll()) for _ in range(3)]
    assert [vars_of(event)["message"] for event in seen] == ["0", "1", "2"]
    assert list(reader.poll()) == []


def test_text_that_utf8_cannot_hold_does_not_end_the_writing(tmp_path: Path) -> None:
    sink = FileSink(tmp_path, "driver")
    sink.emit(Warned("\ud83d"))
    sink.emit(Warned("after"))
    sink.close()
    assert [vars_of(event)["message"] for event in EventReader(tmp_path).poll()] == ["\ud83d", "after"]


def test_a_full_queue_drops_and_tells_how_many(tmp_path: Path) -> None:
    """The file is a pipe that nobody empties, so that the writer stands still while events come in."""
    path = tmp_path / f"driver-{os.getpid()}.jsonl"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(tmp_path, "driver", limit=3)
    emitted = 0
    while sink.dropped < 5:
        sink.emit(Warned("x" * 200_000))
        emitted += 1
        assert emitted < 100_000, "nothing was ever dropped"
    dropped = sink.dropped
    read: list[bytes] = []

    def drain() -> None:
        os.set_blocking(pipe, True)
        while chunk := os.read(pipe, 1 << 20):
            read.append(chunk)

    reading = threading.Thread(target=drain, daemon=True)
    reading.start()
    sink.close()
    reading.join(30)
    os.close(pipe)
    lines = b"".join(read).decode().splitlines()
    assert len(lines) == emitted - dropped + 1
    last = decode(lines[-1])
    assert isinstance(last, Warned) and last.message.startswith(f"{dropped} events were dropped")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_events_but_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / f"driver-{os.getpid()}.jsonl").symlink_to("/dev/full")
    sink = FileSink(tmp_path, "driver", limit=2)
    for _ in range(50):
        sink.emit(Warned("x" * 10_000))
    closing = threading.Thread(target=sink.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive() and sink.dropped > 0


def test_events_can_go_nowhere() -> None:
    NullSink().emit(Warned("?"))
