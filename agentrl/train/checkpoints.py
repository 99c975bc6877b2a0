"""Checkpoints that are whole or absent, whenever the run is killed.

verl writes a checkpoint in many files and then names it in one more, which a kill may leave empty. Here a
checkpoint counts only with its mark, which is made in one step after everything else is on disk.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

MARK = "complete.json"
_TRACKER = "latest_checkpointed_iteration.txt"


def seal(folder: Path, step: int) -> None:
    """Declare the checkpoint of a step complete.

    Args:
        folder: of all checkpoints.
        step: which one.

    Raises:
        OSError: it could not be written.
    """
    path = folder / f"global_step_{step}"
    for file in [file for file in path.rglob("*") if file.is_file()]:
        _flush(file)
    _replace(path / MARK, json.dumps({"step": step}))
    _replace(folder / _TRACKER, str(step))


def clear_unsealed(folder: Path) -> int | None:
    """Remove what a killed save left, and have verl resume from the newest whole checkpoint.

    Returns:
        Its step, or ``None`` where there is none.
    """
    if not folder.is_dir():  # nothing was saved, or nothing can be, which the first save tells
        return None
    tracker = folder / _TRACKER
    named = tracker.read_text().strip() if tracker.is_file() else ""
    whole: list[int] = []
    for path in folder.glob("global_step_*"):
        step = path.name.rpartition("_")[2]
        if (path / MARK).is_file() or step == named:  # verl names one when its last file is written
            whole.append(int(step))
        else:
            shutil.rmtree(path, ignore_errors=True)
    if not whole:
        tracker.unlink(missing_ok=True)
        return None
    _replace(tracker, str(max(whole)))
    return max(whole)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, of those that are whole."""
    steps = sorted(int(path.parent.name.rpartition("_")[2]) for path in folder.glob(f"global_step_*/{MARK}"))
    for step in steps[:-keep]:
        path = folder / f"global_step_{step}"
        (path / MARK).unlink(missing_ok=True)  # first, so that a kill leaves nothing that looks whole
        shutil.rmtree(path, ignore_errors=True)


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Have the system write a file or folder to its disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
