"""How an episode went about its calls: parts to put rewards together with. Each is 1 or 0."""

from __future__ import annotations

from agentrl import Trajectory, reward


@reward
def called(episode: Trajectory) -> bool:
    """Whether a call was answered without an error."""
    return any(not call.observation.error and call.status == "ok" for call in episode.calls)


@reward
def failed_call(episode: Trajectory) -> bool:
    """Whether a call failed: code that raised, arguments that do not fit, a tool that refused."""
    return any(call.observation.error or call.status != "ok" for call in episode.calls)


@reward
def unfinished(episode: Trajectory) -> bool:
    """Whether a limit ended the episode."""
    return episode.status == "truncated"
