"""A policy on a vLLM engine of this machine's own; for evaluation. Needs the ``train`` or ``cpu`` extra."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from agentrl import threads
from agentrl.chat.vision import Vision, decoded
from agentrl.errors import EngineError, ModelUnsupported, UsageError
from agentrl.observation import Picture
from agentrl.rollout.policy import Generation, Sampling

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM  # type: ignore[import-not-found, import-untyped, unused-ignore]

CLOSE_SECONDS = 20.0
"""How long the engine's processes may take to end before they are killed."""

BAN = -100.0
"""Added to the logit of a token that is never to be drawn; the lowest that vLLM takes."""

NO_VIDEOS = {"video": 0}
"""Their frames are shown as images; and vLLM would try out a video of the greatest size at its start."""

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}

CPU_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""What the engine's processes inherit, unless the user has set it."""

FOLDERS = ("VLLM_RPC_BASE_PATH", "TMPDIR")
"""Name the folders of sockets and locks: of this process's part of the engine, and of its processes."""


class VllmPolicy:
    """Samples from a model in an engine of its own. Made by :meth:`open`; an async context manager.

    Args:
        engine: vLLM's asynchronous engine.
        version: given to every token.
        vision: how the model takes images; ``None`` for one that takes text only.
        sockets: folder of the engine's sockets and locks, which goes with it.
    """

    def __init__(
        self, engine: AsyncLLM, *, version: int = 0, vision: Vision | None = None, sockets: str | None = None
    ) -> None:
        self._engine: Any = engine
        self._version, self._vision = version, vision
        self._sockets = sockets
        self._numbers = itertools.count()

    @classmethod
    async def open(
        cls,
        model: str,
        *,
        device: Literal["cpu", "gpu"] = "cpu",
        memory: float = 0.5,
        max_tokens: int = 4096,
        concurrency: int = 64,
        tensor_parallel: int = 1,
        version: int = 0,
        vision: Vision | None = None,
        options: dict[str, Any] | None = None,
    ) -> Self:
        """Start an engine; takes half a minute.

        Args:
            model: a model's folder, or its name on the hub.
            device: where it runs.
            memory: share of GPU memory, or GiB of KV cache on a CPU.
            max_tokens: longest prompt and completion together.
            concurrency: sequences generated at once; further ones wait.
            tensor_parallel: GPUs per engine.
            version: given to every token.
            vision: the image rules of a model that is shown images; see :class:`agentrl.chat.vision.Vision`.
            options: further arguments of vLLM's ``AsyncEngineArgs``.

        Raises:
            ModelUnsupported: vLLM is not installed, or the model does not load.
        """
        on_cpu = {**CPU_ENVIRONMENT, **threads.environment()} if device == "cpu" else {}
        for name, value in {**ENVIRONMENT, **on_cpu}.items():
            os.environ.setdefault(name, value)
        share = {"gpu_memory_utilization": memory}
        cache = {
            "kv_cache_memory_bytes": math.ceil(memory * 2**30),
            "enforce_eager": True,
            "enable_chunked_prefill": False,  # a seeded prompt in chunks ends vLLM's engine on a CPU
        }
        arguments = {
            "model": model,
            "max_model_len": max_tokens,
            "max_num_seqs": concurrency,
            "max_num_batched_tokens": max(8192, max_tokens),
            "tensor_parallel_size": tensor_parallel,
            "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
            "generation_config": "vllm",  # the model's own defaults must not alter it unseen
            "disable_log_stats": True,
            **(cache if device == "cpu" else share),
            **({"limit_mm_per_prompt": NO_VIDEOS} if vision is not None else {}),
            **(options or {}),
        }
        sockets = tempfile.mkdtemp(prefix="agentrl-")
        try:
            engine = await asyncio.to_thread(_start, arguments, sockets)
        except ImportError as problem:
            raise ModelUnsupported(
                f"vLLM cannot be imported ({problem}). Install agentrl[train] on a machine with GPUs, or "
                "agentrl[cpu]."
            ) from problem
        except Exception as problem:  # it raises what its many parts raise
            raise ModelUnsupported(
                f"vLLM could not load {model}: {type(problem).__name__}: {problem}. Its log above says more."
            ) from problem
        return cls(engine, version=version, vision=vision, sockets=sockets)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """Sample one turn.

        Raises:
            EngineError: the engine failed or has been closed.
            UsageError: the engine refuses the request, for example as too long.
        """
        from vllm.exceptions import VLLMClientError  # type: ignore[import-not-found, import-untyped, unused-ignore]

        request = f"{episode}-{next(self._numbers)}"
        prompt = self._prompt(prompt_ids, images)
        final: Any = None
        try:
            async for output in self._engine.generate(prompt, _parameters(sampling), request):
                final = output
        except (VLLMClientError, ValueError) as problem:
            raise UsageError(f"vLLM refused a prompt of {len(prompt_ids)} tokens: {problem}") from problem
        except Exception as problem:  # a dead engine shows itself in many ways
            raise EngineError(f"The vLLM engine failed: {type(problem).__name__}: {problem}") from problem
        if final is None or final.outputs[0].finish_reason not in ("stop", "length"):
            reason = "nothing" if final is None else final.outputs[0].finish_reason
            raise EngineError(f"The vLLM engine ended a generation with {reason!r}.")
        turn = final.outputs[0]
        ids = list(turn.token_ids)
        logprobs = [entry[token].logprob for entry, token in zip(turn.logprobs, ids, strict=True)]
        return Generation(ids, logprobs, [self._version] * len(ids), turn.finish_reason)

    def _prompt(self, prompt_ids: Sequence[int], images: Sequence[Picture]) -> dict[str, Any]:
        if not images:
            return {"prompt_token_ids": list(prompt_ids)}
        if self._vision is None:
            raise ModelUnsupported("This policy takes text only; an environment gave it images.")
        return {
            "prompt_token_ids": self._vision.collapse(prompt_ids),
            "multi_modal_data": {"image": [decoded(picture) for picture in images]},
        }

    async def close(self) -> None:
        """End the engine and its processes. May be called twice."""
        await asyncio.to_thread(self._engine.shutdown, timeout=CLOSE_SECONDS)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _start(arguments: dict[str, Any], sockets: str) -> AsyncLLM:
    """Start the engine, with what vLLM leaves in temporary folders in one that goes with it."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    before = {name: os.environ.get(name) for name in FOLDERS}
    os.environ.update(dict.fromkeys(FOLDERS, sockets))
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except BaseException:
        shutil.rmtree(sockets, ignore_errors=True)
        raise
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _parameters(sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        RequestOutputKind,
    )

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        stop=list(sampling.stop_strings),
        include_stop_str_in_output=True,
        seed=sampling.seed,
        logit_bias=dict.fromkeys(sampling.banned_token_ids, BAN) or None,
        logprobs=0,
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
