"""Settings of ArCHer's critic of utterances."""

from __future__ import annotations

from pydantic import Field

from agentrl.algorithms import Algorithm
from agentrl.algorithms.named import settings_of_part
from agentrl.algorithms.spec import Filters, Named, Part
from agentrl.errors import ConfigError


class UtteranceSettings(Part):
    """How the critic learns."""

    tau: float = Field(0.1, gt=0, le=1, description="Polyak's rate")
    gamma: float = Field(0.95, ge=0, le=1, description="discount per turn")
    capacity: int = Field(100_000, ge=1, description="turns that are kept; the oldest gives way")
    epochs: int = Field(50, ge=1, description="updates of the critic in a step")
    batch_size: int = Field(32, ge=1, description="turns of an update")
    warmup: int = Field(20, ge=0, description="first steps, in which the critic alone learns")
    resample: bool = Field(
        False, description="V's and the policy's actions are drawn anew, in states of all that were kept"
    )
    learning_rate: float = Field(1e-3, gt=0)
    grad_clip: float = Field(1.0, gt=0)
    context: int = Field(128, ge=1, description="the newest tokens that are read of a state or an action")
    width: int = Field(64, ge=4, multiple_of=4)
    buckets: int = Field(8192, ge=8, description="rows of the embedding; ids share them beyond")


def utterance_settings(algorithm: Algorithm) -> UtteranceSettings | None:
    """How the algorithm's critic of utterances learns; ``None`` where it has none.

    Raises:
        ConfigError: an option is unknown or cannot be carried out, or advantages are not those of turns.
    """
    critic = algorithm.critic
    if critic is None or critic.kind != "utterance":
        return None
    part = Named(name="utterance", options=critic.options)
    how = settings_of_part(part, "critic", {"utterance": UtteranceSettings})
    if any(level.baseline == "critic" and level.level != "turn" for _, level in algorithm.levels()):
        raise ConfigError(
            f"algorithm.name={algorithm.name}: a critic of utterances says what a turn is worth, so its "
            "advantage's level must be turn: algorithm.advantage.level=turn, or algorithm.critic.kind=token."
        )
    return how


def check_fresh(algorithm: Algorithm, how: UtteranceSettings | None, mode: str) -> None:
    """Refuse what would have to be known of actions that are drawn anew: nobody plays them.

    Raises:
        ConfigError: the mode is another than sync, or a part looks at how the step's episodes were played.
    """
    if how is None or not how.resample:
        return
    name = "algorithm.critic.options.resample=true"
    if mode != "sync":
        raise ConfigError(f"{name} takes mode=sync; this is mode={mode}.")
    fits = {
        "algorithm.replay=null": algorithm.replay is None,
        "algorithm.curriculum=null": algorithm.curriculum is None,
        "algorithm.second_advantage=null": algorithm.second_advantage is None,
        "algorithm.shaping=null": algorithm.shaping is None or algorithm.shaping.name != "progress",
        "algorithm.weights.kind=none": algorithm.weights.kind == "none",
        "algorithm.filters as they are by default": algorithm.filters == Filters(),
    }
    wanted = ", ".join(setting for setting, fit in fits.items() if not fit)
    if wanted:
        raise ConfigError(f"{name} trains on actions that nobody played. It wants {wanted}.")
