"""Episodes shared between runs: what travels, what is believed of it, and what is trained on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from replay_support import Lab, Played, lab
from tensordict import NonTensorStack, TensorDict
from test_agent_loop import ENV, LINES, Client

from agentrl import Task
from agentrl.agent import AgentEnv
from agentrl.algorithms.swarm import chosen, external_groups
from agentrl.config import load_config, validate
from agentrl.doctor import examine_step
from agentrl.env import Env
from agentrl.errors import ConfigError, DataError, InfrastructureError
from agentrl.serve.server import listening
from agentrl.serve.swarm import Board, make_board_app
from agentrl.train.agent_loop import EpisodeLoop
from agentrl.train.algorithm import plan
from agentrl.train.batch import TOKEN_FIELDS, VERSIONS, fetch_rows
from agentrl.train.exchange import FolderExchange, ServerExchange, open_exchange
from agentrl.train.metrics import expected_episodes
from agentrl.train.packets import MOST_BYTES, Packet, read_packet
from agentrl.train.replay import SwarmReplay
from agentrl.train.swarm import Swarm
from agentrl.train.swarm_settings import check_shared

SWARM = "algorithm.name=sapo_swarm"
TASKS = {name: json.dumps(Task(f"{name}?", answer=1, id=name).to_dict()) for name in "abcd"}


def packet(task: str = "a", rewards: tuple[float, ...] = (1.0, 0.0), **changes: Any) -> bytes:
    """A group as another node shares it."""
    said = [{"role": "assistant", "content": "It is 5"}]
    completions = [{"messages": said, "reward": reward} for reward in rewards]
    whole = {"format": "agentrl-swarm-1", "node": "other", "env": "env", "step": 1, "task": task,
             "prompt": f"{task}?", "completions": completions}  # fmt: skip
    return json.dumps(whole | changes).encode()


def make_swarm(folder: Path, *, turns: int = 4, **how: Any) -> Swarm:
    exchange = FolderExchange(folder, "me")
    return Swarm(SwarmReplay(**how), exchange, node="me", env="env", tasks=TASKS, turns=turns)


def prompts(count: int) -> TensorDict:
    """Prompts of a step."""
    infos = [{"task": TASKS[name], "split": "train"} for name in "abcd"[:count]]
    return TensorDict({"extra_info": NonTensorStack(*infos)}, batch_size=count)


def test_other_nodes_groups_are_filtered_and_ones_own_are_not() -> None:
    """SAPO's numbers: q3 = 1, 1, 1, 0 is trained on, and q4 = 1, 1, 1, 1 is not."""
    external = {"q3": [1, 1, 1, 0], "q4": [1, 1, 1, 1]}
    assert all(chosen(external, 1, Random(seed)) == ["q3"] for seed in range(5))
    assert chosen(external, 0, Random(0)) == []
    many = {str(i): [0, 1] for i in range(10)}
    assert len({tuple(chosen(many, 2, Random(seed))) for seed in range(30)}) > 10


@pytest.mark.parametrize(("local", "external"), [(8, 0), (6, 2), (4, 4), (2, 6)])
def test_how_many_of_a_steps_groups_are_others(local: int, external: int) -> None:
    assert external_groups(8, local, external) == external
    assert external_groups(16, local, external) == 2 * external
    assert external_groups(1, local, external) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"no json",
        b"[" * 100_000,
        b"[]",
        packet(format="agentrl-swarm-2"),
        packet(node="../../etc"),
        packet(rewards=(1.0,)),
        packet(completions="many"),
        packet(rewards=(1.0, float("nan"))),
        packet(completions=[{"messages": [{"role": "system", "content": "obey"}], "reward": 1}] * 2),
        packet(completions=[{"messages": [], "reward": 1}] * 2),
        packet(completions=[{"messages": [{"role": "assistant", "content": ["x"]}], "reward": 1}] * 2),
        packet(prompt="x" * MOST_BYTES),
    ],
)
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    assert read_packet(packet()).task == "a"
    with pytest.raises(DataError):
        read_packet(data)


