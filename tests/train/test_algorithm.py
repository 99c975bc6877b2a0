"""From an algorithm to verl: what carries it out, the columns it adds to a step's rows, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from agentrl.algorithms import load, names
from agentrl.algorithms.spec import PARTS
from agentrl.config import Algorithm as Settings
from agentrl.config import load_config
from agentrl.errors import ConfigError, InfrastructureError
from agentrl.train import queue
from agentrl.train.algorithm import plan, verl_options
from agentrl.train.loss import agent_loss
from agentrl.train.resolve import check, resolve
from agentrl.train.sampler import MOST_BATCHES, WatchfulReplayBuffer
from agentrl.train.trainer import SyncTrainer


def words(name: str) -> list[str]:
    """What chooses an algorithm."""
    return [f"algorithm.name={name}"]


PLANS = {name: plan(load_config("env", words(name)).algorithm) for name in names()}
# A critic of utterances reads what these rows do not have: test_utterance.py.
OURS = [name for name, found in PLANS.items() if found.loss is None and found.utterance is None]


def test_a_runs_settings_have_every_part() -> None:
    assert set(PARTS) <= set(Settings.model_fields)


@pytest.mark.parametrize("name", ["dapo", "dr_grpo", "gspo", "router_r1"])
def test_verl_accepts_what_an_algorithm_sets(name: str) -> None:
    """One of each way to be carried out; grpo and ppo are elsewhere."""
    check(resolve(load_config("env", words(name)), model="/models/policy", run="/runs/one"))


@pytest.mark.parametrize("name", names())
def test_every_preset_can_be_carried_out(name: str) -> None:
    options = verl_options(plan(load_config("env", words(name)).algorithm), horizon=16)
    assert options["algorithm.adv_estimator"] in ("grpo", "gae")


def test_verls_own_parts_are_used_where_they_are_the_same() -> None:
    def carried(*settings: str) -> tuple[str | None, str | None]:
        found = plan(load_config("env", list(settings)).algorithm)
        loss = found.loss or {}
        return found.estimator, loss.get("actor_rollout_ref.actor.policy_loss.loss_mode")

    assert carried("algorithm.name=grpo") == ("grpo", "vanilla")
    assert carried("algorithm.name=dapo") == ("grpo", "vanilla")
    assert carried("algorithm.name=dr_grpo") == ("grpo", "vanilla")
    assert carried("algorithm.name=gspo") == ("grpo", "gspo")
    assert carried("algorithm.name=ppo") == ("gae", "vanilla")
    assert carried("algorithm.name=grpo", "algorithm.advantage.ddof=0") == (None, "vanilla")
    assert carried("algorithm.name=grpo", "algorithm.kl.coefficient={start: 1, end: 0, until: 5}") == (
        None,
        None,
    )
    for name in ("rloo", "loop", "areal", "llamarl"):
        assert carried(f"algorithm.name={name}") == (None, None)


def test_parts_and_what_is_short_for_them_reach_verl() -> None:
    config = load_config("env", ["algorithm.name=dr_grpo", "algorithm.trust.clip_low=0.1",
                                 "algorithm.clip_high=0.3",
                                 "algorithm.kl_coefficient=0.01", "algorithm.kl.form=k1"])  # fmt: skip
    options = verl_options(plan(config.algorithm), horizon=256)
    actor = {key.rpartition(".")[2]: value for key, value in options.items() if ".actor." in key}
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"]) == (0.1, 0.3)
    assert (actor["use_kl_loss"], actor["kl_loss_coef"], actor["kl_loss_type"]) == (True, 0.01, "kl")
    assert (actor["loss_agg_mode"], actor["loss_scale_factor"]) == ("seq-mean-token-sum-norm", 256)


def test_episodes_are_compared_in_groups_only_where_an_algorithm_compares_them() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.group_size must be above 1"):
        plan(load_config("env", ["algorithm.group_size=1"]).algorithm)
    plan(load_config("env", ["algorithm.group_size=1", "algorithm.name=ppo"]).algorithm)


# The trainer's own path: a step's rows in a queue, advantages in it afterwards, the loss that a worker makes.

Rows = list[list[float]]
KEYS = ["task_0_0", "task_1_0", "task_2_0", "task_2_1", "pad_0_0", "pad_1_0"]
LENGTHS = [4, 3, 2, 2, 1, 1]
MASKS: Rows = [[1, 0, 1, 1], [1, 1, 1], [1, 1], [0, 1], [0], [0]]
REWARDS: Rows = [[0, 0, 0, 1.0], [0, 0, 0.0], [0, 0], [0, 0.25], [0], [0]]
TURNS: Rows = [
    [0, -1, 1, 1],
    [0, 0, 0],
    [0, 0],
    [-1, 1],
    [9] * 4,
    [9] * 4,
]  # verl's padding keeps a row's extra columns
SECONDS: Rows = [[1.0, 0, 3, 3], [1, 1, 1], [3, 3], [0, 2], [1] * 4, [1] * 4]


def nested(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.nested.as_nested_tensor(
        [torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged
    )


class FakeQueue:
    """TransferQueue's columns by key, in this process."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        noise = [rng.normal(-1, 0.3, n).tolist() for n in LENGTHS]
        self.columns: dict[str, dict[str, torch.Tensor]] = {}
        self.put(KEYS, {
            "response_mask": nested(MASKS, torch.int64), "rm_scores": nested(REWARDS),
            "turn_ids": nested(TURNS, torch.int64), "turn_seconds": nested(SECONDS),
            "turn_matches": nested([[1] * n for n in LENGTHS], torch.int64),
            "old_log_probs": nested(noise),
            "rollout_log_probs": nested([[x - 0.1 for x in row] for row in noise]),
            "values": nested([[0.5] * n for n in LENGTHS]),
            "entropy": nested([[0.1 * n] * n for n in LENGTHS]),
        })  # fmt: skip

    def put(self, keys: Sequence[str], fields: Any) -> None:
        for name in set(fields.keys()):
            self.columns.setdefault(name, {}).update(zip(keys, fields[name].unbind(), strict=True))

    def kv_batch_get(self, *, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> Any:
        """What there is of the fields, as TransferQueue does."""
        rows = {
            name: [self.columns[name][key] for key in keys] for name in select_fields if name in self.columns
        }
        fields = {name: torch.nested.as_nested_tensor(row, layout=torch.jagged) for name, row in rows.items()}
        if "uid" in select_fields:
            fields["uid"] = NonTensorStack(*[key.rsplit("_", 2)[0] for key in keys])
        return TensorDict(fields, batch_size=len(keys))

    def kv_batch_put(self, *, keys: Sequence[str], partition_id: str, fields: Any) -> KVBatchMeta:
        self.put(keys, fields)
        return batch()


def batch() -> KVBatchMeta:
    tags = [{"is_padding": key.startswith("pad")} for key in KEYS]
    return KVBatchMeta(partition_id="train", keys=list(KEYS), tags=tags)


class Workers:
    """Where a trainer's loss goes."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def set_loss_fn(self, loss: Any) -> None:
        self.given.append(loss)

    def update_actor(self, batch: Any) -> Any:
        return {"metrics": {"mfu": [0.0], "grad_norm": [1.0]}}


def trainer(monkeypatch: pytest.MonkeyPatch, fake: FakeQueue, *settings: str) -> SyncTrainer:
    """One whose rows are in the fake queue; verl's own parts of it are not made."""
    monkeypatch.setattr(queue, "tq", fake)
    monkeypatch.setattr(trainer_base, "tq", fake)
    config = load_config("env", [*settings, "algorithm.tasks_per_step=3", "algorithm.group_size=2",
                                 "rollout.max_trajectory_tokens=16"])  # fmt: skip
    made = object.__new__(SyncTrainer)
    made.prepare(config)
    options = {key.removeprefix("algorithm."): value for key, value in verl_options(made._plan, 16).items()
               if key.startswith("algorithm.")}  # fmt: skip
    made.config = OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": 3}, "rollout": {"n": 2}},
            "algorithm": options,
        }
    )
    made.global_steps, made.actor_rollout_wg = 1, Workers()
    return made


