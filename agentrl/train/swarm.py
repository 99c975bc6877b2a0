"""A run's part in a swarm: what it shares, and which of the others' groups it trains on (SAPO)."""

from __future__ import annotations

import json
import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError
from tensordict import NonTensorStack, TensorDict

from agentrl.algorithms.swarm import chosen, external_groups, informative
from agentrl.errors import DataError, InfrastructureError
from agentrl.train.exchange import Exchange
from agentrl.train.experience import ASKED, PLAYED
from agentrl.train.packets import MOST_BYTES, Packet, read_packet
from agentrl.train.replay import SwarmReplay
from agentrl.train.stored import Session

logger = logging.getLogger(__name__)

FILE = "swarm.json"
"""In a checkpoint's folder."""

SAID, SOURCE = "said", "source"
"""Columns of a prompt whose episodes other nodes played: what was said in each, as JSON, and by whom."""


class Swarm:
    """What was received and not used yet, and counts of what became of everything.

    Args:
        how: local and external groups, and limits.
        exchange: where packets are shared.
        node: this run's name.
        env: the environment's name.
        tasks: by id, the tasks this run knows, as ``extra_info`` holds them.
        turns: the most turns of an episode.
        seed: of the draws.
    """

    def __init__(
        self,
        how: SwarmReplay,
        exchange: Exchange,
        *,
        node: str,
        env: str,
        tasks: Mapping[str, str],
        turns: int,
        seed: int = 0,
    ) -> None:
        self._how, self._exchange, self._seed = how, exchange, seed
        self._node, self._env, self._tasks, self._turns = node, env, tasks, turns
        self._waiting: OrderedDict[str, tuple[int, Packet]] = OrderedDict()
        self._received = 0
        self.counts: Counter[str] = Counter()
        self.problem: str | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def receive(self, step: int) -> None:
        """Take in what others shared. A place that cannot be reached is a warning: the run goes on alone."""
        self.problem = None
        try:
            found = self._exchange.take()
        except InfrastructureError as problem:
            self.problem = str(problem)
            return
        self.counts["swarm/refused"] += found.oversized
        for data in found.packets:
            try:
                packet = read_packet(data)
                self._check(packet)
            except DataError:
                self.counts["swarm/refused"] += 1
                continue
            if packet.node == self._node:
                continue
            self._received += 1
            self._waiting[f"{self._received}"] = (step, packet)
        for name in [name for name, (since, _) in self._waiting.items() if step - since > self._how.age]:
            del self._waiting[name]
        while len(self._waiting) > self._how.capacity:
            self._waiting.popitem(last=False)

    def _check(self, packet: Packet) -> None:
        """Refuse what this run cannot judge.

        Raises:
            DataError: it is of another environment, or of a task that this run does not know, or longer
                than an episode may be.
        """
        if packet.env != self._env:
            raise DataError(f"a packet of environment {packet.env!r}")
        task = self._tasks.get(packet.task)
        if task is None or json.loads(task)["prompt"] != packet.prompt:
            raise DataError(f"task {packet.task!r} is not known here")
        if any(len(completion.messages) > self._turns for completion in packet.completions):
            raise DataError(f"an episode has more than {self._turns} turns")

    def mix(self, prompts: TensorDict, step: int, group_size: int) -> TensorDict:
        """Put other nodes' groups in the place of some of a step's prompts.

        Args:
            prompts: of the step.
            step: of this run.
            group_size: episodes of a group of one's own.
        """
        rewards = {
            name: [completion.reward for completion in packet.completions]
            for name, (_, packet) in self._waiting.items()
        }
        most = external_groups(len(prompts), self._how.local, self._how.external)
        names = chosen(rewards, most, Random(f"{self._seed}-{step}-swarm"))
        own = len(prompts) - len(names)
        infos: list[Any] = [getattr(info, "data", info) for info in prompts["extra_info"]][:own]
        said, sources = [""] * own, [""] * own
        sizes = [group_size] * own
        for name in names:
            _, packet = self._waiting.pop(name)
            infos.append({"task": self._tasks[packet.task], "split": "train"})
            said.append(json.dumps(packet.dialogues()))
            sources.append(packet.node)
            sizes.append(len(packet.completions))
        prompts["extra_info"] = NonTensorStack(*infos)
        columns: dict[str, list[Any]] = {SAID: said, SOURCE: sources, PLAYED: sizes, ASKED: sizes}
        for column, values in columns.items():
            prompts[column] = NonTensorStack(*values)
        self.counts["swarm/taken"] += len(names)
        self.counts["swarm/episodes"] += sum(sizes[own:])
        return prompts

    def dropped(self, played: Sequence[Session]) -> list[str]:
        """Keys of other nodes' groups that, judged here, teach nothing; counts the others."""
        groups: dict[str, list[Session]] = defaultdict(list)
        for session in played:
            if is_external(session):
                groups[session.group].append(session)
        gone: list[str] = []
        alone = len(groups) < len({session.group for session in played})
        for members in groups.values():
            self.counts["swarm/judged"] += len(members)
            if alone and not informative([float(member.summary["reward"]) for member in members]):
                gone += [key for member in members for key in member.keys]
                self.counts["swarm/dropped"] += 1
            else:
                self.counts["swarm/groups"] += 1
        return gone

    def share(self, played: Sequence[Session], step: int) -> None:
        """Share the step's own groups, all of them, as text."""
        groups: dict[str, list[Session]] = defaultdict(list)
        for session in played:
            if session.summary.get("replayed") is None and session.summary.get("said"):
                groups[session.group].append(session)
        wanted = [members for members in groups.values() if len(members) > 1]
        packets = [packet for members in wanted if (packet := self._packet(members, step)) is not None]
        self.counts["swarm/unfit"] += len(wanted) - len(packets)
        try:
            self._exchange.share(packets, step)
        except InfrastructureError as problem:
            self.problem = str(problem)
            return
        self.counts["swarm/shared"] += len(packets)

    def _packet(self, members: Sequence[Session], step: int) -> bytes | None:
        """What travels; ``None`` of a group that is too large for that, or says what nobody may send."""
        completions = [
            {"messages": member.summary["said"], "reward": float(member.summary["reward"])}
            for member in members[:64]
        ]
        task = members[0].task
        told = {
            "node": self._node, "env": self._env, "step": step, "task": task,
            "prompt": json.loads(self._tasks[task])["prompt"], "completions": completions,
        }  # fmt: skip
        try:
            packet = Packet.model_validate(told).to_json()
        except ValidationError as problem:
            logger.info("a group of task %s is not shared: %s", task, problem)
            return None
        return packet if len(packet) <= MOST_BYTES else None

    def take_told(self) -> dict[str, float]:
        """This step's counts by the metric's name; they begin anew."""
        counts, self.counts = self.counts, Counter()
        void = counts.pop("swarm/episodes", 0) - counts.pop("swarm/judged", 0)
        names = ("groups", "taken", "dropped", "refused", "shared", "unfit")
        told = {f"swarm/{name}": float(counts[f"swarm/{name}"]) for name in names}
        return told | {"swarm/void": float(max(0, void)), "swarm/waiting": float(len(self))}

    def save(self, folder: Path) -> None:
        """Write what waits, and what was read, into a checkpoint's folder.

        Raises:
            OSError: it could not be written.
        """
        waiting = [[since, packet.to_json().decode()] for since, packet in self._waiting.values()]
        state = {"waiting": waiting, "exchange": self._exchange.state()}
        (folder / FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """What :meth:`save` wrote; a checkpoint that has none leaves everything as it is."""
        if not (folder / FILE).is_file():
            return
        state = json.loads((folder / FILE).read_text())
        self._exchange.load(state["exchange"])
        for since, text in state["waiting"]:
            self._received += 1
            self._waiting[f"{self._received}"] = (int(since), read_packet(text.encode()))


def is_external(session: Session) -> bool:
    """Whether another node's policy played an episode."""
    return "source" in (session.summary.get("replayed") or {})
