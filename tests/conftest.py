"""What holds for all tests: in which order they run, and how long an example may take."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from agentrl.threads import share_cores

share_cores()  # with the tests of other processes

# What several tests share asserts, too: pytest tells what was compared there as well.
for support in Path(__file__).parent.glob("*/*_support.py"):
    pytest.register_assert_rewrite(support.stem)

# A busy machine is no defect: limits on time are there to keep a test from hanging, see pyproject.toml.
hypothesis.settings.register_profile("agentrl", deadline=None)
hypothesis.settings.load_profile("agentrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones, which run the training stack, begin."""
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)
