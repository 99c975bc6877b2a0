"""verl's agent loop, run by our episode loop: one instance per episode, one runtime per process."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from agentrl.algorithms.spec import Improve
from agentrl.chat import Chat
from agentrl.chat.vision import MARKS, Vision, decoded
from agentrl.config import TrainConfig
from agentrl.doctor.rows import fingerprint
from agentrl.errors import UsageError
from agentrl.events import NullSink
from agentrl.rollout import Admission, EpisodeRunner, Load, derive_seed, succeeded
from agentrl.rollout.control import StoredStarts
from agentrl.rollout.retold import RetoldPolicy
from agentrl.rollout.started import STARTED, said_in
from agentrl.store import keep_pictures
from agentrl.task import Task
from agentrl.train.algorithm import plan
from agentrl.train.attempts import with_words
from agentrl.train.experience import ASKED, TURNS
from agentrl.train.failure import write_failure
from agentrl.train.improve import ATTEMPT, attempt_words
from agentrl.train.policy import LedgerEntry, VerlPolicy
from agentrl.train.reflection import Reflector
from agentrl.train.replay import SwarmReplay
from agentrl.train.runtime import load_runtime
from agentrl.train.shaping import shape_of
from agentrl.train.staleness import Examined, StalenessRule
from agentrl.train.starts import START
from agentrl.train.summary import summary_of, usage_of
from agentrl.train.swarm import SAID, SOURCE
from agentrl.trajectory import Sample, Trajectory


class EpisodeOutput(AgentLoopOutput):
    """A training row whose rewards sit at token positions."""

    token_rewards: list[float]
    """Reward per response token. ``[R]``"""
    turn_ids: list[int]
    """Index of the turn that sampled a response token, -1 where none did. ``[R]``"""
    token_versions: list[int]
    """The policy version that sampled a response token, -1 where none did. ``[R]``"""
    turn_seconds: list[float]
    """How long the token's turn took with its tools, 0 where no turn sampled it. ``[R]``"""

    turn_matches: list[int]
    """1 where the token's turn did what an expert did or there is none, else 0. ``[R]``"""

    def as_dict(self) -> dict[str, Any]:
        """verl's columns, with ``rm_scores`` per token and what else there is of each token beside them."""
        columns: dict[str, Any] = super().as_dict()
        columns["rm_scores"] = torch.tensor(columns.pop("token_rewards"), dtype=torch.float32)
        columns["turn_seconds"] = torch.tensor(columns.pop("turn_seconds"), dtype=torch.float32)
        columns["turn_matches"] = torch.tensor(columns.pop("turn_matches"), dtype=torch.int64)
        columns["turn_ids"] = torch.tensor(columns.pop("turn_ids"), dtype=torch.int64)
        columns["versions"] = torch.tensor(columns.pop("token_versions"), dtype=torch.int64)
        return columns


@dataclass
class _Rollout:
    """What the episodes of one process share.

    Held-out episodes have a runner of their own, for an algorithm may shape the rewards of the others.
    """

    runner: EpisodeRunner
    held_out: EpisodeRunner
    policy: VerlPolicy
    folder: Path
    config: TrainConfig
    admission: Admission
    carries_rewards: bool
    chat: Chat
    vision: Vision | None = None
    improve: Improve | None = None
    replays: bool = False
    shares_said: bool = False
    retold: EpisodeRunner | None = None
    retelling: RetoldPolicy | None = None
    first_step: int | None = None

    def wants_ledger(self, step: int) -> bool:
        """Whether the doctor may examine a group that is begun in this step."""
        if self.first_step is None:
            self.first_step = step
        rule = StalenessRule.of(self.config)
        bound = None if rule.policy == "correct" else rule.bound
        return Examined(self.first_step, self.config.steps, bound).recorded(step)

    def runner_of(self, split: str) -> EpisodeRunner:
        """What plays the episodes of a split."""
        return self.runner if split == "train" else self.held_out

    def retell(self, episode: str, told: str, session: int, step: int) -> EpisodeRunner:
        """What plays an episode that another run shared."""
        assert self.retold is not None and self.retelling is not None, "no replay of shared episodes"
        self.retelling.tell(episode, json.loads(told)[session], max(0, step - 1))
        return self.retold

    def seed(self, task: Task, step: int, session: int) -> int | None:
        """What makes the episode's sampling repeatable, if the run wants that."""
        return derive_seed(self.config.seed, task.id, step, session) if self.config.rollout.seeded else None

    def group_size(self, row: Mapping[str, Any], split: str) -> int:
        """Episodes that verl plays of a task; all of a group in this process."""
        if ASKED in row:
            return int(row[ASKED])
        return self.config.algorithm.group_size if split == "train" else self.config.eval.samples

    def progress(self, step: int, split: str) -> float:
        """The share of the training's steps that are done; held-out episodes are judged as at its end."""
        if split != "train" or self.config.steps == 1:
            return 1.0
        return min(1.0, max(0, step - 1) / (self.config.steps - 1))


