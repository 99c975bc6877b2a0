"""What the trainer remembers of tasks and episodes, and what of it enters a step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

from agentrl.algorithms.pool import Rollout
from agentrl.algorithms.replay import Item
from agentrl.config import TrainConfig
from agentrl.train.algorithm import Plan
from agentrl.train.history import TaskHistory
from agentrl.train.improve import ATTEMPT, Improvements
from agentrl.train.replay import Decision, SpearBuffer, SpearReplay, TaskReplay, TaskStore, decide
from agentrl.train.starts import START, Starts
from agentrl.train.stored import (
    Session,
    Stored,
    columns,
    joined,
    put,
    put_column,
    read,
    sessions,
    task_of,
    without,
)
from agentrl.train.summary import began_plainly

FILE = "experience.pt"
"""In a checkpoint's folder."""

PLAYED = "__rollout_n__"
"""verl's column for how many episodes a task gets."""

ASKED, TURNS = "group_size", "turn_limit"
"""Columns by which the episode loop learns the same, and how many turns each may take."""


@dataclass(frozen=True)
class Replayed:
    """Rows in TransferQueue that are trained on again, beside the step's own.

    Args:
        batch: the rows.
        old: by key the log-probs around which PPO clips. ``[R]``
        baseline: what is subtracted from an episode's reward.
        weight: factor of the loss.
    """

    batch: KVBatchMeta
    old: Mapping[str, torch.Tensor]
    baseline: float
    weight: float


