"""Our losses as verl calls them: given to its workers with ``set_loss_fn``, beside verl's own."""

from __future__ import annotations

from typing import Any

import torch
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from agentrl.algorithms import Algorithm
from agentrl.algorithms.loss import LossInputs, policy_loss

NEEDED = ("response_mask", "old_log_probs", "advantages", "loss_shares")
OPTIONAL = ("rollout_log_probs", "ref_log_prob", "loss_turns", "loss_weights", "kl_weights")


def agent_loss(
    model_output: dict[str, Any], data: Any, dp_group: Any = None, *, algorithm: Algorithm
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss of a micro-batch.

    Shares are of the whole step, so the losses of micro-batches sum up; verl averages gradients over its
    data-parallel ranks, and the loss is multiplied by their number.

    Args:
        model_output: ``log_probs``, and ``entropy`` where it is asked for; nested.
        data: the rows, with the columns of :func:`agentrl.train.columns.columns`; nested.
        dp_group: verl's; not used.
        algorithm: its parts, with plain numbers as coefficients.
    """
    log_prob = no_padding_2_padding(model_output["log_probs"], data)
    entropy = model_output.get("entropy")
    ranks = data["dp_size"]
    if entropy is not None:
        entropy = no_padding_2_padding(entropy, data)
    present = [name for name in OPTIONAL if name in data]
    rows = data.select(*NEEDED, *present).to_padded_tensor()
    found = {name: rows[name] for name in present}
    mask = rows["response_mask"].bool()
    loss, parts = policy_loss(
        algorithm,
        LossInputs(
            logprobs=log_prob,
            old=rows["old_log_probs"],
            advantages=rows["advantages"],
            mask=mask,
            shares=rows["loss_shares"],
            behaviour=found.get("rollout_log_probs"),
            turns=found.get("loss_turns"),
            reference=found.get("ref_log_prob"),
            entropy=entropy,
            weights=found.get("loss_weights"),
            kl_weights=found.get("kl_weights"),
        ),
    )
    return loss * ranks, _metrics(parts, log_prob.detach(), rows["old_log_probs"], mask, ranks)


def _metrics(
    parts: dict[str, torch.Tensor], log_prob: torch.Tensor, old: torch.Tensor, mask: torch.Tensor, ranks: int
) -> dict[str, Any]:
    """verl's names for what both losses have; sums over micro-batches where shares are summed."""
    moved = torch.where(mask, old - log_prob, 0.0).sum() / mask.sum().clamp(min=1)
    means = {
        "actor/pg_clipfrac": float(parts["clipped"]),
        "actor/ppo_kl": float(moved),
        "actor/correction_mean": float(parts["weight"]),
    }
    metrics: dict[str, Any] = Metric.from_dict(means, aggregation=AggregationType.MEAN)
    for part, name in {"policy": "actor/pg_loss", "kl": "kl_loss", "entropy": "actor/entropy_loss"}.items():
        if part in parts:
            metrics[name] = Metric(value=parts[part] * ranks, aggregation=AggregationType.SUM)
    return metrics
