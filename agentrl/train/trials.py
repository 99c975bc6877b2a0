"""Members of a population as trials of Ray Tune: each a training in a process group of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentrl.train.population import Play, Segment

SAVE_SECONDS = 120.0
"""How long a training that took too long gets to save and end."""

PR_SET_PDEATHSIG = 1


def train_segment(segment: Segment, place: str) -> bool:
    """Train a segment; whether it ended well. One that takes too long is told to end, and then killed.

    Args:
        segment: what is trained.
        place: the folder that its words are written from; Tune starts a trial in one of its own.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (Path(segment.folder) / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentrl.cli", *segment.command()],
            env=environment,
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        return process.wait(segment.seconds) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SAVE_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _end_with_parent() -> None:
    """Be told to end, as by Ctrl-C, when the trial's process dies without a word."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def on_tune(folder: Path, *, at_once: int) -> Play:
    """What plays generations on Ray Tune.

    Args:
        folder: of the population, for Tune's records.
        at_once: trials that run at the same time.
    """
    # Tune's own tables and records of progress say nothing of what a member did.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    from ray import tune

    place = str(Path.cwd())

    def play(segments: Sequence[Segment], number: int) -> Sequence[bool]:
        tuner = tune.Tuner(
            tune.with_resources(_trial, {"cpu": 1}),
            param_space={
                "segment": tune.grid_search([asdict(segment) for segment in segments]),
                "place": place,
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name=f"generation-{number}", storage_path=str((folder / "tune").resolve()), verbose=0
            ),
        )
        told = {
            result.metrics["member"]: result.metrics["good"] for result in tuner.fit() if not result.error
        }
        return [bool(told.get(segment.member, False)) for segment in segments]

    return play


def _trial(config: dict[str, Any]) -> dict[str, Any]:
    segment = Segment(**{**config["segment"], "words": tuple(config["segment"]["words"])})
    return {"member": segment.member, "good": train_segment(segment, config["place"])}
