"""How a run's algorithm reaches verl: by verl's own options where it has the same, else by ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentrl.algorithms import Algorithm, chosen
from agentrl.algorithms.named import settings_of_part
from agentrl.algorithms.spec import Coefficient, Filters, Part, Ramp
from agentrl.config import Algorithm as Settings
from agentrl.errors import ConfigError
from agentrl.rollout.control import CONTROLS
from agentrl.rollout.control_part import Control
from agentrl.train.curriculum import CURRICULA
from agentrl.train.expert_match import ExpertMatch
from agentrl.train.instrument import Instrument
from agentrl.train.instrumentation import Instrumentation
from agentrl.train.progress import Progress
from agentrl.train.replay import REPLAYS, Replay, SpearReplay, SwarmReplay, TaskReplay
from agentrl.train.shaping import SHAPINGS
from agentrl.train.shaping_part import Shaping
from agentrl.train.utterance_settings import UtteranceSettings, utterance_settings

NO_DUAL_CLIP = 1e6
"""verl always bounds a bad token's ratio from above; this bound never acts."""

AGGREGATIONS = {
    "token": "token-mean",
    "sequence": "seq-mean-token-mean",
    "sequence_sum": "seq-mean-token-sum",
    "sum_norm": "seq-mean-token-sum-norm",
}
KL_FORMS = {"k1": "kl", "abs": "abs", "k2": "mse", "k3": "low_var_kl"}

ROLLOUTS: dict[str, type[Control]] = {**CONTROLS, "instrument": Instrument}
"""By ``algorithm.rollout.name``."""

NAMED: Mapping[str, Mapping[str, type[Part]]] = {
    "replay": REPLAYS,
    "curriculum": CURRICULA,
    "shaping": SHAPINGS,
    "rollout": ROLLOUTS,
}
"""Parts that are chosen by name, and what carries them out in training."""


@dataclass(frozen=True)
class Plan:
    """What carries out an algorithm.

    Args:
        algorithm: its parts.
        estimator: verl's advantage estimator; ``None``: ours.
        loss: options of verl's own loss; ``None``: ours.
        shaping: what makes the rewards that are trained on; ``None``: the environment's.
        replay: what of earlier steps is trained on again.
        utterance: the critic of turns that learns beside the policy, if there is one.
    """

    algorithm: Algorithm
    estimator: str | None
    loss: dict[str, Any] | None
    shaping: Shaping | None = None
    replay: Replay | None = None
    utterance: UtteranceSettings | None = None

    @property
    def carries_rewards(self) -> bool:
        """Whether an episode's rewards must move to its last row: verl's GRPO looks only there."""
        return self.estimator == "grpo"

    @property
    def progress(self) -> Progress | None:
        """What says how turns are rewarded by an estimator that the trainer trains, if there is one."""
        return self.shaping if isinstance(self.shaping, Progress) and self.shaping.learns else None

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether the policy before the update must be evaluated, not taken for the one that sampled."""
        shared = isinstance(self.replay, SwarmReplay)
        return self.algorithm.correction.kind != "none" or self.needs_entropy or shared

    @property
    def needs_entropy(self) -> bool:
        """Whether advantages need the entropy of sampled tokens."""
        return self.algorithm.filters.low_entropy_turns is not None

    @property
    def needs_matches(self) -> bool:
        """Whether advantages depend on which turns did what an expert did."""
        return any(how.segments != "none" for _, how in self.algorithm.levels())

    @property
    def has_reference(self) -> bool:
        """Whether a reference model is kept."""
        return self.algorithm.kl.against == "reference" and may_act(self.algorithm.kl.coefficient)

    @property
    def control(self) -> Control:
        """What is done to an episode while it is played."""
        part = self.algorithm.rollout
        return Control() if part is None else settings_of_part(part, "rollout", ROLLOUTS)

    @property
    def has_critic(self) -> bool:
        """Whether verl's value model is trained beside the policy."""
        return self.algorithm.critic is not None and self.algorithm.critic.kind == "token"


def plan(settings: Settings) -> Plan:
    """What carries out the algorithm that a run chose.

    Raises:
        ConfigError: a part is unknown, or does not fit the others.
    """
    algorithm = chosen(settings)
    _check_named(algorithm)
    compared = {how.baseline for _, how in algorithm.levels()} & {"mean", "leave_one_out"}
    if compared and settings.group_size == 1:
        raise ConfigError(
            f"algorithm.name={algorithm.name} compares episodes of a group; "
            "algorithm.group_size must be above 1."
        )
    replay = None
    if algorithm.replay is not None:
        replay = settings_of_part(algorithm.replay, "replay", REPLAYS)
    shaping = None
    if algorithm.shaping is not None:
        shaping = settings_of_part(algorithm.shaping, "shaping", SHAPINGS)
    if isinstance(shaping, Instrumentation) and algorithm.rollout and algorithm.rollout.name == "instrument":
        shaping = shaping.model_copy(update={"inserted": True})  # else the policy would print marks itself
    _check_replay(algorithm, replay, shaping)
    if isinstance(shaping, ExpertMatch) and (
        algorithm.rollout is None or algorithm.rollout.name != "semi_online"
    ):
        raise ConfigError(
            "algorithm.shaping.name=expert_match compares turns with an expert's, as algorithm.rollout.name="
            "semi_online has them. Use both, or algorithm.shaping=null."
        )
    loss = None if replay is not None and replay.own_columns else _verl_loss(algorithm)
    estimator = None if loss is None else _verl_estimator(algorithm)
    return Plan(algorithm, estimator, loss, shaping, replay, utterance_settings(algorithm))