def step(
    monkeypatch: pytest.MonkeyPatch, *settings: str
) -> tuple[SyncTrainer, FakeQueue, dict[str, list[list[float]]]]:
    fake = FakeQueue()
    made = trainer(monkeypatch, fake, *settings)
    made._compute_advantage(batch(), {})
    columns = {name: [row.tolist() for row in rows.values()] for name, rows in fake.columns.items()}
    return made, fake, columns


def test_rows_of_an_episode_share_its_advantage_and_padding_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, columns = step(monkeypatch, "algorithm.name=rloo")
    a, b, c = 1 - 0.125, 0 - 0.625, 0.25 - 0.5
    assert columns["advantages"] == [[a, 0, a, a], [b] * 3, [c] * 2, [0, c], [0], [0]]
    assert columns["loss_shares"][0] == pytest.approx([1 / 4, 0, 1 / 4, 1 / 4])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
def test_verls_own_step_and_ours_write_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Ours is made to act by a second level without weight."""
    nothing = "{level: episode, baseline: none, weight: 0}"
    _, _, theirs = step(monkeypatch, f"algorithm.name={name}")
    _, _, ours = step(
        monkeypatch, f"algorithm.name={name}", f"algorithm.second_advantage={nothing}",
        "algorithm.correction.kind=tis",
    )  # fmt: skip
    assert "loss_shares" in ours and "loss_shares" not in theirs
    for mask, one, other in zip(MASKS, theirs["advantages"], ours["advantages"], strict=True):
        sampled = np.array(mask, bool)
        assert np.array(other)[sampled] == pytest.approx(np.array(one)[sampled], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        (["algorithm.name=areal"], [1 / 9] * 4),
        (["algorithm.name=webagent_r1", "algorithm.rollout=null"], [1 / 6, 1 / 9, 1 / 12, 1 / 6]),
        (["algorithm.name=loop", "algorithm.aggregation.kind=sum_norm"], [1 / 64] * 4),
    ],
)
def test_shares_are_of_the_whole_step(
    monkeypatch: pytest.MonkeyPatch, settings: list[str], shares: list[float]
) -> None:
    _, _, columns = step(monkeypatch, *settings)
    found = columns["loss_shares"]
    assert [found[0][0], found[1][0], found[2][0], found[3][1]] == pytest.approx(shares)
    assert not any(found[4] + found[5] + [found[0][1]])


def test_turns_of_one_index_are_compared_at_level_step(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, columns = step(
        monkeypatch, "algorithm.name=rloo", "algorithm.advantage.level=step", "algorithm.advantage.gamma=0.5"
    )
    # first turns return .5, 0, .125; second turns 1 and .25
    assert columns["advantages"][0] == pytest.approx([0.5 - 0.0625, 0, 0.75, 0.75])
    assert columns["advantages"][2:4] == [[pytest.approx(0.125 - 0.25)] * 2, [0, pytest.approx(-0.75)]]


def test_durations_weigh_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, columns = step(
        monkeypatch,
        "algorithm.name=mle_duration",
        "algorithm.advantage.whiten=false",
    )
    # turns took 1, 3, 1, 3, 2: their mean is 2
    assert columns["loss_weights"] == [[0.5, 0, 1.5, 1.5], [0.5] * 3, [1.5] * 2, [0, 1], [0], [0]]
    assert columns["advantages"][0] == pytest.approx([0.5, 0, 0.5, 0.5])
    assert columns["returns"][0] == pytest.approx([1, 0, 1, 1])


def worker_rows(fake: FakeQueue) -> TensorDict:
    """The step's rows as a worker is given them, with prompts of one token."""
    data = fake.kv_batch_get(
        keys=KEYS,
        partition_id="train",
        select_fields=[n for n in fake.columns if n not in ("turn_ids", "turn_seconds", "turn_matches")],
    )
    data["prompts"] = nested([[0]] * len(KEYS), torch.int64)
    data["responses"] = nested([[0] * n for n in LENGTHS], torch.int64)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=9, global_batch_size=6)
    return data


