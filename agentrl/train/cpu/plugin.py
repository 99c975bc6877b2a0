"""verl's plug-in entry point: loaded in every process that imports verl.

verl swallows errors of plug-ins, so a run checks with :func:`require` that this one took effect.
"""

from __future__ import annotations

from agentrl.train.apart import own_sockets
from agentrl.train.cpu import active, roles

own_sockets()

if active():
    from verl.plugin.platform import platform_manager

    from agentrl.train.cpu.patches import apply
    from agentrl.train.cpu.platform import CPUPlatform

    # verl's own import has asked for the platform by now and fallen back to "nvidia".
    platform_manager._current_platform = CPUPlatform()
    apply(roles())


def require() -> None:
    """Fail loudly where the CPU platform was asked for and is not in force.

    Raises:
        ConfigError: verl did not load this plug-in.
    """
    if not active():
        return
    from verl.plugin.platform.platform_manager import get_platform

    from agentrl.errors import ConfigError

    if get_platform().device_name != "cpu":
        raise ConfigError(
            "verl did not load agentrl's CPU platform (entry point verl.plugins:agentrl_cpu), so nothing can "
            "train here. Install agentrl itself (pip install -e .) beside verl, and leave "
            "VERL_USE_EXTERNAL_PLUGINS unset or include agentrl_cpu in it."
        )
