"""What holds for all tests: which may run beside which, and how long an example may take."""

from __future__ import annotations

import hypothesis
import pytest

from agentrl.threads import share_cores

share_cores()  # with the tests of other processes

# A busy machine is no defect: limits on time are there to keep a test from hanging, see pyproject.toml.
hypothesis.settings.register_profile("agentrl", deadline=None)
hypothesis.settings.load_profile("agentrl")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together (``--dist loadgroup``); training runs begin, one after another."""
    for item in items:
        group = "stack" if item.get_closest_marker("stack") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)
