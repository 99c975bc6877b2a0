"""Small repairs that let verl 0.9.1 run where there is no accelerator.

Each is named after what it mends, applies once, and says what goes wrong without it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from agentrl.chat.vision import image_only_processors

_MARK = "_agentrl_cpu"


REFERENCE, CRITIC, IMAGES = "reference", "critic", "images"


def apply(roles: set[str]) -> None:
    """Apply what a run with these roles needs; a second call does nothing.

    Args:
        roles: ``reference`` and ``critic``, where the run has one, and ``images``, where its model is
            shown some. Their patches import modules that most processes never need.
    """
    if IMAGES in roles:
        image_only_processors()
    _one_backend_per_device()
    if REFERENCE in roles:
        _no_pinned_memory()
    if CRITIC in roles:
        _sdpa_for_critics()


def _wrap(module: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(module, name)
    if not hasattr(original, _MARK):
        patched = make(original)
        setattr(patched, _MARK, True)
        setattr(module, name, patched)


def _one_backend_per_device() -> None:
    """verl asks for ``cpu:gloo,<device>:<backend>``; with the CPU as device torch refuses the duplicate."""
    import torch.distributed as dist

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(backend, str) and "," in backend:
                backend = ",".join(dict.fromkeys(backend.split(",")))
            return original(backend, *args, **kwargs)

        return init_process_group

    _wrap(dist, "init_process_group", make)


def _no_pinned_memory() -> None:
    """The reference model is offloaded to pinned memory, which needs an accelerator to pin for."""
    from torch.distributed.fsdp import CPUOffloadPolicy

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def without_pinning(self: Any, pin_memory: bool = False) -> None:
            original(self, pin_memory=False)

        return without_pinning

    _wrap(CPUOffloadPolicy, "__init__", make)


def _sdpa_for_critics() -> None:
    """verl loads value models with flash attention, which has no CPU build."""
    from transformers import AutoModelForTokenClassification

    module = importlib.import_module("verl.utils.model")

    def make(_original: Callable[..., Any]) -> Callable[..., Any]:
        def load_valuehead_model(
            local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool
        ) -> Any:
            return AutoModelForTokenClassification.from_pretrained(
                local_path,
                dtype=torch_dtype,
                config=model_config,
                attn_implementation="sdpa",
                trust_remote_code=trust_remote_code,
            )

        return load_valuehead_model

    _wrap(module, "load_valuehead_model", make)