class Experience:
    """Stored episodes and outcomes by task.

    Args:
        plan: the algorithm.
        config: the run's settings.

    Attributes:
        left_out: episodes of the batch at hand that are in no baseline and have no share.
        replaced: summaries of this step's episodes that gave way to stored ones.
    """

    def __init__(self, plan: Plan, config: TrainConfig) -> None:
        groups, replay = plan.algorithm.groups, plan.replay
        self._groups, self._seed = groups, config.seed
        self._most, self._turns = config.algorithm.group_size, config.rollout.max_turns
        self._inject = groups.inject_success
        self._store = TaskStore(replay) if isinstance(replay, TaskReplay) else None
        self._spear = SpearBuffer(replay) if isinstance(replay, SpearReplay) else None
        adapts = groups.adaptive_size or groups.adaptive_length
        self._history = TaskHistory() if adapts else None
        self._starts = Starts.of(plan.control, steps=config.steps, seed=config.seed)
        self._improvements = Improvements.of(groups.improve, seed=config.seed)
        self._old: dict[str, torch.Tensor] = {}
        self._played: list[Session] = []
        self._counts: Counter[str] = Counter()
        self.left_out: frozenset[str] = frozenset()
        self.replaced: list[dict[str, Any]] = []

    @property
    def _idle(self) -> bool:
        parts = (self._store, self._spear, self._history, self._starts, self._improvements)
        return all(part is None for part in parts)

    def ask(self, prompts: TensorDict, step: int) -> TensorDict:
        """Say how many episodes each of the next tasks gets, how many turns they may take, what they are
        shown and what is done first in them."""
        if self._history is None and self._starts is None and self._improvements is None:
            return prompts
        tasks = [task_of(getattr(info, "data", info)) for info in prompts["extra_info"]]
        for column, part in {START: self._starts, ATTEMPT: self._improvements}.items():
            if part is not None:
                drawn = [part.draw(task, place, step - 1) for place, task in enumerate(tasks)]
                prompts[column] = NonTensorStack(*drawn)
        if self._history is None:
            return prompts
        if self._groups.adaptive_size:
            sizes = [self._history.size(task, self._most) for task in tasks]
            for name in (PLAYED, ASKED):
                prompts[name] = NonTensorStack(*sizes)
        if self._groups.adaptive_length:
            prompts[TURNS] = NonTensorStack(*(self._history.turns(task, self._turns) for task in tasks))
        return prompts

    def enter(self, batch: KVBatchMeta, step: int) -> KVBatchMeta:
        """Look at the episodes that a step begins with; groups that failed get a stored success.

        Returns:
            The step's rows, those of stored episodes among them.
        """
        self._old, self.left_out, self._played = {}, frozenset(), []
        if self._idle:
            return batch
        own = self._played = sessions(batch)
        self._counts["groups"] += len({session.group for session in own})
        self._counts["asked"] += sum({one.group: self._asked(one) for one in own}.values())
        if self._improvements is not None:
            attempts: dict[str, list[Session]] = defaultdict(list)
            for session in own:
                self._improvements.counts.see(session.summary)
                attempts[session.group].append(session)
            for members in attempts.values():
                words = [str(member.summary.get(ATTEMPT, "")) for member in members]
                self._improvements.add(members[0].task, words, step)
        if self._starts is not None:
            for session in own:
                self._starts.counts.see(session.summary)
                if _succeeded(session):
                    self._starts.add(session.task, session.summary.get("said", []))
        if self._history is not None:
            for session in (one for one in own if began_plainly(one.summary)):
                self._history.add(session.task, _succeeded(session), int(session.summary["turns"]))
        if self._store is None:
            return batch
        pool = [_rollout(session) for session in own]
        by_name = {session.name: session for session in own}
        left_out: set[str] = set()
        for group in dict.fromkeys(session.group for session in own):
            members = [session for session in own if session.group == group]
            item = self._store.newest(members[0].task, step) if self._inject else None
            decision = self._decide(pool, members, item, step)
            left_out |= decision.left_out
            if decision.replaced is not None and item is not None:
                gone = by_name[decision.replaced]
                batch = self._replace(batch, gone, item, number=1 + max(one.number for one in members))
        self.left_out = frozenset(left_out)
        self._counts["replay/left_out"] += len(left_out)
        return batch

    def _decide(
        self, pool: Sequence[Rollout], members: Sequence[Session], item: Item[Stored] | None, step: int
    ) -> Decision:
        assert self._store is not None
        group, task = members[0].group, members[0].task
        stored = None
        if item is not None:
            stored = Rollout("stored", group, 1.0, item.version, -1, used=True)
        rng = Random(f"{self._seed}-{step}-{task}")
        return decide(self._store.how, pool, group, stored, asked=self._asked(members[0]), rng=rng)

    def _asked(self, session: Session) -> int:
        """Episodes that the session's group was to have."""
        return int(session.summary.get("asked", self._most))

    def _replace(self, batch: KVBatchMeta, gone: Session, item: Item[Stored], *, number: int) -> KVBatchMeta:
        assert batch.partition_id is not None
        told = {"step": item.step, "member": True}
        new = put(item.value, batch.partition_id, group=gone.group, number=number, replayed=told)
        self._old |= dict(zip(new.keys, item.value.old, strict=True))
        self.replaced.append(gone.summary)
        self._counts["replay/injected"] += 1
        return joined(without(batch, gone.keys), [new])

    def restore_logprobs(self, batch: KVBatchMeta) -> KVBatchMeta:
        """Take for the old log-probs of stored rows those of the policy that they were sampled with."""
        put_column(batch, "old_log_probs", self._old)
        return batch

    def keep(self, batch: KVBatchMeta, step: int) -> None:
        """Store what may be trained on again of the episodes that were played, once advantages are there."""
        there = set(batch.keys)
        own = [session for session in self._played if session.keys[0] in there]
        if not own:
            return
        assert batch.partition_id is not None
        if self._store is not None and self._inject:
            # One success of a group: a task's newest is what is used.
            for session in {one.group: one for one in own if _succeeded(one)}.values():
                self._store.add(_item(session, read(session, batch.partition_id), step, float(True)))
        if self._spear is not None:
            self._keep_good(batch, own, step)

    def _keep_good(self, batch: KVBatchMeta, own: Sequence[Session], step: int) -> None:
        assert self._spear is not None and batch.partition_id is not None
        keys = [key for session in own for key in session.keys]
        found = dict(zip(keys, columns(batch, keys, ["response_mask", "advantages"]), strict=True))
        for session in own:
            rows = [found[key] for key in session.keys]
            tokens = max(1, sum(int(row["response_mask"].sum()) for row in rows))
            mean = sum(float((row["advantages"] * row["response_mask"]).sum()) for row in rows) / tokens
            calls = int(session.summary["calls"])
            if self._spear.wants(advantage=mean, calls=calls):
                stored = read(session, batch.partition_id)
                reward = float(session.summary["reward"])
                self._spear.add(_item(session, stored, step, reward, advantage=mean, calls=calls))

    def again(self, batch: KVBatchMeta, step: int) -> Replayed | None:
        """Episodes of earlier steps that are trained on again now, if there are enough of them."""
        if self._spear is None:
            return None
        rewards: dict[str, list[float]] = defaultdict(list)
        for session in self._played:
            rewards[session.group].append(float(session.summary["reward"]))
        self._spear.see(float(np.mean(values)) for values in rewards.values())
        taken = self._spear.take(step)
        if taken is None:
            return None
        assert batch.partition_id is not None
        old: dict[str, torch.Tensor] = {}
        put_again: list[Session] = []
        for place, item in enumerate(taken.items):
            new = put(
                item.value,
                batch.partition_id,
                group=f"again{step}x{place}",
                number=0,
                replayed={"step": item.step, "member": False},
            )
            old |= dict(zip(new.keys, item.value.old, strict=True))
            put_again.append(new)
        self._counts["replay/again"] += len(put_again)
        empty = KVBatchMeta(partition_id=batch.partition_id, extra_info=batch.extra_info)
        return Replayed(joined(empty, put_again), old, taken.baseline, taken.weight)

    def take_told(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """This step's counts by the metric's name, and the episodes that gave way; both begin anew."""
        told: dict[str, float] = {}
        if self._store is not None:
            told["replay/injected"] = float(self._counts["replay/injected"])
            told["replay/stored"] = float(len(self._store))
            if self._store.how.own_columns:
                told["replay/left_out"] = float(self._counts["replay/left_out"])
        if self._spear is not None:
            told["replay/again"] = float(self._counts["replay/again"])
            told["replay/stored"] = float(len(self._spear))
            told["replay/baseline"] = self._spear.baseline
        for part in (self._starts, self._improvements):
            told |= {} if part is None else part.take_told()
        if self._history is not None and self._counts["groups"]:
            told["groups/size"] = self._counts["asked"] / self._counts["groups"]
        replaced, self.replaced = self.replaced, []
        self._counts.clear()
        return told, replaced

    def save(self, folder: Path) -> None:
        """Write everything into a checkpoint's folder.

        Raises:
            OSError: it could not be written.
        """
        if not self._idle:
            torch.save(
                {
                    "store": None if self._store is None else self._store.state(),
                    "spear": None if self._spear is None else self._spear.state(),
                    "history": None if self._history is None else self._history.state(),
                    "starts": None if self._starts is None else self._starts.state(),
                    "improve": None if self._improvements is None else self._improvements.state(),
                },
                folder / FILE,
            )

    def load(self, folder: Path) -> None:
        """What :meth:`save` wrote; what the checkpoint has none of begins anew."""
        if self._idle or not (folder / FILE).is_file():
            return
        # It holds plain data beside tensors, as verl's data.pt beside it does.
        state = torch.load(folder / FILE, weights_only=False)
        if self._store is not None and state["store"] is not None:
            self._store.load(state["store"])
        if self._spear is not None and state["spear"] is not None:
            self._spear.load(state["spear"])
        if self._history is not None and state["history"] is not None:
            self._history = TaskHistory.load(state["history"])
        if self._starts is not None and state.get("starts") is not None:
            self._starts.load(state["starts"])
        if self._improvements is not None and state.get("improve") is not None:
            self._improvements.load(state["improve"])


def _succeeded(session: Session) -> bool:
    return bool(session.summary["success"])


def _rollout(session: Session) -> Rollout:
    newest = session.versions[-1]
    return Rollout(session.name, session.group, float(_succeeded(session)), newest, session.number)


def _item(session: Session, stored: Stored, step: int, reward: float, **more: Any) -> Item[Stored]:
    return Item(stored, session.task, reward, step, version=session.versions[-1], **more)
