"""What holds for all tests: in which order they run, and how long an example may take."""

from __future__ import annotations

import hypothesis
import pytest

from agentrl.threads import share_cores

share_cores()  # with the tests of other processes

# A busy machine is no defect: limits on time are there to keep a test from hanging, see pyproject.toml.
hypothesis.settings.register_profile("agentrl", deadline=None)
hypothesis.settings.load_profile("agentrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones, which run the training stack, begin."""
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)