def test_what_cannot_be_judged_here_is_refused_and_counted(tmp_path: Path) -> None:
    swarm = make_swarm(tmp_path, turns=1)
    long = [{"messages": [{"role": "assistant", "content": "x"}] * 2, "reward": r} for r in (0, 1)]
    bad = [packet("unknown"), packet(prompt="another task by the same id"), packet(env="elsewhere"),
           packet(completions=long), b"{", b" " * (MOST_BYTES + 1)]  # fmt: skip
    FolderExchange(tmp_path, "other").share([*bad, packet()], 1)
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    swarm.receive(1)
    told = swarm.take_told()
    assert (told["swarm/refused"], told["swarm/waiting"]) == (len(bad), 1)
    swarm.receive(2)
    assert len(swarm) == 1, "nothing is taken twice"
    swarm.receive(12)
    assert len(swarm) == 0, "what waits too long is dropped"


def test_a_folder_gives_others_files_and_keeps_a_runs_newest(tmp_path: Path) -> None:
    one, two = FolderExchange(tmp_path, "one", keep=2), FolderExchange(tmp_path, "two")
    assert two.take().packets == []
    for step in (1, 2, 3):
        one.share([b"%d" % step], step)
    assert sorted(two.take().packets) == [b"2", b"3"]
    assert one.take().packets == [] == two.take().packets
    again = FolderExchange(tmp_path, "two")
    again.load(json.loads(json.dumps(two.state())))
    assert again.take().packets == []
    with pytest.raises(InfrastructureError, match="could be shared"):
        FolderExchange(tmp_path / next(tmp_path.glob("one*")).name, "x").share([b"1"], 1)


async def test_a_server_passes_packets_on_to_others_alone() -> None:
    app = make_board_app(Board(most=3), token="secret")
    async with listening(app, "127.0.0.1", 0) as url:
        one, two = (open_exchange(url, node, "secret") for node in ("one", "two"))

        def talk() -> None:
            one.share([packet("a", node="one"), packet("b", node="one")], 1)
            two.share([packet("c", node="two")], 1)
            assert [read_packet(each).task for each in two.take().packets] == ["a", "b"]
            assert [read_packet(each).task for each in one.take().packets] == ["c"]
            assert two.take().packets == []
            one.share([packet("d", node="one")], 2)
            fresh = ServerExchange(url, "fresh", "secret")
            assert len(fresh.take().packets) == 3, "the oldest gave way"
            two.load(["another server", 1000])
            assert len(two.take().packets) == 2, "it counts anew on a server that began anew"
            for wrong in (ServerExchange(url, "x"), ServerExchange(url, "x", "wrong")):
                with pytest.raises(InfrastructureError, match="401"):
                    wrong.take()
            with pytest.raises(InfrastructureError, match="413"):
                one.share([b" " * (MOST_BYTES + 1)], 1)
            with pytest.raises(InfrastructureError, match="400"):
                one.share([b"[]"], 1)

        await asyncio.to_thread(talk)


def test_a_place_that_is_gone_stops_nothing() -> None:
    exchange = ServerExchange("http://127.0.0.1:9", "me")
    swarm = Swarm(SwarmReplay(), exchange, node="me", env="env", tasks=TASKS, turns=4)
    swarm.receive(1)
    assert swarm.problem is not None and "cannot be asked" in swarm.problem
    mixed = swarm.mix(prompts(4), 1, 8)
    assert list(mixed["said"]) == [""] * 4 and list(mixed["__rollout_n__"]) == [8] * 4


def test_a_steps_prompts_are_mixed(tmp_path: Path) -> None:
    swarm = make_swarm(tmp_path)
    others = [packet("c", (1, 1, 0)), packet("d", (1, 1)), packet("d", (0, 0.5))]
    FolderExchange(tmp_path, "other").share(others, 1)
    swarm.receive(1)
    restored = make_swarm(tmp_path)
    restored.load(tmp_path / "of a run without")
    swarm.save(tmp_path)
    restored.load(tmp_path)
    for one in (swarm, restored):
        mixed = one.mix(prompts(4), 1, 8)
        tasks = [json.loads(info["task"])["id"] for info in mixed["extra_info"]]
        assert tasks[:2] == ["a", "b"] and sorted(tasks[2:]) == ["c", "d"], "of three, one teaches nothing"
        sizes = dict(zip(tasks, mixed["group_size"], strict=True))
        assert sizes == {"a": 8, "b": 8, "c": 3, "d": 2}
        assert list(mixed["source"]) == ["", "", "other", "other"]
        said = json.loads(mixed["said"][tasks.index("c")])
        assert said == [[{"role": "assistant", "content": "It is 5"}]] * 3
        assert len(one) == 1


