"""Why a run stopped: the first reason stays, whoever else has one; and the certificate beside it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from agentrl import ConfigError, SessionLost
from agentrl.doctor import Report
from agentrl.doctor.checks import Check
from agentrl.train.certificate import Certificate
from agentrl.train.failure import FILE, RunStopped, check_run, read_failure, write_failure
from agentrl.train.launch import read_certificate


def caught(problem: Exception) -> Exception:
    """The exception as it is when it was raised."""
    try:
        raise problem
    except Exception as raised:
        return raised


def test_a_run_that_nobody_stopped_goes_on(tmp_path: Path) -> None:
    assert read_failure(tmp_path) is None
    check_run(tmp_path)


def test_the_first_reason_stays_and_stops_the_trainer(tmp_path: Path) -> None:
    write_failure(tmp_path, caught(ConfigError("first")))
    write_failure(tmp_path, caught(RuntimeError("follows from it")))
    record = read_failure(tmp_path)
    assert record is not None and (record["kind"], record["message"]) == ("ConfigError", "first")
    assert "raise problem" in record["trace"]
    with pytest.raises(RunStopped, match="^first$"):
        check_run(tmp_path)


def test_of_many_at_once_one_is_kept_whole(tmp_path: Path) -> None:
    ready = threading.Barrier(8)

    def fail(number: int) -> None:
        ready.wait()
        write_failure(tmp_path, ConfigError(f"{number} " * 1000))

    threads = [threading.Thread(target=fail, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = read_failure(tmp_path)
    assert record is not None and len(set(record["message"].split())) == 1


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(ConfigError("a"), True), (SessionLost("a"), True), (RunStopped("a"), True), (KeyError("a"), False)],
)
def test_bugs_are_told_from_what_may_be_expected(tmp_path: Path, problem: Exception, expected: bool) -> None:
    write_failure(tmp_path, problem)
    record = read_failure(tmp_path)
    assert record is not None and bool(record["expected"]) is expected


def test_a_reason_without_words_is_its_class(tmp_path: Path) -> None:
    write_failure(tmp_path, KeyboardInterrupt())
    with pytest.raises(RunStopped, match="KeyboardInterrupt"):
        check_run(tmp_path)


def test_a_reason_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    for half in ("", '{"kind": "Con'):
        (tmp_path / FILE).write_text(half)
        assert read_failure(tmp_path) is None
        check_run(tmp_path)


# ---- the doctor's findings


def report(step: int, *passed: bool) -> Report:
    return Report(step, [Check(f"check {i}", ok, "fine" if ok else "wrong") for i, ok in enumerate(passed)])


def test_a_certificate_is_on_disk_after_every_report(tmp_path: Path) -> None:
    assert read_certificate(tmp_path) is None
    certificate = Certificate(tmp_path)
    certificate.add(report(1, True, True))
    assert read_certificate(tmp_path) == json.loads((tmp_path / "doctor.json").read_text())
    first = read_certificate(tmp_path)
    assert first is not None and first["passed"] is True
    assert first["checks"][1] == {"name": "check 1", "step": 1, "passed": True, "detail": "fine"}


def test_a_run_that_is_gone_on_with_keeps_what_was_found(tmp_path: Path) -> None:
    Certificate(tmp_path).add(report(1, True, False))
    Certificate(tmp_path).add(report(2, True))
    found = read_certificate(tmp_path)
    assert found is not None and found["passed"] is False
    assert [(check["step"], check["passed"]) for check in found["checks"]] == [
        (1, True),
        (1, False),
        (2, True),
    ]
