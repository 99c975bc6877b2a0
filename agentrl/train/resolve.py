"""From a run's configuration to verl's: every choice in one place, checked by verl itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.chat.vision import takes_images
from agentrl.config import TrainConfig
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.rollout.vllm_policy import NO_VIDEOS
from agentrl.train.algorithm import plan, verl_options
from agentrl.train.staleness import StalenessRule

if TYPE_CHECKING:
    from omegaconf import DictConfig

AGENT_LOOP = "agentrl"
CHECKED = ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "critic.optim", "critic.fsdp", "algorithm")
"""Sections that verl's dataclasses check; a critic's model is checked when the run has it at hand."""


def resolve(config: TrainConfig, *, model: str, run: str) -> DictConfig:
    """verl's whole configuration for a run.

    Args:
        config: the run's settings.
        model: folder of the policy to start from.
        run: the run folder.

    Raises:
        ConfigError: a ``verl.`` key that verl does not have, with its nearest neighbours; a setting that
            is for evaluations alone; or an algorithm and a mode that do not go together.
    """
    if config.rollout.agent_sampling != "run":
        raise ConfigError(
            f"rollout.agent_sampling={config.rollout.agent_sampling} would train on turns that the policy "
            "did not draw as the run says. It is for agentrl eval; leave it out."
        )
    _check_lag(config)
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(_verl_folder() / "trainer" / "config"), version_base=None):
        composed = compose("ppo_trainer")
    choices = {
        **_common(config, model, run),
        **(_images(config) if Path(model).is_dir() and takes_images(model) else {}),
        **(_cpu(config) if config.hardware.device == "cpu" else _gpu(config)),
        **(_apart(config) if config.mode != "sync" else {}),
    }
    with open_dict(composed):
        for key, value in choices.items():
            OmegaConf.update(composed, key, value, force_add=True)
    for key, value in config.verl.items():
        if OmegaConf.select(composed, key, default=_MISSING) is _MISSING:
            raise ConfigError(f"verl has no option {key!r}. {nearest(key, _keys(composed))}")
        OmegaConf.update(composed, key, value)
    return composed


def check(composed: DictConfig) -> None:
    """Check a configuration against verl's own dataclasses. Imports verl.

    Raises:
        ConfigError: verl refuses it.
    """
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        for key in CHECKED:
            omega_conf_to_dataclass(OmegaConf.select(composed, key))
        validate_config(
            config=composed,
            use_reference_policy=need_reference_policy(composed),
            use_critic=need_critic(composed) and Path(composed.critic.model.path).is_dir(),
        )
    except (AssertionError, ValueError, TypeError, InstantiationException) as problem:
        raise ConfigError(f"verl refuses this configuration: {problem.__cause__ or problem}") from problem


_MISSING = object()
_FLOAT32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def _verl_folder() -> Path:
    """Where verl is installed, without importing it."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("verl is not installed. Install the training extra: pip install 'agentrl[train]'.")
    return Path(next(iter(spec.submodule_search_locations)))


def _keys(composed: DictConfig) -> list[str]:
    """All leaf keys, dotted."""
    from omegaconf import OmegaConf

    found: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            found.append(prefix)

    walk(OmegaConf.to_container(composed, resolve=False), "")
    return found


