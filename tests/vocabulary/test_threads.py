"""How threads wait for each other."""

import os

import pytest

from agentrl import threads


@pytest.mark.parametrize(
    ("given", "spin"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_sleep_early_unless_the_user_says_how_they_wait(monkeypatch, given, spin):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    threads.share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == spin
