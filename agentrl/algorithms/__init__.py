"""Published algorithms as composable parts: pure functions and small state machines, and presets over them.

Importing this loads no torch; modules that make a loss import it.
"""

from agentrl.algorithms.catalogue import chosen, differences, load, names, settings_of
from agentrl.algorithms.spec import Algorithm

__all__ = ["Algorithm", "chosen", "differences", "load", "names", "settings_of"]
