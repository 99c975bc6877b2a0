"""A reward of your own.

Give it to an environment:      rewards = [my_reward]
"""

from __future__ import annotations

import re

from agentrl import Trajectory, reward

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@reward
def my_reward(episode: Trajectory) -> float:
    """1 if the answer holds one number and it is the right one; half of that if it took over three calls."""
    numbers = NUMBER.findall(episode.final_text)
    if len(numbers) != 1 or float(numbers[0]) != float(episode.task.answer):
        return 0.0  # several numbers are no answer: a policy would learn to list them all
    return 1.0 if len(episode.calls) <= 3 else 0.5