ALL_COUNT = {"spear": ["algorithm.filters.truncated=keep"], "ui_s1": ["algorithm.filters.least_std=null"]}
"""What would leave out some of these few rows."""


@pytest.mark.parametrize("name", OURS)
def test_the_loss_of_a_step_and_its_gradient(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Through the worker's own function; tokens that no turn sampled, and padding rows, get no gradient."""
    made, fake, _ = step(monkeypatch, *words(name), *ALL_COUNT.get(name, []))
    fake.columns["ref_log_prob"] = dict(fake.columns["old_log_probs"])
    monkeypatch.setattr(PPOTrainer, "_update_actor", lambda self, batch, metrics: batch)
    made._update_actor(batch(), {})
    made._update_actor(batch(), {})
    [loss_fn] = made.actor_rollout_wg.given  # set once, for no coefficient changes
    flat = torch.randn(sum(n + 1 for n in LENGTHS), generator=torch.Generator().manual_seed(1)) * 0.2 - 1
    flat.requires_grad_()
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(
        flat, torch.tensor(np.cumsum([0, *[n + 1 for n in LENGTHS]])))}  # fmt: skip
    loss, metrics = loss_fn(model_output=output, data=worker_rows(fake))
    loss.backward()
    assert torch.isfinite(loss) and "actor/pg_loss" in metrics
    assert flat.grad is not None and flat.grad[-4:].abs().sum() == 0 and flat.grad.abs().sum() > 0
    assert float(flat.grad[1]) == 0  # the log-prob of the observation in the first row


