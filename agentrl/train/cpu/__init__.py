"""The real training stack on a machine without an accelerator.

verl and vLLM run unchanged except for the places named in :mod:`.platform`, :mod:`.patches` and
:mod:`.vllm_patch`. Everything here is inert unless ``VERL_PLATFORM=cpu`` is set.
"""

from __future__ import annotations

import os

from agentrl.threads import environment as waiting


def active() -> bool:
    """Whether this process was asked to run on the CPU platform."""
    return os.environ.get("VERL_PLATFORM", "").lower() == "cpu"


def roles() -> set[str]:
    """What this run has beside a policy that reads: ``reference`` and ``critic`` models, ``images``."""
    return set(filter(None, os.environ.get("AGENTRL_CPU_ROLES", "").split(",")))


def environment(threads: int, roles: list[str]) -> dict[str, str]:
    """Environment variables for the driver, which every process of the run inherits.

    Args:
        threads: threads of the training process and of the inference engine's kernels.
        roles: as in :func:`roles`.
    """
    return {
        "AGENTRL_CPU_ROLES": ",".join(roles),
        "VERL_PLATFORM": "cpu",
        "VERL_ENGINE_DEVICE": "cuda",  # verl registers its FSDP engine under cuda and npu only
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # lets the engine run its one worker in its own process
        "OMP_NUM_THREADS": str(threads),
        **waiting(),
        "TQ_NUM_THREADS": str(threads),
        "TORCH_COMPILE_DISABLE": "1",
        # glibc would give every large tensor's memory back to the kernel and ask for it anew.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "TORCHINDUCTOR_DISABLE": "1",
    }
