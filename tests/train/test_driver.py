"""How the driver starts or joins Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from agentrl.train.driver import _ray_settings
from agentrl.train.runtime import GIVEN_VARIABLES


def settings(cluster: str | None) -> dict[str, Any]:
    runtime: Any = SimpleNamespace(config=SimpleNamespace(cluster=cluster))
    own = {"num_cpus": 16, "num_gpus": 1, "include_dashboard": False, "namespace": None}
    return _ray_settings(runtime, OmegaConf.create({"ray_kwargs": {"ray_init": own}}))


def test_a_run_starts_a_ray_of_its_own_and_joins_no_other() -> None:
    made = settings(None)
    assert (made["address"], made["num_cpus"]) == ("local", 16) and "namespace" not in made


def test_processes_on_a_cluster_are_given_the_runs_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nodes were started before the run, with variables of their own."""
    monkeypatch.setenv(GIVEN_VARIABLES, "AGENTRL_RUN,VERL_PLATFORM")
    monkeypatch.setenv("AGENTRL_RUN", "/shared/runs/one")
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    made = settings("head:6379")
    assert made["address"] == "head:6379" and not {"num_cpus", "num_gpus", "include_dashboard"} & made.keys()
    given = made["runtime_env"]["env_vars"]
    assert given["AGENTRL_RUN"] == "/shared/runs/one" and "VERL_PLATFORM" not in given