# ---- through the trainer


def own(reward: float) -> Played:
    return Played(reward, more={"said": [{"role": "assistant", "content": f"worth {reward}"}]})


def others(reward: float) -> Played:
    told = {"step": 1, "member": True, "source": "other"}
    return Played(reward, logprob=0.0, more={"replayed": told})


def node(monkeypatch: pytest.MonkeyPatch, folder: Path, *, tasks: int) -> Lab:
    made = lab(monkeypatch, SWARM, f"algorithm.replay.options.share={folder}", tasks=tasks)
    events: list[Any] = []
    made.trainer._folder, made.trainer._events = folder / "run", SimpleNamespace(emit=events.append)
    infos = [{"task": TASKS[name], "split": "train"} for name in TASKS]
    made.trainer.train_dataset = SimpleNamespace(dataframe={"extra_info": infos})
    return made


def test_what_others_shared_is_trained_on_with_the_own_policys_log_probs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SAPO's numbers: q1 = 1, 0, 0, 1 and q2 = 0 of one's own; q3 stays, q4 goes once it was judged here."""
    made = node(monkeypatch, tmp_path, tasks=4)
    groups = {"a": [own(r) for r in (1, 0, 0, 1)], "b": [own(0.0) for _ in range(4)],
              "c": [others(r) for r in (1, 1, 1, 0)], "d": [others(1.0) for _ in range(4)]}  # fmt: skip
    update = made.step(groups)
    found: dict[str, list[float]] = {}
    for key, row in sorted(update.column("advantages").items()):
        found.setdefault(key.split("_")[0], []).append(round(row[-1], 6))
    assert found["g1x2"] == [0.5, 0.5, 0.5, -1.499997] or found["g1x2"] == [0.499999] * 3 + [-1.499997]
    assert found["g1x1"] == [0.0] * 4 and set(found) == {"g1x0", "g1x1", "g1x2"}
    for key, row in update.rows.items():
        if not key.startswith("pad"):
            assert torch.all(row["old_log_probs"] == -2.0), "of the policy that is trained: ratio 1"
            expected = -2.0 if key.startswith("g1x2") else -1.0
            assert torch.all(row["rollout_log_probs"] == expected)
    told = made.trainer._swarm_metrics()
    assert (told["swarm/groups"], told["swarm/dropped"], told["swarm/shared"]) == (1, 1, 2)


def test_the_doctor_examines_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = node(monkeypatch, tmp_path, tasks=2)
    made.step({"a": [own(1), own(0)], "c": [others(1), others(0)]})
    assert made.last is not None

    def verdict() -> dict[str, str]:
        rows = fetch_rows(made.last, tokens=[*TOKEN_FIELDS, VERSIONS])
        report = examine_step(rows, step=1, algorithm=made.trainer._settings.algorithm)
        return {check.name: check.detail for check in report.checks if not check.passed}

    name = "what is trained on again is what was sampled"
    assert name not in verdict()
    key = next(key for key in made.last.keys if key.startswith("g1x1"))
    made.queue.rows[key]["responses"] = made.queue.rows[key]["responses"] + 1
    assert "differs" in verdict()[name]


def test_what_is_shared_is_what_was_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = node(monkeypatch, tmp_path, tasks=2)
    made.step({"a": [own(1), own(0)], "c": [others(1), others(0)]})
    (data,) = FolderExchange(tmp_path, "reader").take().packets
    shared = read_packet(data)
    assert (shared.node, shared.env, shared.task, shared.prompt, shared.step) == ("run", "env", "a", "a?", 1)
    assert [one.reward for one in shared.completions] == [1, 0]
    assert shared.dialogues()[0] == [{"role": "assistant", "content": "worth 1"}]
    assert b"answer" not in data


def test_a_group_that_nobody_may_send_is_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a policy says must not end the run: here it named a tool in ten thousand letters."""
    made = node(monkeypatch, tmp_path, tasks=2)
    calls = [{"id": "1", "type": "function", "function": {"name": "x" * 10_000, "arguments": {}}}]
    odd = Played(1.0, more={"said": [{"role": "assistant", "content": "", "tool_calls": calls}]})
    made.step({"a": [odd, own(0)], "b": [own(1), own(0)]})
    (data,) = FolderExchange(tmp_path, "reader").take().packets
    assert read_packet(data).task == "b"
    told = made.trainer._swarm_metrics()
    assert (told["swarm/shared"], told["swarm/unfit"]) == (1, 1)


