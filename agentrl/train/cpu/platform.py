"""The CPU as one of verl's platforms."""

from __future__ import annotations

import contextlib
import os
import types
from collections.abc import Iterator
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class _DeviceModule(types.ModuleType):
    """``torch.cpu`` with the accelerator calls that verl makes on a device module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)


def _nothing(*_args: object, **_kwargs: object) -> None:
    """Accelerator upkeep that a CPU does not need."""


def _zero(*_args: object, **_kwargs: object) -> int:
    return 0


def _memory(*_args: object, **_kwargs: object) -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def _device_module() -> types.ModuleType:
    module = _DeviceModule("agentrl_cpu_device")
    for name in ("allocated", "reserved"):
        setattr(module, f"memory_{name}", _zero)
        setattr(module, f"max_memory_{name}", _zero)
    for name in ("empty_cache", "ipc_collect", "synchronize", "set_device", "reset_peak_memory_stats",
                 "set_per_process_memory_fraction", "manual_seed", "manual_seed_all"):  # fmt: skip
        setattr(module, name, _nothing)
    answers: dict[str, Any] = {
        "mem_get_info": _memory,
        "is_available": lambda: False,
        "get_device_name": lambda *_: "cpu",
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "device_count": lambda: 1,
        "current_device": lambda: "cpu",
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """Tells verl to place tensors on the CPU, talk over gloo, and count one pretended GPU in Ray."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"  # verl uses it as tensor.to(get_device_id())

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one device."""

    def synchronize(self, device_index: int = 0) -> None:
        """CPU kernels are synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The CPU allocator has none."""

    def empty_cache(self) -> None:
        """The CPU allocator keeps no cache."""

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """There is no device profiler."""

    def profiler_stop(self) -> None:
        """There is no device profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"  # ray.init(num_gpus=1) pretends one, so that verl's placement works unchanged

    def ray_resource_options(self, num_gpus: float) -> dict[str, float]:
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights go to the engine through shared memory

    def cudart(self) -> None:
        return None