@functools.cache
def _rollout(folder: str, client: _Box, tokenizer: _Box, processor: _Box) -> _Rollout:
    runtime = load_runtime(Path(folder), role="rollout")
    config, carried_out = runtime.config, plan(runtime.config.algorithm)
    policy = VerlPolicy(client.value, config.rollout.response_seconds)
    sees = processor.value is not None
    vision = Vision.of(tokenizer.value, processor.value.image_processor) if sees else None
    control = carried_out.control
    alone = control.held_out()
    chat = Chat(tokenizer.value, config.rollout.renderer, vision=vision)
    load = Load()
    admission = Admission.of(config.rollout, load)
    make_runner = functools.partial(
        EpisodeRunner,
        runtime.env,
        chat,
        sandbox=runtime.sandbox,
        events=runtime.events,
        control=control,
        load=load,
    )
    held_out = make_runner(policy=policy, limits=config.rollout, control=alone)
    runner = held_out if alone is control else make_runner(policy=policy, limits=config.rollout)
    shape, seconds = None, None
    if (shaping := carried_out.shaping) is not None:
        # Reflections are no episodes of the training: no events tell of them.
        reflecting = make_runner(policy=policy, limits=config.rollout, events=NullSink(), control=alone)
        seed = functools.partial(_reflection_seed, config)
        play = Reflector(reflecting, chat, policy, config.rollout, admission, seed).play
        seconds = shaping.group_seconds(config.rollout)
        shape = shape_of(shaping, runtime.env, config.steps, play=play, seconds=seconds)
        runner = make_runner(policy=policy, limits=config.rollout, shape=shape, group_seconds=seconds)
    retelling = RetoldPolicy(chat) if isinstance(carried_out.replay, SwarmReplay) else None
    retold = None
    if retelling is not None:  # what cannot be told again is not worth another try
        once = config.rollout.model_copy(update={"retries": 0})
        retold = make_runner(policy=retelling, limits=once, shape=shape, group_seconds=seconds)
    return _Rollout(
        runner,
        held_out,
        policy,
        Path(folder),
        config,
        admission,
        carried_out.carries_rewards,
        chat,
        vision,
        improve=carried_out.algorithm.groups.improve,
        replays=carried_out.replay is not None,
        shares_said=retelling is not None or isinstance(control, StoredStarts),
        retold=retold,
        retelling=retelling,
    )


def _reflection_seed(config: TrainConfig, root: Trajectory, name: str) -> int | None:
    """What makes a reflection's sampling repeatable: groups have other names in every run."""
    if not config.rollout.seeded:
        return None
    at = round(root.progress * config.steps)
    return derive_seed(config.seed, root.task.id, at, name.removeprefix(root.group))


class _Box:
    """Lets the cache above tell objects apart by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Box) and other.value is self.value


class EpisodeLoop(AgentLoopBase):
    """What verl instantiates for every episode.

    Args:
        run: the run folder.
    """

    def __init__(
        self, *, run: str, server_manager: Any, tokenizer: Any, processor: Any = None, **_unused: Any
    ) -> None:
        # The base class prepares verl's own message rendering for each episode; ours needs none of it.
        try:
            self._rollout = _rollout(run, _Box(server_manager), _Box(tokenizer), _Box(processor))
        except UsageError as problem:
            write_failure(Path(run), problem)
            raise

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> list[EpisodeOutput]:
        """Run the row's episode; a void one has no rows, so it takes no part in its group."""
        rollout, info = self._rollout, row["extra_info"]
        task, step = Task(**json.loads(info["task"])), int(row["global_steps"])
        episode, size = f"{row['uid']}_{row['session_id']}", rollout.group_size(row, info["split"])
        told, number, given = row.get(SAID), int(row["session_id"]), str(row.get(ATTEMPT) or "")
        runner = rollout.retell(episode, told, number, step) if told else rollout.runner_of(info["split"])
        try:
            trajectory = await runner.run_in_group(
                task,
                size=size,
                group=str(row["uid"]),
                step=step,
                split=info["split"],
                episode_id=episode,
                progress=rollout.progress(step, info["split"]),
                seed=rollout.seed(task, step, number),
                temperature=sampling_params["temperature"],
                max_turns=row.get(TURNS),
                start=json.loads(row.get(START) or "[]"),
                opening=(lambda messages: with_words(messages, given)) if given else None,
                slot=rollout.admission.place(),
            )
        except UsageError as problem:
            write_failure(rollout.folder, problem)
            return []
        finally:
            ledger = rollout.policy.take_ledger(episode)
        wanted = info["split"] == "train" and not told and rollout.wants_ledger(step)
        solved = succeeded(rollout.runner.env, trajectory)
        summary = {**summary_of(trajectory), **usage_of(trajectory, ledger), "success": solved, "asked": size}
        if told:
            summary["replayed"] = {"step": step, "member": True, "source": row[SOURCE]}
        elif rollout.shares_said and info["split"] == "train":
            summary["said"] = said_in(trajectory)
        if STARTED in trajectory.metadata:
            summary["started"] = trajectory.metadata[STARTED]
        if (improve := rollout.improve) is not None and info["split"] == "train":
            limits = rollout.config.rollout
            summary["improves"] = bool(given)
            summary[ATTEMPT] = attempt_words(rollout.chat, trajectory, improve, limits, given)
        if wanted:
            keep_pictures(rollout.folder, trajectory.pictures.values())
        return to_outputs(
            trajectory,
            summary,
            ledger if wanted else [],
            carry=rollout.carries_rewards,
            vision=rollout.vision,
            mark=rollout.replays,
        )


