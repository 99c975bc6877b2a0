"""What keeps the runs of one machine apart."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from typing import Any

RUN_VARIABLE = "AGENTRL_RUN"
"""Set in every process of a run, to the run folder; what carries it is swept at the end."""

_MARK = "_agentrl_apart"


def own_sockets() -> None:
    """Give a run's weight updates a socket that no other run has.

    verl names it after Ray's job, in the machine's ``/tmp`` (verl#6233), and in a Ray that a run starts for
    itself that is always the first: where updates of two runs met, an engine would get the other's weights,
    or none. verl has no setting for it, so verl alone is told a job's name that goes on with one of the run.
    """
    run = os.environ.get(RUN_VARIABLE)
    if run is None:
        return
    from ray.runtime_context import RuntimeContext

    original = RuntimeContext.get_job_id
    if hasattr(original, _MARK):
        return
    own = hashlib.sha256(run.encode()).hexdigest()[:12]

    @functools.wraps(original)
    def get_job_id(self: Any) -> str:
        job, asking = original(self), sys._getframe(1).f_globals.get("__name__", "")
        return f"{job}-{own}" if asking.startswith("verl.") else job

    setattr(get_job_id, _MARK, True)
    RuntimeContext.get_job_id = get_job_id