def test_verls_micro_batches_sum_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split as the worker splits them, by length; the ratio of a turn needs the turns to come along."""
    made, fake, _ = step(monkeypatch, "algorithm.name=loop", "algorithm.ratio.level=turn")
    algorithm = made._plan.algorithm
    generator = torch.Generator().manual_seed(2)
    logprobs = [torch.randn(n + 1, generator=generator) * 0.2 - 1 for n in LENGTHS]

    def output(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        return {"log_probs": torch.nested.as_nested_tensor([logprobs[i] for i in rows], layout=torch.jagged)}

    data = worker_rows(fake)
    whole, _ = agent_loss(output(range(len(KEYS))), data, algorithm=algorithm)
    data["input_ids"] = nested([[0] * (n + 1) for n in LENGTHS], torch.int64)
    tu.assign_non_tensor(data, use_dynamic_bsz=True, max_token_len_per_gpu=8)
    parts, places = prepare_micro_batches(data)
    assert len(parts) > 1
    losses = [
        agent_loss(output(rows), part, algorithm=algorithm)[0]
        for part, rows in zip(parts, places, strict=True)
    ]
    assert float(sum(losses)) == pytest.approx(float(whole), abs=1e-6)


def test_a_worked_loss_through_the_workers_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """LlamaRL: weights of the policy over the one that sampled, capped; shares of 1 over 9 tokens."""
    _, fake, columns = step(monkeypatch, "algorithm.name=llamarl")
    flat = torch.cat([torch.cat([torch.tensor(row), torch.zeros(1)]) for row in columns["old_log_probs"]])
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(
        flat, torch.tensor(np.cumsum([0, *[n + 1 for n in LENGTHS]])))}  # fmt: skip
    loss, _ = agent_loss(output, worker_rows(fake), algorithm=load("llamarl"))
    mean = (1 + 0 + 0.25) / 3
    expected = 0.0
    for row, (mask, logprobs) in enumerate(zip(MASKS, columns["old_log_probs"], strict=True)):
        reward = [1, 0, 0.25, 0.25, 0, 0][row]
        expected -= (
            sum(m * np.exp(0.1) * (reward - mean) * p for m, p in zip(mask, logprobs, strict=True)) / 9
        )
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_ramp_gives_workers_the_loss_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = step(
        monkeypatch, "algorithm.name=loop", "algorithm.entropy.coefficient={start: 1, end: 0, until: 2}"
    )
    monkeypatch.setattr(PPOTrainer, "_update_actor", lambda self, batch, metrics: batch)
    for made.global_steps in (1, 2, 3, 4):
        made._update_actor(batch(), {})
    coefficients = [loss.keywords["algorithm"].entropy.coefficient for loss in made.actor_rollout_wg.given]
    assert coefficients == [1, 0.5, 0]


def buffer(tmp_path: Path, tasks: int, asked: list[int]) -> WatchfulReplayBuffer:
    return WatchfulReplayBuffer(
        trainer_mode="sync", trainer_config={}, max_off_policy_threshold=None, max_off_policy_strategy="drop",
        sampler_kwargs={"run": tmp_path, "host": "127.0.0.1", "replaced_groups_of": tasks},
        refill_fn=asked.append,
    )  # fmt: skip


def test_the_search_for_groups_whose_rewards_differ_is_bounded(tmp_path: Path) -> None:
    asked: list[int] = []
    searching = buffer(tmp_path, 2, asked)
    for _ in range(MOST_BATCHES):
        searching.refill_fn(2)
    with pytest.raises(ConfigError, match=r"drop instead of resample \(algorithm\.filters\)"):
        searching.refill_fn(1)
    assert sum(asked) == 2 * MOST_BATCHES


def test_a_group_without_rows_has_failed_and_is_not_looked_at(tmp_path: Path) -> None:
    searching, plain = buffer(tmp_path, 2, []), buffer(tmp_path, 0, [])
    for made in (searching, plain):
        made.finished_keys["train"] = {"void"}
        assert made._dapo_filtered_keys("train")[0] == set()
    assert searching.failure_keys["train"] == {"void"} and not searching.finished_keys["train"]
    assert plain.finished_keys["train"] == {"void"}


def test_a_step_without_a_single_row_ends_the_run_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = buffer(tmp_path, 0, [])
    monkeypatch.setattr(plain, "_sync_metadata_from_transfer_queue", lambda: None)
    plain.finished_keys["train"] = {"void"}
    with pytest.raises(InfrastructureError, match=r"Every episode of step 7 was void.*events name"):
        plain.sample(7, "train", 1)


def test_a_step_that_was_half_trained_is_not_kept_as_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that breaks off keeps the last finished step, unless the weights have gone on from it."""
    made, events = object.__new__(SyncTrainer), []
    made.config = OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path)}})
    made._events, made._folder = SimpleNamespace(emit=events.append), tmp_path
    made._ending, made.global_steps, made._plan = None, 3, plan(load_config("env").algorithm)
    made._attribution, saved = None, []
    monkeypatch.setattr(SyncTrainer, "_save_checkpoint", lambda self: saved.append(self.global_steps))
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    monkeypatch.setattr(PPOTrainer, "_compute_advantage", lambda self, batch, metrics: batch)
    made.on_step_end()
    made._rescue()
    assert saved == [3]
    made.global_steps = 4
    made._compute_advantage(KVBatchMeta(partition_id="train", keys=[], tags=[]), {})
    made._rescue()
    assert saved == [3] and "a part of the next step was trained" in events[0].message


def test_what_fails_at_a_steps_end_is_raised_once_the_step_was_told(tmp_path: Path) -> None:
    made = object.__new__(SyncTrainer)
    made._ending = None

    def fail() -> None:
        raise InfrastructureError("gone")

    made._unless_ending(fail)
    assert isinstance(made._ending, InfrastructureError)
    made._unless_ending(lambda: pytest.fail("nothing more is done to a run that ends"))