def to_outputs(
    trajectory: Trajectory,
    summary: dict[str, Any],
    ledger: list[LedgerEntry],
    *,
    carry: bool,
    vision: Vision | None = None,
    mark: bool = False,
) -> list[EpisodeOutput]:
    """An episode as verl's rows.

    Args:
        trajectory: the finished episode.
        summary: what the trainer reports of it.
        ledger: what the engine sampled, for the doctor; only the last attempt's entries are kept.
        carry: move rewards of earlier rows to the end of the last one. GRPO compares episodes by
            their last row and gives every row the same advantage, so rewards elsewhere would be lost.
        vision: the image rules of a model that is shown images.
        mark: give rows a fingerprint, by which the doctor knows them when they are trained on again.
    """
    samples = trajectory.samples()
    if carry and len(samples) > 1:
        _carry(samples)
    generations = sum(turn.generations for turn in trajectory.turns)
    entries = ledger[-generations:] if generations else []
    recorded = [entry.record(vision) for entry in entries]
    seconds = {turn.index: turn.generate_seconds + turn.tool_seconds for turn in trajectory.turns}
    strayed = {turn.index for turn in trajectory.turns if turn.guided and not turn.guided.matched}
    outputs = []
    for sample in samples:
        versions = [version for version in sample.versions if version >= 0]
        outputs.append(
            EpisodeOutput(
                prompt_ids=sample.prompt_ids,
                response_ids=sample.response_ids,
                response_mask=[int(sampled) for sampled in sample.mask],
                response_logprobs=sample.logprobs,
                reward_score=trajectory.reward,
                num_turns=len(trajectory.turns),
                metrics=AgentLoopMetrics(),
                token_rewards=sample.rewards,
                turn_ids=sample.turns,
                token_versions=sample.versions,
                turn_seconds=[seconds.get(turn, 0.0) for turn in sample.turns],
                turn_matches=[int(turn not in strayed) for turn in sample.turns],
                extra_fields={
                    "min_global_steps": min(versions, default=0),
                    "max_global_steps": max(versions, default=0),
                    "turn_scores": [],
                    "tool_rewards": [],
                    "reward_extra_info": {"acc": float(summary["success"])},
                    "episode": summary,
                    "ledger": recorded,
                    **({"fingerprint": _fingerprint(sample)} if mark else {}),
                },
                **(_images(sample, vision) if vision else {}),
            )
        )
    return outputs


def _fingerprint(sample: Sample) -> str:
    return fingerprint(
        sample.prompt_ids, sample.response_ids, sample.mask, sample.logprobs, sample.versions, sample.rewards
    )


def _images(sample: Sample, vision: Vision) -> dict[str, Any]:
    """What verl makes the trainer's pixel values of.

    verl would have its processor read the whole row's text, in which words of a tool may spell a
    placeholder. It is given a text of placeholders instead.
    """
    mark = MARKS[1]
    text = mark * len(sample.images) or "."
    images = {"images": [decoded(picture) for picture in sample.images]} if sample.images else {}
    return {"multi_modal_data": images, "mm_processor_kwargs": {"text": [text]}}


def _carry(samples: list[Sample]) -> None:
    last = samples[-1]
    end = max(i for i, sampled in enumerate(last.mask) if sampled)
    for earlier in samples[:-1]:
        last.rewards[end] += sum(earlier.rewards)
        earlier.rewards = [0.0] * len(earlier.rewards)
