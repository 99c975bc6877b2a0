"""Checkpoints are whole or absent: whatever a kill left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.train.checkpoints import MARK, clear_unsealed, prune, seal

TRACKER = "latest_checkpointed_iteration.txt"


def write(folder: Path, step: int) -> Path:
    """What verl writes of a checkpoint, before it names it."""
    path = folder / f"global_step_{step}"
    (path / "actor").mkdir(parents=True)
    (path / "actor" / "model.pt").write_text("weights")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("global_step_*"))


def test_only_a_sealed_checkpoint_is_resumed_from(tmp_path: Path) -> None:
    write(tmp_path, 2)
    seal(tmp_path, 2)
    write(tmp_path, 3)  # killed before the mark
    assert clear_unsealed(tmp_path) == 2
    assert names(tmp_path) == ["global_step_2"]
    assert (tmp_path / TRACKER).read_text() == "2"


@pytest.mark.parametrize("left", ["", "3"], ids=["emptied", "ahead of its files"])
def test_a_kill_while_verl_names_its_newest_checkpoint_does_no_harm(tmp_path: Path, left: str) -> None:
    write(tmp_path, 2)
    seal(tmp_path, 2)
    (tmp_path / TRACKER).write_text(left)
    assert clear_unsealed(tmp_path) == 2
    assert (tmp_path / TRACKER).read_text() == "2"


def test_a_checkpoint_that_verl_named_itself_counts(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / TRACKER).write_text("5")
    assert clear_unsealed(tmp_path) == 5
    assert names(tmp_path) == ["global_step_5"]


def test_without_a_whole_checkpoint_the_run_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / TRACKER).write_text("")
    assert clear_unsealed(tmp_path) is None
    assert names(tmp_path) == [] and not (tmp_path / TRACKER).exists()
    assert clear_unsealed(tmp_path / "absent") is None


def test_older_checkpoints_go_only_when_newer_ones_are_whole(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path, step)
        seal(tmp_path, step)
    write(tmp_path, 11)
    prune(tmp_path, 2)
    assert names(tmp_path) == ["global_step_10", "global_step_11", "global_step_2"]


def test_a_mark_is_never_half_written(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    seal(tmp_path, 4)
    assert json.loads((path / MARK).read_text()) == {"step": 4}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_in_the_folders_place_is_left_to_the_first_save(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    assert clear_unsealed(tmp_path / "checkpoints") is None
    assert clear_unsealed(tmp_path / "none") is None
