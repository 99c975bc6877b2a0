"""A checkpoint of the trainer becomes a model folder that loads and samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from agentrl.chat import Chat
from agentrl.errors import ConfigError, InfrastructureError, NotFound
from agentrl.store import RunFolder
from agentrl.train import tiny
from agentrl.train.export import checkpoint, export


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of the tiny model with checkpoints of steps 9 and 10 as verl's FSDP engine writes them."""
    run = RunFolder.create(tmp_path / "runs", "math", {"env": "math"})
    tokenizer = tiny.make_tokenizer()
    start = tmp_path / "start"
    tiny.save(tiny.make_model(tokenizer, seed=0), tokenizer, start)
    settings = {"actor_rollout_ref": {"model": {"path": str(start)}}}
    (run.path / "verl.yaml").write_text(yaml.safe_dump(settings))
    for step in (9, 10):
        actor = run.checkpoints / f"global_step_{step}" / "actor"
        (actor / "huggingface").mkdir(parents=True)
        model = tiny.make_model(tokenizer, seed=step)
        torch.save(model.state_dict(), actor / "model_world_size_1_rank_0.pt")
        (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(actor / "huggingface")
        tokenizer.save_pretrained(actor / "huggingface")
        (actor / "huggingface" / "processor_config.json").write_text('{"image_processor": {}}')
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("10")
    (run.checkpoints / "global_step_11").mkdir()  # begun, and cut off
    return run


def test_the_newest_checkpoint_becomes_a_model_folder(run: RunFolder, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out" / "model")
    tokenizer, model = tiny.load(out)
    expected = tiny.make_model(tokenizer, seed=10).to(torch.bfloat16)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name].to(torch.bfloat16), tensor), name
    chat = Chat.load(str(out))
    assert chat.name == "chatml-json" and "agentrl_chat.json" in chat.reason
    assert json.loads((out / "processor_config.json").read_text()) == {"image_processor": {}}
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_the_newest_complete_checkpoint_is_found(run: RunFolder) -> None:
    assert checkpoint(run).name == "global_step_10"
    assert checkpoint(run, step=9).name == "global_step_9"
    with pytest.raises(NotFound, match="no checkpoint of step 3; there are: 9, 10"):
        checkpoint(run, step=3)


def test_a_run_without_checkpoints_is_told_how_to_get_one(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "math", {"env": "math"})
    with pytest.raises(NotFound, match="checkpoint.every=N"):
        export(run, tmp_path / "model")


def test_a_folder_that_is_taken_is_not_overwritten(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not empty"):
        export(run, tmp_path)


def test_a_damaged_checkpoint_leaves_no_folder(run: RunFolder, tmp_path: Path) -> None:
    shard = run.checkpoints / "global_step_10" / "actor" / "model_world_size_1_rank_0.pt"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InfrastructureError, match="could not read the checkpoint"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
