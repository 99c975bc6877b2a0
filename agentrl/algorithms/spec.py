"""What an algorithm is made of: typed parts, each one choice, each with its own settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentrl.schedules import Shape, curve


class Part(BaseModel):
    """Settings of one part; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class Ramp(Part):
    """A coefficient that goes from one number to another while the policy is trained."""

    start: float
    end: float
    since: int = Field(0, ge=0, description="last step with the first number; steps count from 0")
    until: int = Field(..., ge=1, description="first step with the last number")
    shape: Shape = "linear"

    @model_validator(mode="after")
    def _in_order(self) -> Ramp:
        if self.until < self.since:
            raise ValueError("until must not lie before since")
        return self

    def at(self, step: int) -> float:
        """The number at a step, counted from 0."""
        return curve(self.start, self.end, since=self.since, until=self.until, shape=self.shape)(step)


Coefficient = float | Ramp


class Advantage(Part):
    """How much better than expected something was."""

    level: Literal["episode", "turn", "step", "token"] = Field(
        "episode",
        description="what is compared: whole episodes; turns, with all turns of the group; "
        "step: turns, with the turns of the same index; or tokens",
    )
    baseline: Literal["none", "mean", "leave_one_out", "median", "critic"] = Field(
        "mean", description="what is expected; median: P50 of recent groups' means"
    )
    scale: Literal["none", "group_std", "batch_std"] = "none"
    ddof: Literal[0, 1] = Field(1, description="of the standard deviation; 1: that of a sample")
    epsilon: float = Field(1e-6, ge=0, description="added to the standard deviation")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per turn, or per token at level token")
    lam: float = Field(1.0, ge=0, le=1, description="GAE's lambda, with a critic")
    whiten: bool = Field(False, description="shift and scale over the batch's tokens, as verl does after GAE")
    segments: Literal["none", "paper", "code"] = Field(
        "none", description="UI-S1: returns end at a turn that an expert had to patch; which form"
    )
    window: int = Field(10240, ge=1, description="group means that the median is of")

    @model_validator(mode="after")
    def _fits(self) -> Advantage:
        if self.baseline == "critic" and self.level == "step":
            raise ValueError("a critic needs no step index: level is episode, turn or token")
        if self.baseline == "median" and self.level != "episode":
            raise ValueError("the median is of groups' mean rewards: level is episode")
        if self.segments != "none" and self.level not in ("turn", "step"):
            raise ValueError("segments are of turns: level is turn or step")
        if self.segments != "none" and self.baseline == "critic":
            raise ValueError("segments are for returns that are compared, not for a critic")
        return self


class SecondAdvantage(Advantage):
    """One more level, added to the first."""

    weight: float = 1.0


class Critic(Part):
    """What estimates values."""

    kind: Literal["token", "utterance"] = Field(
        "token", description="token: verl's value model; utterance: double Q and V of turns (ArCHer)"
    )
    options: dict[str, Any] = Field(default_factory=dict)


class Ratio(Part):
    """Policy over the policy before the update."""

    level: Literal["token", "turn", "sequence"] = "token"
    mean: bool = Field(
        False, description="geometric mean over the level's tokens (GSPO), not the product (LOOP)"
    )


class Trust(Part):
    """How far one update may go."""

    kind: Literal["ppo", "reciprocal", "truncated", "none"] = Field(
        "ppo",
        description="ppo: 1-low to 1+high; reciprocal: 1/(1+low) to 1+high; "
        "truncated: sg(min(ratio to the behaviour policy, cap)) log pi; none: log pi alone",
    )
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1, description="most that a bad token's ratio counts")
    cap: float = Field(5.0, gt=0, description="of truncated")


class Correction(Part):
    """What is done about samples of a behaviour policy other than the one before the update."""

    kind: Literal["none", "tis", "decoupled", "mask", "clamp"] = Field(
        "none",
        description="tis: weight min(w, cap); decoupled: w; mask: tokens with w above cap do not count; "
        "clamp: w within floor and cap",
    )
    level: Literal["token", "sequence"] = Field("token", description="sequence: the geometric mean of w")
    cap: float = Field(5.0, gt=0)
    floor: float = Field(0.0, ge=0)


class Aggregation(Part):
    """What share each token has in the loss."""

    kind: Literal[
        "token", "sequence", "episode", "prompt", "turn", "action", "sequence_sum", "turn_sum", "sum_norm"
    ] = Field(
        "token",
        description="token: all alike; sequence: rows alike; episode, prompt, turn: episodes, prompts or "
        "turns alike; action: episodes alike, in them turns alike; sequence_sum, turn_sum: mean over rows or "
        "turns of sums; sum_norm: sequence_sum over horizon",
    )
    horizon: int | None = Field(None, ge=1, description="default: rollout.max_trajectory_tokens")


class KL(Part):
    """A pull towards a policy."""

    coefficient: Coefficient = 0.0
    form: Literal["k1", "abs", "k2", "k3"] = Field("k3", description="k3: low variance, never negative")
    against: Literal["reference", "old"] = "reference"


class Entropy(Part):
    """A pull towards variety."""

    coefficient: Coefficient = 0.0


class ClipCov(Part):
    """Leaves out tokens whose advantage and log-prob vary together most."""

    share: float = Field(0.0002, gt=0, lt=1)
    low: float = 1.0
    high: float = 5.0


class Weights(Part):
    """How much a sample counts."""

    kind: Literal["none", "duration", "balanced"] = Field(
        "none", description="duration: seconds of a turn; balanced: VeriRL's alpha and beta"
    )