def _common(config: TrainConfig, model: str, run: str) -> dict[str, Any]:
    algorithm, rollout, hardware = config.algorithm, config.rollout, config.hardware
    folder = Path(run)
    length = rollout.max_prompt_tokens + rollout.max_trajectory_tokens
    actor, engine, trainer = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "trainer"
    temperature = rollout.temperature if config.eval.temperature is None else config.eval.temperature
    last_step_only = config.steps + 1
    carried_out = plan(algorithm)
    replaces = carried_out.algorithm.filters.replaces
    choices: dict[str, Any] = {
        "data.train_files": str(folder / "train.parquet"),
        "data.val_files": str(folder / "test.parquet"),
        "data.train_batch_size": algorithm.tasks_per_step,
        "data.max_prompt_length": rollout.max_prompt_tokens,
        "data.max_response_length": rollout.max_trajectory_tokens,
        "data.dataloader_num_workers": 0,
        "data.return_raw_chat": True,
        "data.filter_overlong_prompts": False,
        "data.seed": config.seed,
        "data.validation_shuffle": False,
        "actor_rollout_ref.model.path": model,
        f"{actor}.strategy": "fsdp2",
        f"{actor}.ppo_mini_batch_size": algorithm.tasks_per_step // algorithm.minibatches,
        f"{actor}.ppo_epochs": algorithm.epochs,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": max(hardware.micro_batch_tokens, length),
        f"{actor}.optim.lr": algorithm.learning_rate,
        f"{actor}.optim.lr_warmup_steps": algorithm.warmup_steps,
        f"{actor}.grad_clip": algorithm.grad_clip,
        f"{actor}.data_loader_seed": config.seed,
        f"{engine}.name": "vllm",
        f"{engine}.mode": "async",
        f"{engine}.n": algorithm.group_size,
        f"{engine}.temperature": rollout.temperature,
        f"{engine}.top_p": rollout.top_p,
        f"{engine}.seed": config.seed,
        f"{engine}.calculate_log_probs": True,
        f"{engine}.max_model_len": length,
        f"{engine}.max_num_batched_tokens": max(8192, length),
        f"{engine}.tensor_model_parallel_size": hardware.tensor_parallel,
        f"{engine}.log_prob_use_dynamic_bsz": True,
        f"{engine}.log_prob_max_token_len_per_gpu": max(hardware.micro_batch_tokens, length),
        f"{engine}.val_kwargs.temperature": temperature,
        f"{engine}.val_kwargs.top_p": rollout.top_p,
        f"{engine}.val_kwargs.do_sample": temperature > 0,
        f"{engine}.val_kwargs.n": config.eval.samples,
        f"{engine}.multi_turn.enable": True,
        f"{engine}.agent.num_workers": hardware.rollout_workers,
        f"{engine}.agent.default_agent_loop": AGENT_LOOP,
        f"{engine}.agent.agent_loop_config_path": str(folder / "agent_loop.yaml"),
        "reward.num_workers": 0,  # the episode loop judges episodes itself
        f"{trainer}.v1.trainer_mode": "sync",
        f"{trainer}.v1.sampler.custom_sampler.path": "pkg://agentrl.train.sampler",
        f"{trainer}.v1.sampler.custom_sampler.name": "WatchfulReplayBuffer",
        f"{trainer}.v1.sampler.sampler_kwargs": {
            "run": run,
            "host": "127.0.0.1",
            "bell": None,
            "replaced_groups_of": algorithm.tasks_per_step if replaces else 0,
            "over": algorithm.over,
        },
        f"{trainer}.nnodes": hardware.nodes,
        f"{trainer}.n_gpus_per_node": hardware.gpus_per_node,
        f"{trainer}.logger": [],
        f"{trainer}.project_name": "agentrl",
        f"{trainer}.experiment_name": folder.name,
        f"{trainer}.val_before_train": True,
        f"{trainer}.test_freq": config.eval.every or last_step_only,
        f"{trainer}.save_freq": config.checkpoint.every or last_step_only,
        f"{trainer}.max_actor_ckpt_to_keep": None,  # ours are removed when a newer one is whole
        f"{trainer}.max_critic_ckpt_to_keep": None,
        f"{trainer}.total_training_steps": config.steps,
        f"{trainer}.total_epochs": 1_000_000,
        f"{trainer}.resume_mode": "auto",
        f"{trainer}.default_local_dir": str(folder / "checkpoints"),
    }
    choices |= verl_options(carried_out, rollout.max_trajectory_tokens)
    if carried_out.has_critic:
        choices |= {
            "critic.strategy": "fsdp2",
            "critic.model.path": model,
            "critic.optim.lr": algorithm.critic_learning_rate,
            "critic.ppo_mini_batch_size": algorithm.tasks_per_step // algorithm.minibatches,
            "critic.ppo_epochs": algorithm.epochs,
            "critic.use_dynamic_bsz": True,
            "critic.ppo_max_token_len_per_gpu": max(hardware.micro_batch_tokens, length),
            "critic.ppo_infer_max_token_len_per_gpu": max(hardware.micro_batch_tokens, length),
        }
    return choices


def _cpu(config: TrainConfig) -> dict[str, Any]:
    """What a machine without an accelerator needs; the reasons are in docs/cpu.md."""
    actor, engine, model = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
    choices: dict[str, Any] = {
        "trainer.device": "cpu",
        f"{model}.use_remove_padding": False,
        f"{model}.enable_gradient_checkpointing": False,
        f"{model}.override_config.attn_implementation": "sdpa",
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"{actor}.fsdp_config.mixed_precision": _FLOAT32,
        f"{engine}.dtype": "float32",
        f"{engine}.enforce_eager": True,
        f"{engine}.free_cache_engine": False,
        f"{engine}.enable_chunked_prefill": False,  # a seeded prompt in chunks ends vLLM's engine on a CPU
        f"{engine}.enable_sleep_mode": False,
        f"{engine}.max_num_seqs": min(256, config.rollout.concurrency),
        f"{engine}.checkpoint_engine.update_weights_bucket_megabytes": 256,
        f"{engine}.engine_kwargs.vllm.distributed_executor_backend": "uni",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "ray_kwargs.ray_init.num_gpus": config.hardware.gpus_per_node,
        "ray_kwargs.ray_init.num_cpus": 16,
        "ray_kwargs.ray_init.include_dashboard": False,
    }
    if plan(config.algorithm).has_critic:
        choices |= {
            "critic.model.use_remove_padding": False,
            "critic.model.enable_gradient_checkpointing": False,
            "critic.model.override_config.attn_implementation": "sdpa",
            "critic.fsdp.use_torch_compile": False,
            "critic.fsdp.mixed_precision": _FLOAT32,
        }
    return choices


