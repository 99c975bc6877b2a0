"""A run's newest checkpoint as a Hugging Face folder that vLLM and transformers load."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from agentrl.chat.detect import CHAT_FILE
from agentrl.errors import InfrastructureError, NotFound
from agentrl.store import RunFolder
from agentrl.train.folders import building, check_free

MERGE_SECONDS = 3600


def export(run: RunFolder, out: Path, *, step: int | None = None) -> Path:
    """Write the policy of a run to the model folder ``out``.

    Args:
        run: holds checkpoints.
        out: must not exist, or be empty.
        step: which checkpoint; by default the newest.

    Raises:
        ConfigError: ``out`` is taken or cannot be written.
        NotFound: the run has no such checkpoint.
        InfrastructureError: the checkpoint cannot be merged.
    """
    return merge(checkpoint(run, step) / "actor", out, start=_start(run))


def checkpoint(run: RunFolder, step: int | None = None) -> Path:
    """The folder of a run's checkpoint: of ``step``, or the newest that is complete.

    Raises:
        NotFound: there is none.
    """
    found = {
        int(match[1]): path
        for path in run.checkpoints.glob("global_step_*")
        if (match := re.fullmatch(r"global_step_(\d+)", path.name)) and (path / "actor").is_dir()
    }
    if step is not None and step not in found:
        steps = ", ".join(map(str, sorted(found))) or "none"
        raise NotFound(f"Run {run.name} has no checkpoint of step {step}; there are: {steps}.")
    if not found:
        raise NotFound(
            f"Run {run.name} has no checkpoint in {run.checkpoints}. One is kept when a run ends or is "
            "interrupted, and every N steps with checkpoint.every=N."
        )
    return found[max(found) if step is None else step]


def merge(actor: Path, out: Path, *, start: Path | None = None) -> Path:
    """Merge the shards of an FSDP checkpoint into the model folder ``out``.

    Args:
        actor: ``.../global_step_N/actor``.
        start: the model that training began with, whose chat format is kept.

    Raises:
        ConfigError: ``out`` is taken or cannot be written.
        InfrastructureError: verl's merger failed.
    """
    check_free(out)
    with building(out) as folder:
        command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
        command += ["--local_dir", str(actor), "--target_dir", str(folder)]
        # The merger reads files only; a platform is named lest verl go looking for a GPU.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=MERGE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as problem:
            raise InfrastructureError(f"Merging {actor} took longer than {MERGE_SECONDS} s.") from problem
        if done.returncode or not any(folder.glob("*.safetensors")):
            lines = done.stderr.strip().splitlines() or ["it gave no reason"]
            raise InfrastructureError(
                f"verl's merger could not read the checkpoint {actor}: {lines[-1]}. If the disk was full "
                "when it was saved, export an earlier one."
            )
        # Where transformers lacks a library, the merger leaves out how images are processed.
        for file in (actor / "huggingface").iterdir():
            if file.is_file() and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
        if start is not None and (start / CHAT_FILE).is_file():
            shutil.copyfile(start / CHAT_FILE, folder / CHAT_FILE)
    return out


def _start(run: RunFolder) -> Path | None:
    """The folder of the model that the run began with, if it is still there."""
    from omegaconf import OmegaConf

    path = run.path / "verl.yaml"
    if not path.is_file():
        return None
    folder = Path(str(OmegaConf.select(OmegaConf.load(path), "actor_rollout_ref.model.path", default="")))
    return folder if folder.is_dir() else None
