"""Is an environment well made? Schemas, tasks, rewards, repeatability, and who gets how far in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import DataError, DefinitionError, UserCodeError
from agentrl.inspect.audit import THRESHOLD
from agentrl.inspect.digest import digests, digests_elsewhere
from agentrl.inspect.plain import in_bytes, plain_chat
from agentrl.inspect.play import MOST_TASKS, first_tasks, has_expert, play, sample
from agentrl.inspect.scripts import WAYS, do_nothing, play_at_random
from agentrl.registry import find_env, find_tools
from agentrl.reward import Reward
from agentrl.rollout import EpisodeRunner, Script, ScriptedPolicy, expert_of
from agentrl.scoring import components_of
from agentrl.task import Task
from agentrl.terms import Term
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.evaluate import EpisodeResult, EvalResult
    from agentrl.sandbox import Sandbox

SPLITS = ("train", "test")
MOST_REWARD = 100.0
"""Beyond this, one lucky episode outweighs a whole batch."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ODD = ("malformed", "empty tags", "endless talk")


class Verdict(StrEnum):
    """How a check ended."""

    passed = "passed"
    warned = "warning"
    failed = "failed"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        name: what was checked.
        verdict: ``warning`` where a writer may have good reasons.
        detail: what was found, and what to do about it.
    """

    name: str
    verdict: Verdict
    detail: str = ""


@dataclass
class CheckReport:
    """What :func:`check` found.

    Args:
        findings: in the order of the checks.
        scores: by player: ``expert`` (where there is one), ``nothing`` and ``random``.
    """

    findings: list[Finding] = field(default_factory=list)
    scores: dict[str, EvalResult] = field(default_factory=dict)

    @property
    def failed(self) -> list[Finding]:
        """What has to be mended."""
        return [finding for finding in self.findings if finding.verdict is Verdict.failed]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failed


Notes = list[tuple[Verdict, str]]


def _fail(text: str) -> tuple[Verdict, str]:
    return Verdict.failed, text


def _warn(text: str) -> tuple[Verdict, str]:
    return Verdict.warned, text


async def check(
    name: str,
    options: Mapping[str, Any] | None = None,
    limits: Rollout | None = None,
    *,
    tasks: int = 32,
    seed: int = 0,
    sandbox: Sandbox | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> CheckReport:
    """Check an environment, without a model.

    Args:
        name: as :func:`agentrl.registry.find_env` takes it; it is also made once more in a process of
            its own.
        options: of the environment.
        limits: a model's, in tokens.
        tasks: how many test tasks the expert and the others play.
        seed: decides the draw, and everything that is played.
        sandbox: where tools open sessions; ``None`` for environments that need none.
        on_finding: told each finding as it is made.

    Raises:
        UsageError: there is no such environment, or it cannot be made at all.
        InfrastructureError: machines failed every episode of a player.
    """
    env = find_env(name, options)
    small = in_bytes(limits or Rollout())
    report = CheckReport()

    def note(what: str, notes: Notes, good: str) -> None:
        worst = max((verdict for verdict, _ in notes), key=list(Verdict).index, default=Verdict.passed)
        finding = Finding(what, worst, "; ".join(text for _, text in notes) or good)
        report.findings.append(finding)
        if on_finding is not None:
            on_finding(finding)

    note("tools", *_tools(env))
    note("rewards", *_rewards(env))
    note("tasks", *_tasks(env))
    if not report.passed:  # what cannot be read cannot be played
        return report
    note("repeatable tasks", *await _repeatable(name, options or {}, env))
    drawn = sample(env, "test", tasks, seed)
    played: list[EpisodeResult] = []
    for player, script in _players(env, drawn[0]).items():
        try:
            result = await play(env, script, drawn, small, seed=seed, sandbox=sandbox)
        except (UserCodeError, DefinitionError, DataError) as problem:
            note(f"{player} plays", [_fail(str(problem))], "")
            continue
        played += result.results
        if player in ("expert", "nothing", "random"):
            report.scores[player] = result
    if report.passed:
        note("repeatable episodes", *await _repeated(env, drawn[0], small, seed, sandbox))
        note("reward values", *_values(played))
        note("scores", *_compared(report.scores))
    return report


def _players(env: Env, task: Task) -> dict[str, Script]:
    odd = {way.name: way.script for way in WAYS if way.name in _ODD}
    expert = {"expert": expert_of} if has_expert(env, task) else {}
    return {**expert, "nothing": do_nothing, "random": play_at_random, **odd}


# ---- as it stands -------------------------------------------------------------------------------


def _tools(env: Env) -> tuple[Notes, str]:
    notes: Notes = []
    names: list[str] = []
    try:
        for tool in [*(tool for item in env.tools for tool in find_tools(item)), *env.own_tools()]:
            function = tool.schema["function"]
            json.dumps(function, allow_nan=False)
            names.append(function["name"])
            notes += _described(function)
    except Exception as problem:  # whatever a user's class raises
        return [_fail(f"{type(problem).__name__}: {problem}")], ""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        notes.append(_fail(f"several tools are called {', '.join(twice)}: rename one"))
    return notes, f"{len(names)}: {', '.join(names)}" if names else "none"


def _described(function: Mapping[str, Any]) -> Notes:
    name, notes = function["name"], []
    if not _NAME.fullmatch(name):
        notes.append(_fail(f"{name!r} is no name that models can call: use letters, digits, _"))
    if not function["description"]:
        notes.append(_warn(f"{name} has no docstring, so the model is told nothing of it"))
    silent = [
        key
        for key, value in function["parameters"].get("properties", {}).items()
        if not value.get("description")
    ]
    if silent:
        notes.append(_warn(f"{name}: the docstring's Args say nothing of {', '.join(silent)}"))
    return notes


def _rewards(env: Env) -> tuple[Notes, str]:
    notes: Notes = []
    terms = env.own_rewards()
    try:
        names = [component.name for component in components_of(terms)]
    except DefinitionError as problem:
        return [_fail(str(problem))], ""
    weights = [term.weight for term in terms if isinstance(term, Reward)]
    if not any(weights) and len(weights) == len(terms):
        notes.append(_fail("no reward has a weight, so there is nothing to learn from"))
    if env.success is not None and env.success not in names:
        notes.append(_fail(f"success = {env.success!r} names none of {', '.join(names) or 'them'}"))
    if not all(map(math.isfinite, weights)):
        notes.append(_fail("a weight is not finite"))
    if env.success is None and len(names) > 1:
        notes.append(_warn("any reward above 0 counts as success: name the one that does in success"))
    return notes, ", ".join(map(_summand, terms))


def _summand(term: Term) -> str:
    return f"{term.weight:g} × {term.name}" if isinstance(term, Reward) else str(term)


def _tasks(env: Env) -> tuple[Notes, str]:
    notes: Notes = []
    splits: dict[str, list[Task]] = {}
    for split in SPLITS:
        try:
            splits[split] = first_tasks(env, split)
            notes += _well_formed(split, splits[split])
        except (UserCodeError, DefinitionError) as problem:
            return [_fail(str(problem))], ""
    if any(verdict is Verdict.failed for verdict, _ in notes):
        return notes, ""
    train, test = ({_content(task) for task in splits[split]} for split in SPLITS)
    if shared := train & test:
        example = json.loads(min(shared))[0]
        notes.append(
            _fail(
                f"{len(shared)} tasks stand in both splits, for example {example[:60]!r}: what "
                "is measured on test must be news to the model"
            )
        )
    elif shared := {task.id for task in splits["train"]} & {task.id for task in splits["test"]}:
        notes.append(_fail(f"{len(shared)} ids stand in both splits, for example {min(shared)!r}"))
    sizes = ", ".join(f"{len(found)} {split}" for split, found in splits.items())
    return notes, f"{sizes}{f' (no more than {MOST_TASKS} are looked at)' if _full(splits) else ''}"


def _full(splits: Mapping[str, Sequence[Task]]) -> bool:
    return any(len(found) == MOST_TASKS for found in splits.values())


def _well_formed(split: str, tasks: Sequence[Task]) -> Notes:
    if not tasks:
        return [_fail(f"{split} has no tasks")]
    notes: Notes = []
    for number, task in enumerate(tasks):
        if not isinstance(task, Task):
            return [_fail(f"{split} yields {type(task).__name__}, not Task")]
        if not isinstance(task.prompt, str) or not task.prompt.strip():
            return [_fail(f"{split} task {number} has no prompt")]
        if not _is_json(task.to_dict()):
            return [
                _fail(
                    f"{split} task {number} ({task.prompt[:40]!r}): answer and metadata must "
                    "come back from JSON as they were: text, finite numbers, truth values, None, lists, and "
                    "dictionaries with text keys",
                )
            ]
    if len({task.id for task in tasks}) < len(tasks):
        notes.append(_warn(f"{split} holds {len(tasks) - len({t.id for t in tasks})} tasks twice"))
    return notes


def _is_json(data: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(data, allow_nan=False)) == data)
    except (TypeError, ValueError, RecursionError):
        return False


def _content(task: Task) -> str:
    return json.dumps([task.prompt, task.answer, dict(task.metadata)], sort_keys=True)


async def _repeatable(name: str, options: Mapping[str, Any], env: Env) -> tuple[Notes, str]:
    mine = digests(env)
    if mine != digests(env):
        return [_fail("tasks(split) gives other tasks when called again: seed a Random in it")], ""
    if mine != digests(find_env(name, options)):
        return [_fail("two instances give different tasks: seed a Random of your own")], ""
    if mine != await digests_elsewhere(name, options):
        problem = (
            "another process gives different tasks, or the same in another order: sort what comes from a set "
            "or a folder, and seed with text or numbers, not with hash()"
        )
        return [_fail(problem)], ""
    return [], "the same from two instances and in another process"


# ---- as it is played ----------------------------------------------------------------------------


async def _repeated(
    env: Env, task: Task, limits: Rollout, seed: int, sandbox: Sandbox | None
) -> tuple[Notes, str]:
    """Whether the same calls get the same answers."""
    chat = plain_chat()
    told: list[list[Any]] = []
    for number in range(2):
        runner = EpisodeRunner(env, chat, ScriptedPolicy(chat, play_at_random), limits, sandbox=sandbox)
        told.append(_told(await runner.run(task, episode_id=f"repeat-{number}", split="test", seed=seed)))
    if told[0] != told[1]:
        problem = (
            "the same seed and the same turns gave other observations or rewards: such an environment cannot "
            "be replayed, and its rewards carry noise"
        )
        return [_warn(problem)], ""
    return [], "the same turns give the same observations and rewards"


def _told(episode: Trajectory) -> list[Any]:
    return [episode.reward, episode.rewards, [call.observation.text for call in episode.calls]]


def _values(played: Sequence[EpisodeResult]) -> tuple[Notes, str]:
    rewards = [each.reward for each in played if each.reward is not None]
    low, high = min(rewards), max(rewards)
    notes: Notes = []
    if max(abs(low), abs(high)) > MOST_REWARD:
        notes.append(_fail(f"rewards reach from {low:g} to {high:g}; keep them within ±{MOST_REWARD:g}"))
    return notes, f"finite, from {low:g} to {high:g} in {len(rewards)} episodes"


def _compared(scores: Mapping[str, EvalResult]) -> tuple[Notes, str]:
    notes: Notes = []
    expert = scores.get("expert")
    for idle in ("nothing", "random"):
        found = scores[idle]
        if idle == "nothing" and found.success > THRESHOLD:
            notes.append(_fail(f"doing nothing solves {found.success:.0%} of the tasks"))
        if expert is not None and expert.success <= found.success:
            notes.append(_fail(f"the expert solves {expert.success:.0%}, no more than {_named(idle)} does"))
        elif expert is not None and expert.low <= found.high:
            notes.append(_warn(f"the expert is not clearly better than {_named(idle)}: play more tasks"))
    if expert is None:
        notes.append(_warn("no expert(), so nothing shows that the tasks can be solved"))
    return notes, "the expert does better than nothing and than chance"


def _named(player: str) -> str:
    return "doing nothing" if player == "nothing" else "playing at random"
