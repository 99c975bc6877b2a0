"""Measuring a model on an environment, with the loop that training uses."""

from __future__ import annotations

from agentrl.evaluate.evaluate import evaluate
from agentrl.evaluate.result import EpisodeResult, EvalResult
from agentrl.evaluate.statistics import pass_at_k, success_interval, wilson_interval

__all__ = ["EpisodeResult", "EvalResult", "evaluate", "pass_at_k", "success_interval", "wilson_interval"]