def _check_replay(algorithm: Algorithm, replay: Replay | None, shaping: Shaping | None) -> None:
    if replay is not None and isinstance(shaping, Progress) and shaping.learns:
        raise ConfigError(
            "algorithm.shaping.name=progress rewards turns by an estimator of the step, and algorithm.replay."
            f"name={algorithm.replay and algorithm.replay.name} trains again on rewards of earlier ones. Use "
            "algorithm.replay=null, or an estimator of your own (algorithm.shaping.options.estimator)."
        )
    if algorithm.groups.inject_success and not isinstance(replay, TaskReplay):
        raise ConfigError(
            "algorithm.groups.inject_success=true takes successes from a store by task: set "
            "algorithm.replay.name=task, or algorithm.groups.inject_success=false."
        )
    if isinstance(replay, SpearReplay) and algorithm.weights.kind != "none":
        raise ConfigError(
            "algorithm.replay.name=spear trains on episodes of other steps, and algorithm.weights.kind="
            f"{algorithm.weights.kind} weighs those of one. Use algorithm.weights.kind=none or "
            "algorithm.replay=null."
        )


def may_act(coefficient: Coefficient) -> bool:
    """Whether a coefficient is above 0 at any step."""
    if isinstance(coefficient, Ramp):
        return coefficient.start != 0 or coefficient.end != 0
    return coefficient != 0


def verl_options(plan: Plan, horizon: int) -> dict[str, Any]:
    """verl's keys and values for an algorithm.

    Args:
        plan: what carries it out.
        horizon: default of ``sum_norm``, in tokens.
    """
    algorithm, actor = plan.algorithm, "actor_rollout_ref.actor"
    advantage, entropy = algorithm.advantage, algorithm.entropy.coefficient
    options: dict[str, Any] = {
        "algorithm.adv_estimator": plan.estimator or "grpo",
        "algorithm.use_kl_in_reward": False,
        "algorithm.norm_adv_by_std_in_grpo": advantage.scale == "group_std",
        "algorithm.gamma": advantage.gamma,
        "algorithm.lam": advantage.lam,
        "algorithm.filter_groups.enable": algorithm.filters.replaces,
        "critic.enable": plan.has_critic,
        # verl updates the policy from this step on, counted from 1.
        "trainer.critic_warmup": 0 if plan.utterance is None else plan.utterance.warmup + 1,
        f"{actor}.use_kl_loss": plan.has_reference,
        f"{actor}.calculate_entropy": may_act(entropy),
    }
    if plan.loss is not None:
        options |= plan.loss
        options[f"{actor}.loss_scale_factor"] = algorithm.aggregation.horizon or horizon
    return options


def _check_named(algorithm: Algorithm) -> None:
    """Refuse names that nothing carries out, and options that what carries a part out does not have."""
    for where, carried_out in NAMED.items():
        part = getattr(algorithm, where)
        if part is not None:
            settings_of_part(part, where, carried_out)


def _verl_estimator(algorithm: Algorithm) -> str | None:
    how = algorithm.advantage
    if algorithm.second_advantage is not None:
        return None
    as_grpo = how.scale == "none" or (how.scale == "group_std" and how.ddof == 1 and how.epsilon == 1e-6)
    if how.level == "episode" and how.baseline == "mean" and as_grpo:
        return "grpo"
    if how.level == "token" and how.baseline == "critic" and how.whiten and how.scale == "none":
        return "gae"
    return None


def _verl_loss(algorithm: Algorithm) -> dict[str, Any] | None:
    """Options of the loss of verl's that is the same, if there is one.

    verl's means over rows are over the step's number of episodes, whether or not some were void.
    """
    ratio, trust, kl = algorithm.ratio, algorithm.trust, algorithm.kl
    filters = algorithm.filters.model_copy(update={"zero_variance": "keep"})
    plain = not isinstance(kl.coefficient, Ramp) and not isinstance(algorithm.entropy.coefficient, Ramp)
    ours = (
        not plain
        or trust.kind != "ppo"
        or algorithm.correction.kind != "none"
        or algorithm.clip_cov is not None
        or algorithm.weights.kind != "none"
        or (kl.against == "old" and may_act(kl.coefficient))
        or algorithm.aggregation.kind not in AGGREGATIONS
        or filters != Filters()
        or algorithm.filters.zero_variance == "drop"
    )
    if ratio.level == "token":
        mode = "vanilla"
    elif ratio.level == "sequence" and ratio.mean and trust.dual_clip is None:
        mode = "gspo"
    else:
        return None
    if ours:
        return None
    actor = "actor_rollout_ref.actor"
    return {
        f"{actor}.policy_loss.loss_mode": mode,
        f"{actor}.clip_ratio_low": trust.clip_low,
        f"{actor}.clip_ratio_high": trust.clip_high,
        f"{actor}.clip_ratio_c": trust.dual_clip or NO_DUAL_CLIP,
        f"{actor}.loss_agg_mode": AGGREGATIONS[algorithm.aggregation.kind],
        f"{actor}.entropy_coeff": algorithm.entropy.coefficient,
        f"{actor}.kl_loss_coef": kl.coefficient,
        f"{actor}.kl_loss_type": KL_FORMS[kl.form],
    }
