"""verl's client, which goes on with a turn that a weight update interrupted, token versions and all."""

from __future__ import annotations

from typing import Any

from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from agentrl.rollout import derive_seed

ABORTED = ("abort", "aborted")
RESTARTS = 1000
"""Interruptions of one turn; more would mean that the engine refuses it for ever."""


class VersionedClient(LLMServerClient):
    """Generates a turn in as many pieces as weight updates cut it into.

    An update aborts what is being decoded and forgets all cached keys and values; the engine returns
    the tokens drawn so far. They are kept, and the engine is asked to go on behind them. It lets no request
    in before it has the new weights, so there is nothing to wait for here. All tokens of a piece come from
    the weights that were loaded when the piece ended.
    """

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **rest: Any
    ) -> TokenOutput:
        """Sample one turn; ``extra_fields["token_versions"]`` holds the version of each token."""
        tokens: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        parameters, budget = dict(sampling_params), sampling_params["max_tokens"]
        cached: int | None = None
        for _ in range(RESTARTS):
            output = await super().generate(
                request_id, prompt_ids=[*prompt_ids, *tokens], sampling_params=parameters, **rest
            )
            version = output.extra_fields.get("global_steps")
            cached = output.extra_fields.get("num_cached_tokens") if cached is None else cached
            tokens += output.token_ids
            logprobs += output.log_probs or []
            versions += [-1 if version is None else int(version)] * len(output.token_ids)
            if output.stop_reason not in ABORTED or len(tokens) >= budget:
                break
            parameters = _rest_of(sampling_params, len(tokens))
        return TokenOutput(
            token_ids=tokens,
            log_probs=logprobs,
            stop_reason="length" if len(tokens) >= budget else output.stop_reason,
            extra_fields={
                "token_versions": versions,
                "global_steps": versions[-1] if versions else version,
                "num_cached_tokens": cached,
            },
        )


def _rest_of(parameters: dict[str, Any], drawn: int) -> dict[str, Any]:
    """What to ask for behind ``drawn`` tokens: as many less, and other random numbers than the first had."""
    rest = {**parameters, "max_tokens": parameters["max_tokens"] - drawn}
    if "min_tokens" in parameters:
        rest["min_tokens"] = max(0, parameters["min_tokens"] - drawn)
    if "seed" in parameters and drawn:
        rest["seed"] = derive_seed(parameters["seed"], drawn)
    return rest
