"""verl's configuration: complete, ours where we choose, and checked by verl's own classes."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.train.resolve import check, resolve


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_every_preset_is_accepted_by_verl(preset: str, algorithm: str, gpus: int) -> None:
    nodes = max(1, gpus // 8)
    words = [f"preset={preset}", f"algorithm.name={algorithm}", f"hardware.gpus_per_node={gpus // nodes}",
             f"hardware.nodes={nodes}", "algorithm.kl_coefficient=0.001"]  # fmt: skip
    composed = resolve(load_config("math", words), model="model", run="run")
    check(composed)
    assert composed.trainer.n_gpus_per_node * composed.trainer.nnodes == gpus


def test_our_settings_reach_verl() -> None:
    words = ["algorithm.learning_rate=0.5", "algorithm.clip_high=0.4", "rollout.max_trajectory_tokens=100",
             "rollout.max_prompt_tokens=50", "seed=7", "steps=9"]  # fmt: skip
    composed = resolve(load_config("math", words), model="model", run="run")
    rollout, actor = composed.actor_rollout_ref.rollout, composed.actor_rollout_ref.actor
    assert (actor.optim.lr, actor.clip_ratio_high) == (0.5, 0.4)
    assert (composed.data.max_response_length, rollout.max_model_len) == (100, 150)
    assert (composed.data.seed, composed.trainer.total_training_steps) == (7, 9)


def test_any_verl_option_can_be_set() -> None:
    config = load_config(
        "math", ["verl.actor_rollout_ref.actor.optim.weight_decay=0.3", "verl.algorithm.kl_penalty=abs"]
    )
    composed = resolve(config, model="model", run="run")
    assert composed.actor_rollout_ref.actor.optim.weight_decay == 0.3
    assert OmegaConf.select(composed, "algorithm.kl_penalty") == "abs"


def test_an_unknown_verl_option_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.total_epochz.*trainer\.total_epochs"):
        resolve(load_config("math", ["verl.trainer.total_epochz=3"]), model="model", run="run")


def test_a_combination_that_verl_refuses_is_our_error() -> None:
    config = load_config("math", ["verl.actor_rollout_ref.actor.loss_agg_mode=sideways"])
    with pytest.raises(ConfigError, match="verl refuses"):
        check(resolve(config, model="model", run="run"))


def test_training_samples_as_the_run_says() -> None:
    with pytest.raises(ConfigError, match=r"agent_sampling=agent .*agentrl eval"):
        resolve(load_config("math", ["rollout.agent_sampling=agent"]), model="model", run="run")


def test_an_algorithm_of_stale_samples_takes_engines_apart_and_brings_its_bound() -> None:
    def bound(*words: str) -> int:
        composed = resolve(load_config("math", ["algorithm.name=areal", *words]), model="model", run="run")
        return int(composed.trainer.v1.sampler.sampler_kwargs.bound)

    with pytest.raises(
        ConfigError, match=r"up to 4 updates old.*mode=async, or algorithm\.staleness\.max_lag=0"
    ):
        bound()
    assert bound("mode=async") == 4
    assert bound("mode=async", "staleness.bound=3") == 3
    assert bound("mode=one_step_off") == 1
    resolve(
        load_config("math", ["algorithm.name=areal", "algorithm.staleness.max_lag=0"]),
        model="model",
        run="run",
    )


@pytest.mark.parametrize(("preset", "backend"), [("cpu", "gloo"), ("gpu", "nccl")])
def test_engines_apart_from_the_trainer_are_accepted_by_verl(preset: str, backend: str) -> None:
    words = [f"preset={preset}", "mode=async", "staleness.policy=correct", "hardware.engine_nodes=2",
             "hardware.engine_gpus_per_node=4", "hardware.gpus_per_node=2",
             "algorithm.minibatches=2"]  # fmt: skip
    composed = resolve(load_config("math", words), model="model", run="run")
    check(composed)
    rollout, mode = composed.actor_rollout_ref.rollout, composed.trainer.v1
    assert (mode.trainer_mode, mode.separate_async.parameter_sync_step) == ("separate_async", 2)
    assert (rollout.nnodes, rollout.n_gpus_per_node, rollout.checkpoint_engine.backend) == (2, 4, backend)
    assert composed.algorithm.rollout_correction.rollout_is == "token"
    batch, part = composed.data.train_batch_size, composed.actor_rollout_ref.actor.ppo_mini_batch_size
    assert batch == 2 * part
