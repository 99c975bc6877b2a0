"""``agentrl sandbox``: the backends, the conformance suite, one snippet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentrl.cli.main import app
from agentrl.sandbox import view


def call(*words: str, stdin: str = "") -> Any:
    return CliRunner().invoke(app, ["sandbox", *words], input=stdin)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_backends_are_listed_with_what_they_isolate_and_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "find_bwrap", lambda: None)
    done = call()
    assert done.exit_code == 0
    for words in ("namespace", "docker", "remote", "apt-get install bubblewrap", "unconfined", "NOTHING IS"):
        assert words in done.output


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("print(1+1)", (), {"status": "ok", "stdout": "2\n", "exit_code": 0, "truncated": False}),
        ("echo $((6*7)); exit 3", ("--lang", "bash"), {"status": "error", "stdout": "42\n", "exit_code": 3}),
        ("while True: pass", ("--timeout", "0.5"), {"status": "timeout", "exit_code": None}),
        ("print('a' * 99)", ("--output", "10"), {"status": "ok", "stdout": "a" * 10, "truncated": True}),
    ],
)
def test_a_snippet_gives_one_json_object(code: str, words: tuple[str, ...], expected: dict[str, Any]) -> None:
    done = call("exec", "--backend", "namespace", *words, "-", stdin=code)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert set(result) == {"status", "stdout", "stderr", "exit_code", "seconds", "truncated", "detail"}
    assert {key: result[key] for key in expected} == expected


def test_a_snippet_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text("import sys; print('out'); print('err', file=sys.stderr)")
    result = json.loads(call("exec", str(tmp_path / "snippet.py")).stdout)
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("exec", "--backend", "nampesace", "-"), "'namespace'"),
        (("exec", "no-such-file.py"), "no-such-file.py cannot be read"),
        (("exec", "--backend", "namespace", "-", "max_session=3"), "max_sessions"),
        (("exec", "--memory", "0", "-"), "memory_mb"),
        (("check", "nampesace"), "'namespace'"),
        (("check", "namespace", "--only", "contracts"), "contract"),
        (("check", "namespace", "--attacks", "no-such-file.jsonl"), "no-such-file.jsonl cannot be read"),
    ],
)
def test_mistakes_are_messages(words: tuple[str, ...], message: str) -> None:
    done = call(*words)
    assert done.exit_code == 2 and message in done.stderr


def test_checking_a_backend(tmp_path: Path) -> None:
    attacks = tmp_path / "attacks.jsonl"
    attacks.write_text(
        '{"id": "mine", "category": "files", "tool": "python", "code": "print(1)", "oracle": "no_marker"}\n'
        '{"id": "other", "category": "sql", "tool": "abacus", "code": "1", "oracle": "sql_error"}\n'
    )
    only = ("--only", "files-mine", "--only", "sql-other", "--only", "cells_keep_variables")
    done = call("check", "namespace", "--attacks", str(attacks), *only)
    assert done.exit_code == 0, done.output
    assert "passed      contract: cells_keep_variables" in done.stdout
    assert "'abacus'" in done.stdout and "Conformance of namespace" in done.stdout


def test_a_check_that_fails_is_told_and_is_the_exit_code() -> None:
    done = call("check", "dangerously_local", "--only", "files-read-canary", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["passed"], report["failed"], report["not_offered"]) == (0, 1, 0)
    [check] = report["checks"]
    assert check["verdict"] == "failed" and "the attack works" in check["detail"]


def test_a_malformed_attack_is_told_with_its_line(tmp_path: Path) -> None:
    attacks = tmp_path / "attacks.jsonl"
    attacks.write_text('\n{"id": "mine", "category": "files", "tool": "python", "code": ""}\n')
    done = call("check", "namespace", "--attacks", str(attacks))
    assert done.exit_code == 2 and "line 2 is no attack" in done.stderr