def _apart(config: TrainConfig) -> dict[str, Any]:
    """Engines on machines of their own, for one-step-off and asynchronous training.

    Raises:
        ConfigError: the algorithm cannot be trained so.
    """
    engine, trainer, rule = "actor_rollout_ref.rollout", "trainer.v1", StalenessRule.of(config)
    algorithm, hardware = config.algorithm, config.hardware
    _check_apart(config)
    cpu = hardware.device == "cpu"
    choices: dict[str, Any] = {
        f"{trainer}.trainer_mode": "separate_async",
        # A mini-batch is trained as soon as its groups are there; the engines get the weights after the last.
        f"{trainer}.separate_async.parameter_sync_step": algorithm.minibatches,
        f"{trainer}.separate_async.num_warmup_batches": 0,  # our trainer admits what may be under way
        f"{trainer}.sampler.custom_sampler.name": "StreamingReplayBuffer",
        f"{trainer}.sampler.sampler_kwargs.bound": rule.bound,
        f"{trainer}.sampler.sampler_kwargs.policy": rule.policy,
        f"{trainer}.sampler.sampler_kwargs.batch": algorithm.tasks_per_step,
        f"{trainer}.sampler.max_off_policy_threshold": None,  # our sampler counts versions of tokens
        "actor_rollout_ref.hybrid_engine": False,
        f"{engine}.nnodes": hardware.engine_nodes,
        f"{engine}.n_gpus_per_node": hardware.engine_gpus_per_node,
        f"{engine}.checkpoint_engine.backend": "gloo" if cpu else "nccl",
    }
    if cpu:
        engines = hardware.engine_nodes * hardware.engine_gpus_per_node
        choices[f"{engine}.checkpoint_engine.custom_backend_module"] = "agentrl.train.cpu.gloo_engine"
        choices["ray_kwargs.ray_init.num_gpus"] = hardware.nodes * hardware.gpus_per_node + engines
    if rule.policy == "correct":
        choices["algorithm.rollout_correction.rollout_is"] = "token"
        choices["algorithm.rollout_correction.rollout_is_threshold"] = config.staleness.weight_limit
    return choices


def _check_apart(config: TrainConfig) -> None:
    carried_out = plan(config.algorithm)
    name = carried_out.algorithm.name
    if carried_out.algorithm.filters.replaces:
        raise ConfigError(
            f"algorithm.name={name} has groups replaced that teach nothing, which takes mode=sync. In "
            f"mode={config.mode} use drop instead of resample (algorithm.filters.zero_variance, below_std)."
        )
    if StalenessRule.of(config).policy == "correct" and carried_out.loss is None:
        raise ConfigError(
            f"algorithm.name={name} has a loss of its own, which says itself how stale tokens are corrected "
            "(algorithm.correction). staleness.policy=correct is for verl's losses; use drop or wait."
        )


def _check_lag(config: TrainConfig) -> None:
    """Refuse to train an algorithm of stale samples without any."""
    lag = plan(config.algorithm).algorithm.staleness.max_lag
    if lag and config.mode == "sync":
        raise ConfigError(
            f"algorithm.name={config.algorithm.name} trains on samples that are up to {lag} updates old, and "
            "in mode=sync there are none. Use mode=async, or algorithm.staleness.max_lag=0 to train the rest "
            "of it synchronously."
        )


def _images(config: TrainConfig) -> dict[str, Any]:
    """What a model that is shown images needs.

    verl's default starts the engine with dummy weights, which spoil the buffers that normalise an image's
    pixels; no later update of weights mends those, and what the engine sees is silently wrong.

    Raises:
        ConfigError: there is to be a critic on a CPU, where none can be made of such a model; or ArCHer's
            fresh actions, whose states would need their images.
    """
    utterance = plan(config.algorithm).utterance
    if utterance is not None and utterance.resample:
        raise ConfigError(
            "algorithm.critic.options.resample=true draws actions anew behind states of which token ids are "
            "kept, not images. Use resample=false with a model that is shown images."
        )
    if plan(config.algorithm).has_critic and config.hardware.device == "cpu":
        raise ConfigError(
            f"algorithm.name={config.algorithm.name} needs a critic, and on a CPU none can be made of a "
            "model that is shown images. Use algorithm.name=grpo."
        )
    engine = "actor_rollout_ref.rollout"
    return {
        f"{engine}.load_format": "auto",
        f"{engine}.engine_kwargs.vllm.limit_mm_per_prompt": json.dumps(NO_VIDEOS),
    }


def _gpu(config: TrainConfig) -> dict[str, Any]:
    """verl's documented settings for GPU machines."""
    return {
        "trainer.device": "cuda",
        "actor_rollout_ref.model.use_remove_padding": True,
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        "actor_rollout_ref.rollout.gpu_memory_utilization": config.hardware.engine_memory,
        "actor_rollout_ref.rollout.load_format": "auto",
    }
