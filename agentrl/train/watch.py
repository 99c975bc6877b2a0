"""Noticing that a process of the run died or is stuck, on whichever machine: verl would wait for ever."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorUnavailableError, RayActorError

from agentrl.train.failure import ProcessLost

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often it is looked at what is watched."""

LONGEST_SECONDS = 5.0
"""What the time between two looks counts at most: while this process was held up, nobody else was silent."""

WHY = "Its log is in the run's log; was it out of memory?"

ENDED = ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED")
"""Ray's reasons for the death of an actor that was meant."""


class Watched(Protocol):
    """What the run cannot go on without."""

    def look(self, seconds: float) -> str | None:
        """What is wrong, for a person to read; ``seconds`` passed since the last look."""

    def release(self) -> None:
        """Let those go who wait for it in vain."""


class Watch:
    """Looks after what the run cannot go on without, in a thread.

    Args:
        watched: what that is.
        tell: given what is wrong, once.
        give_up: called where the trainer has not ended ``seconds`` after that: it hangs in a call.
        seconds: how long it may take to keep a checkpoint.
    """

    def __init__(
        self,
        watched: Sequence[Watched],
        tell: Callable[[str], object],
        give_up: Callable[[], object],
        seconds: float = 60.0,
    ) -> None:
        self._watched, self._tell, self._give_up, self._seconds = list(watched), tell, give_up, seconds
        self._ended, self._lost = threading.Event(), threading.Event()
        self._problem = ""

    def __enter__(self) -> Watch:
        threading.Thread(target=self._run, name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def add(self, one: Watched) -> None:
        """Look after one more."""
        self._watched.append(one)

    def settle(self, seconds: float) -> None:
        """Wait for the reason of an error of the trainer's, which may come after what follows from it.

        Raises:
            ProcessLost: something was lost.
        """
        if self._lost.wait(seconds):
            raise ProcessLost(self._problem)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            passed, last = min(now - last, LONGEST_SECONDS), now
            for one in tuple(self._watched):
                problem = self._look(one, passed)
                if problem is not None:
                    self._end(one, problem)
                    return

    def _look(self, one: Watched, seconds: float) -> str | None:
        try:
            return one.look(seconds)
        except Exception:  # Ray's head does not answer; if that lasts, Ray ends this process
            logger.exception("could not look after the run's processes")
            return None

    def _end(self, one: Watched, problem: str) -> None:
        self._problem = problem
        try:
            self._tell(problem)
            self._lost.set()
            one.release()
        finally:
            if not self._ended.wait(self._seconds):
                self._give_up()


class Actors:
    """The processes that Ray started for the run, on all machines."""

    def __init__(self) -> None:
        self._job = ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id()))
        self._alive: set[str] = set()

    def look(self, seconds: float) -> str | None:
        """Those that died since the last look, and their machine, if that is lost."""
        # What Ray offers publicly asks its dashboard, which need not run.
        table: dict[str, dict[str, Any]] = ray._private.state.actors(job_id=self._job)
        dead = [actor for name, actor in table.items() if name in self._alive and _died(actor)]
        self._alive = {name for name, actor in table.items() if actor["State"] == "ALIVE"}
        if not dead:
            return None
        names = ", ".join(sorted({actor["ActorClassName"].rpartition(".")[2] for actor in dead}))
        machines = {
            node["NodeManagerAddress"]
            for node in ray.nodes()
            if not node["Alive"] and node["NodeID"] in {actor["Address"]["NodeID"] for actor in dead}
        }
        if machines:
            return f"The run lost a machine, {', '.join(sorted(machines))}, and with it {names}."
        return f"a worker process died: {names}. {WHY}"

    def release(self) -> None:
        """Ray tells those who wait for them."""


def _died(actor: dict[str, Any]) -> bool:
    """Whether it is dead without having been told to end."""
    reason = actor["DeathCause"].actor_died_error_context.reason
    return actor["State"] == "DEAD" and ActorDiedErrorContext.Reason.Name(reason) not in ENDED


class Answering(ABC):
    """An actor that is asked for a sign of life again and again.

    Args:
        actor: which.
        seconds: silence after which it counts as lost.
    """

    what = ""
    """For messages."""
    setting = ""
    """Where the seconds are set."""

    def __init__(self, actor: Any, seconds: float) -> None:
        self._actor, self._limit = actor, seconds
        self._asked: Any = None
        self._silent = 0.0

    @abstractmethod
    def ask(self) -> Any:
        """Ask; returns Ray's reference to the answer."""

    def died(self) -> str | None:
        """What to say where Ray says that it died; ``None``: that is told of all of the run's actors."""
        return None

    def look(self, seconds: float) -> str | None:
        """Whether it failed, or has been silent for too long."""
        self._silent += seconds
        if self._asked is None:
            self._asked = self.ask()
        answered, _ = ray.wait([self._asked], timeout=0)
        if answered:
            problem = self._answer(self._asked)
            self._asked = None
            return problem
        return self._too_long()

    def _answer(self, asked: Any) -> str | None:
        try:
            ray.get(asked)
        except ActorUnavailableError:  # it may be within reach again soon
            return self._too_long()
        except RayActorError:
            return self.died()
        except Exception as problem:  # whatever ended what is behind it
            cause = getattr(problem, "cause", None) or problem
            return f"{self.what} failed: {type(cause).__name__}. {WHY}"
        self._silent = 0.0
        return None

    def _too_long(self) -> str | None:
        if self._silent <= self._limit:
            return None
        return (
            f"{self.what} has not answered for {self._limit:g} s ({self.setting}): it is stuck, or its "
            "machine cannot be reached."
        )

    def release(self) -> None:
        """End it: who waits for what is stuck is told then."""
        ray.kill(self._actor)


class Engine(Answering):
    """An inference engine, by verl's server.

    Each question goes all the way: to its server, to the process that schedules, and to its workers.
    """

    what, setting = "An inference engine", "hardware.engine_seconds"

    def ask(self) -> Any:
        """Ask all of them."""
        return self._actor.collective_rpc.remote("check_health")

    def died(self) -> str:
        """Its server did."""
        return f"An inference engine's server died. {WHY}"


class Rollout(Answering):
    """A rollout worker: what never lets its other episodes go on has it stuck."""

    what, setting = "A rollout worker", "hardware.worker_seconds"

    def ask(self) -> Any:
        """Ask it between the steps of its episodes."""
        return self._actor.alive.remote()
