"""The tree of errors: three branches, and every class in exactly one."""

from __future__ import annotations

import inspect
import pickle

import pytest

import agentrl
from agentrl import errors
from agentrl.errors import AgentRLError, InfrastructureError, ModelError, UsageError

BRANCHES = (ModelError, InfrastructureError, UsageError)
ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_in_one_branch_documented_and_drawn_in_the_tree(kind: type[Exception]) -> None:
    assert sum(issubclass(kind, branch) for branch in BRANCHES) == (kind is not AgentRLError)
    assert kind.__doc__ and errors.__doc__ is not None and kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_travel_between_processes(kind: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(kind("what happened")))
    assert type(again) is kind and str(again) == "what happened"


def test_everything_of_the_public_vocabulary_is_there() -> None:
    assert [name for name in agentrl.__all__ if not hasattr(agentrl, name)] == []
    assert sorted(agentrl.__all__) == agentrl.__all__
