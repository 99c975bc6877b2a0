"""Population based training: who copies whom, what travels, and that the log tells all of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.algorithms.pbt import Event, Hyper, replay
from agentrl.cli.tune import prepared
from agentrl.errors import ConfigError, DataError, InfrastructureError
from agentrl.train import trials
from agentrl.train.population import FAILED, Population, Segment, copy_state, latest, set_learning_rate

RATE = "algorithm.learning_rate"
SPACE = {RATE: Hyper(1e-6, 1e-3), "algorithm.group_size": Hyper(2, 8, whole=True)}


class Runs:
    """Trains nothing: a member's score is its learning rate, its weights are its own number."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = failing
        self.commands: list[list[str]] = []

    def __call__(self, segments: Sequence[Segment], number: int) -> list[bool]:
        for segment in segments:
            self.commands.append(segment.command())
            words = dict(word.partition("=")[::2] for word in segment.words)
            run = segment.run()
            path = Path(segment.folder) / "run" if run is None else run.path
            step = path / "checkpoints" / f"global_step_{segment.steps}"
            (step / "actor").mkdir(parents=True)
            before = sorted(path.glob("checkpoints/*/weights"), key=lambda each: int(each.parent.name[12:]))
            (step / "weights").write_text(before[-1].read_text() if before else str(segment.member))
            (path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(segment.steps))
            (path / "config.yaml").write_text("env: env")
            (path / "summary.json").write_text(json.dumps({"success_after": 1000 * float(words[RATE])}))
        return [segment.member not in self.failing for segment in segments]


def population(folder: Path, **how: Any) -> Population:
    return Population(folder, "env", ["mode=sync"], SPACE, seed=3, **{"every": 5, "steps": 15, **how})


def weights(made: Population, member: int) -> str:
    run = made.segment(member, 0).run()
    assert run is not None
    path = latest(run)
    assert path is not None
    return (path / "weights").read_text()


def test_the_worst_takes_over_weights_and_hypers_and_the_log_tells_all(tmp_path: Path) -> None:
    """Of four members one gives way each time: max(1, floor(.2 * 4))."""
    made, runs = population(tmp_path, size=4), Runs()
    start = [dict(own) for own in made.hypers]
    assert all(1e-6 <= own[RATE] <= 1e-3 and own["algorithm.group_size"] % 1 == 0 for own in start)
    heard: list[str] = []
    made.train(runs, heard.append)
    assert [event.step for event in made.events] == [5, 10]
    assert heard[0] == "generation 1 of 3: 4 members to step 5" and heard[1].startswith("held-out success: ")
    assert heard[2].startswith(f"member {made.events[0].member} copies member {made.events[0].donor}: ")
    first = made.events[0]
    rates = [own[RATE] for own in start]
    assert (first.member, first.donor) == (rates.index(min(rates)), rates.index(max(rates)))
    assert first.new[RATE] in {min(1e-3, max(rates) * factor) for factor in (0.8, 1.2)}
    assert weights(made, first.member) == str(first.donor)
    lines = [json.loads(line) for line in (tmp_path / "lineage.jsonl").read_text().splitlines()]
    told = [Event(**line) for line in lines if "donor" in line]
    schedules = replay(lines[0]["start"], told)
    assert [own[-1][1] for own in schedules] == made.hypers
    assert [line["step"] for line in lines if "scores" in line] == [5, 10, 15]
    untouched = set(range(4)) - {event.member for event in made.events}
    assert untouched and all(made.hypers[member] == start[member] for member in untouched)


def test_a_member_is_begun_once_and_then_gone_on_with(tmp_path: Path) -> None:
    made, runs = population(tmp_path, size=2), Runs()
    made.train(runs)
    assert [command[-3:] for command in runs.commands[::2]] == [
        ["steps=5", f"runs={tmp_path}/member-0", "--plain"],
        ["steps=10", f"resume={tmp_path}/member-0/run", "--plain"],
        ["steps=15", f"resume={tmp_path}/member-0/run", "--plain"],
    ]
    assert {"mode=sync", "seed=3"} <= set(runs.commands[0]) and "seed=4" in runs.commands[1]
    sizes = [word for word in runs.commands[0] if word.startswith("algorithm.group_size=")]
    assert sizes[0].partition("=")[2].isdecimal()


def test_a_member_that_fails_is_the_worst_and_if_all_do_it_ends(tmp_path: Path) -> None:
    made = population(tmp_path / "one", size=3)
    best = max(range(3), key=lambda member: made.hypers[member][RATE])
    made.train(Runs(failing=[best]))
    assert all(event.member == best for event in made.events) and made.scores[best] == FAILED
    with pytest.raises(InfrastructureError, match="Every member failed"):
        population(tmp_path / "all", size=2).train(Runs(failing=[0, 1]))