class Filters(Part):
    """Which groups, episodes and turns are trained on."""

    zero_variance: Literal["keep", "drop", "resample"] = Field(
        "keep", description="groups whose rewards are all alike; resample: others take their place"
    )
    least_std: float | None = Field(None, ge=0, description="groups with less are left out")
    below_std: Literal["drop", "resample"] = Field(
        "drop", description="what becomes of them; resample: others take their place"
    )
    std_of: Literal["reward", "first_return"] = Field(
        "reward", description="of an episode; first_return: what its first turn is worth (UI-S1)"
    )
    std_ddof: Literal[0, 1] = 1
    top_share: float | None = Field(None, gt=0, le=1, description="share of groups kept, by their std")
    truncated: Literal["keep", "mask"] = Field(
        "keep", description="episodes that ran into a limit; mask: they stay in baselines and do not count"
    )
    least_advantage: float | None = Field(None, gt=0, description="episodes whose |A| is below do not count")
    solved: float | None = Field(
        None, gt=0, le=1, description="tasks with this pass rate are not played again in later epochs"
    )
    low_entropy_turns: float | None = Field(
        None, gt=0, lt=1, description="share of a group's turns left out: those of lowest entropy"
    )

    @property
    def replaces(self) -> bool:
        """Whether further groups are played in the place of some."""
        short = self.least_std is not None and self.below_std == "resample"
        return short or self.zero_variance == "resample"


class Improve(Part):
    """Some groups are shown an earlier attempt at their task, and asked for a better one."""

    share: float = Field(0.5, gt=0, le=1, description="of groups whose task was attempted before")
    words: str = Field(
        "You have tried this before:\n\n{attempt}\n\nImprove on that.",
        pattern=r"\{attempt\}",
        description="what is added to the opening",
    )


class Groups(Part):
    """How many episodes a task gets, how long they may be, and what they are shown."""

    adaptive_size: bool = Field(False, description="fewer episodes of a task that often succeeds (DART)")
    adaptive_length: bool = Field(False, description="no longer than the task's longest success (DART)")
    inject_success: bool = Field(
        False, description="a stored success takes a place in a group that failed as a whole"
    )
    improve: Improve | None = None


class Staleness(Part):
    """How old samples may be."""

    max_lag: int | None = Field(
        None, ge=0, description="most versions that a sample may lag behind; above 0 it takes mode=async"
    )


class Named(Part):
    """A part kept elsewhere, by name."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Replay(Named):
    """Where samples of earlier steps or other nodes come from."""


class Curriculum(Named):
    """Which tasks come when."""


class Shaping(Named):
    """How an episode's rewards are put together."""


class RolloutControl(Named):
    """What is done to an episode while it is played."""


class Algorithm(Part):
    """An algorithm: its parts, and where they are from.

    Args:
        name: under which ``algorithm.name`` chooses it.
        title, paper, summary: for readers.
        inferred: what no source says and was chosen here.
        differs: what is done otherwise than in the paper or its code, and on purpose.
        not_to_confuse: what else goes by this name.
        published: settings of the paper's own runs; told, not applied.
    """

    name: str
    title: str
    paper: str
    summary: str
    inferred: list[str] = Field(default_factory=list)
    differs: list[str] = Field(default_factory=list)
    not_to_confuse: str | None = None
    published: dict[str, Any] = Field(default_factory=dict)

    advantage: Advantage = Field(default_factory=Advantage)
    second_advantage: SecondAdvantage | None = None
    critic: Critic | None = None
    ratio: Ratio = Field(default_factory=Ratio)
    trust: Trust = Field(default_factory=Trust)
    correction: Correction = Field(default_factory=Correction)
    aggregation: Aggregation = Field(default_factory=Aggregation)
    kl: KL = Field(default_factory=KL)
    entropy: Entropy = Field(default_factory=Entropy)
    clip_cov: ClipCov | None = None
    weights: Weights = Field(default_factory=Weights)
    filters: Filters = Field(default_factory=Filters)
    groups: Groups = Field(default_factory=Groups)
    staleness: Staleness = Field(default_factory=Staleness)
    replay: Replay | None = None
    curriculum: Curriculum | None = None
    shaping: Shaping | None = None
    rollout: RolloutControl | None = None

    @model_validator(mode="after")
    def _complete(self) -> Algorithm:
        levels = [self.advantage, *([self.second_advantage] if self.second_advantage else [])]
        if any(level.baseline == "critic" for level in levels) and self.critic is None:
            raise ValueError("the advantage's baseline is a critic, and there is none: set critic.kind")
        turns = [level for level in levels if level.level in ("turn", "step") and level.baseline != "critic"]
        if self.filters.std_of == "first_return" and not turns:
            raise ValueError("filters.std_of=first_return needs an advantage that compares turns or steps")
        dropped = self.filters.zero_variance == "drop", self.filters.least_std, self.filters.top_share
        if self.critic is not None and any(dropped):
            raise ValueError("filters leave out groups, and a critic learns from every episode")
        return self

    def levels(self) -> list[tuple[float, Advantage]]:
        """The advantages that are summed, with their weights."""
        first: list[tuple[float, Advantage]] = [(1.0, self.advantage)]
        second = self.second_advantage
        return first + ([(second.weight, second)] if second else [])

    def at(self, step: int) -> Algorithm:
        """Itself with plain numbers in place of ramps, as they are at a step counted from 0."""
        changed = {}
        for name in ("kl", "entropy"):
            part = getattr(self, name)
            if isinstance(part.coefficient, Ramp):
                changed[name] = part.model_copy(update={"coefficient": part.coefficient.at(step)})
        return self.model_copy(update=changed) if changed else self


ABOUT = ("name", "title", "paper", "summary", "inferred", "differs", "not_to_confuse", "published")
PARTS = tuple(name for name in Algorithm.model_fields if name not in ABOUT)