def test_episodes_played_elsewhere_are_not_missing() -> None:
    config = load_config("env", ["algorithm.tasks_per_step=4", "algorithm.group_size=2"]).algorithm
    assert expected_episodes([], config, elsewhere=2) == 4


# ---- an episode told again, in the loop that plays all


def other_tokenizer() -> Any:
    """Bytes, where the other node's tokenizer has learned words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=259, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adding.py").write_text(ENV)
    config = validate(
        {
            "env": str(tmp_path / "adding.py"),
            "algorithm": {"name": "sapo_swarm"},
            "rollout": {"renderer": "chatml-json", "retry_seconds": 0},
        }
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return tmp_path


async def play(folder: Path, client: Any, tokenizer: Any, **columns: Any) -> list[Any]:
    loop = EpisodeLoop(run=str(folder), server_manager=client, tokenizer=tokenizer, trainer_config=None)
    info = {"index": 0, "split": "train", "task": json.dumps(Task("2 + 3?", answer=5).to_dict())}
    return await loop.run(
        {"temperature": 1.0}, extra_info=info, uid="g", session_id=0, global_steps=3, **columns
    )


async def test_an_episode_of_another_tokenizer_is_encoded_and_judged_anew(folder: Path) -> None:
    from rollout_support import make_tokenizer

    (first,) = await play(folder, Client(*LINES), make_tokenizer())
    said = first.extra_fields["episode"]["said"]
    assert [message["role"] for message in said] == ["assistant"] * 2
    shared = Packet.model_validate(
        {"node": "a", "env": "e", "step": 1, "task": "t", "prompt": "p",
         "completions": [{"messages": said, "reward": -7.0}] * 2}
    )  # fmt: skip
    told, own = json.dumps(shared.dialogues()), other_tokenizer()
    nobody = Client()
    (again,) = await play(folder, nobody, own, said=told, source="a", group_size=2)
    assert not nobody.said, "nothing was sampled"
    assert own.decode([*again.prompt_ids, *again.response_ids]) == make_tokenizer().decode(
        [*first.prompt_ids, *first.response_ids]
    )
    assert len(again.response_ids) > len(first.response_ids)
    sampled = [
        own.decode([t for t, m in zip(again.response_ids, again.response_mask, strict=True) if m]),
        make_tokenizer().decode(
            [t for t, m in zip(first.response_ids, first.response_mask, strict=True) if m]
        ),
    ]
    assert sampled[0] == sampled[1]
    episode = again.extra_fields["episode"]
    assert (again.reward_score, episode["calls"], episode["success"]) == (1.0, 1, True), (
        "not what was claimed"
    )
    assert episode["replayed"] == {"step": 3, "member": True, "source": "a"} and "said" not in episode


@pytest.mark.parametrize(
    "said",
    [
        [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": 3}}]}],
    ],
    ids=["it goes on", "a call without arguments"],
)
async def test_what_cannot_be_told_again_is_void(folder: Path, said: list[Any]) -> None:
    from rollout_support import make_tokenizer

    assert await play(folder, Client(), make_tokenizer(), said=json.dumps([said]), source="a") == []


def test_runs_that_cannot_share_are_told() -> None:
    def check(env: Env, *words: str) -> None:
        config = load_config("env", [SWARM, *words])
        check_shared(plan(config.algorithm), config, env)

    check(Env())
    with pytest.raises(ConfigError, match="mode=sync"):
        check(Env(), "mode=async")
    with pytest.raises(ConfigError, match="tasks_per_step"):
        check(Env(), "algorithm.tasks_per_step=1")
    with pytest.raises(ConfigError, match="It wants algorithm.groups.adaptive_size=false, algorithm.rollout"):
        check(Env(), "algorithm.groups.adaptive_size=true", "algorithm.rollout.name=stored_starts")
    with pytest.raises(ConfigError, match="of its own|'s own"):
        check(object.__new__(AgentEnv))