def test_a_member_that_failed_is_copied_by_nobody(tmp_path: Path) -> None:
    """Half of four would give way to the other half, of which one failed too."""
    made = population(tmp_path, size=4, quantile=0.5)
    best = max(range(4), key=lambda member: made.hypers[member][RATE])
    made.train(Runs(failing=[member for member in range(4) if member != best]))
    assert len(made.events) == 4 and {event.donor for event in made.events} == {best}


def test_a_member_without_a_run_takes_over_the_settings_alone(tmp_path: Path) -> None:
    donor = Segment(0, str(tmp_path / "0"), "math", (), 5, 60.0)
    member = Segment(1, str(tmp_path / "1"), "math", (), 5, 60.0)
    with pytest.raises(DataError, match="member 0, which has no checkpoint"):
        copy_state(donor, member)
    run = tmp_path / "0" / "run"
    (run / "checkpoints" / "global_step_5").mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("5")
    copy_state(donor, member)
    assert not (tmp_path / "1").exists()


def test_a_checkpoint_is_whole_at_its_new_place(tmp_path: Path) -> None:
    made = population(tmp_path, size=2)
    Runs()([made.segment(0, 10), made.segment(1, 5)], 0)
    copy_state(made.segment(0, 10), made.segment(1, 10))
    folder = tmp_path / "member-1" / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "global_step_10",
        "latest_checkpointed_iteration.txt",
    ]
    assert weights(made, 1) == "0" == weights(made, 0)


def test_a_checkpoints_learning_rate_is_the_members(tmp_path: Path) -> None:
    """verl restores optimizer and schedule from the checkpoint: a setting alone would change nothing."""
    weight = torch.nn.Parameter(torch.ones(1))

    def made(rate: float) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = torch.optim.AdamW([weight], lr=rate)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))

    optimizer, schedule = made(1e-3)
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
    torch.save(optimizer.state_dict(), tmp_path / "optim_world_size_1_rank_0.pt")
    extra = {"lr_scheduler": schedule.state_dict(), "rng": None}
    torch.save(extra, tmp_path / "extra_state_world_size_1_rank_0.pt")
    set_learning_rate(tmp_path, 1e-5)
    resumed, its_schedule = made(1e-3)
    resumed.load_state_dict(torch.load(tmp_path / "optim_world_size_1_rank_0.pt", weights_only=False))
    state = torch.load(tmp_path / "extra_state_world_size_1_rank_0.pt", weights_only=False)
    its_schedule.load_state_dict(state["lr_scheduler"])
    assert its_schedule.get_last_lr() == pytest.approx([0.75e-5])
    resumed.step()
    its_schedule.step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_a_training_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def segment(seconds: float, code: str) -> Segment:
        script = tmp_path / "script.py"
        script.write_text(code)
        monkeypatch.setattr(Segment, "command", lambda self: [])
        return Segment(0, str(tmp_path), "env", (), 1, seconds)

    real: Any = subprocess.Popen

    def started(words: list[str], **how: Any) -> Any:
        return real([words[0], str(tmp_path / "script.py")], **how)

    monkeypatch.setattr(subprocess, "Popen", started)
    assert trials.train_segment(segment(60.0, "import os; print(os.getcwd())"), str(tmp_path))
    assert not trials.train_segment(segment(60.0, "raise SystemExit(1)"), str(tmp_path))
    assert not trials.train_segment(segment(0.5, "import time\ntime.sleep(300)"), str(tmp_path))
    assert str(tmp_path) in (tmp_path / "output.txt").read_text()


def test_words_are_the_populations_or_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from agentrl import Env\n\nclass Mine(Env):\n    pass\n")
    space = f"space.{RATE}=[1e-6, 1e-3]"
    words = ["population=3", "every=2", "steps=6", space, "space.algorithm.group_size=[2, 8]", "mode=sync"]
    made, at_once = prepared("./mine.py", words)
    assert (made.size, made.every, made.steps, at_once) == (3, 2, 6, 1)
    assert made.space == SPACE and list(made.words) == ["mode=sync"]
    for wrong, said in [
        ([], "Say what is tuned"),
        ([space, "population=1"], "population=1"),
        ([f"space.{RATE}=[1, 1]"], "two bounds"),
        ([f"space.{RATE}s=[1e-6, 1e-3]"], "learning_rate"),
        (["space.algorithm.group_size=[0, 8]"], "group_size"),
    ]:
        with pytest.raises(ConfigError, match=said):
            prepared("./mine.py", wrong)
