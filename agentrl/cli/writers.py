"""The commands for writers of tools, environments and rewards: ``agentrl envs``, ``tools`` and ``init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from agentrl.cli.common import EnvName, Words, reported

envs_app = typer.Typer(
    help="List the environments that are installed; show, play, check or audit one.",
    invoke_without_command=True,
)
tools_app = typer.Typer(
    help="List the tools that are installed, or call one by hand.", invoke_without_command=True
)

Split = Annotated[Literal["train", "test"], typer.Option("--split", help="Which tasks: test or train.")]


@envs_app.callback()
def envs(context: typer.Context) -> None:
    """List the environments that are installed; show, play, check or audit one."""
    if context.invoked_subcommand is None:
        _list_envs()


@reported
def _list_envs() -> int:
    from agentrl.cli import catalogue

    return catalogue.envs()


@envs_app.command()
@reported
def show(env: EnvName, settings: Words = None) -> int:
    """Show an environment: prompt, tools as the model sees them, rewards and first tasks."""
    from agentrl.cli import catalogue

    return catalogue.show(env, settings or [])


@envs_app.command()
@reported
def play(
    env: EnvName,
    settings: Words = None,
    split: Split = "test",
    task: Annotated[int, typer.Option("--task", min=0, help="Which of the split's tasks, from 0.")] = 0,
) -> int:
    """Play the model's part: see what it sees, write calls and the answer, get the rewards."""
    from agentrl.cli import playing

    return playing.play(env, settings or [], split=split, number=task)


@envs_app.command()
@reported
def check(
    env: EnvName,
    settings: Words = None,
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Tasks that each player plays.")] = 32,
) -> int:
    """Check that an environment is well made, and how an expert, an idle and a random policy do in it."""
    from agentrl.cli import inspecting

    return inspecting.check(env, settings or [], tasks=tasks)


@envs_app.command()
@reported
def audit(
    env: EnvName,
    settings: Words = None,
    split: Split = "test",
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Tasks that each attack is played on.")] = 24,
    threshold: Annotated[
        float, typer.Option("--threshold", help="The gain, from 0 to 1, above which an attack is a finding.")
    ] = 0.1,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ATTACK", help="An attack; may be repeated.")
    ] = None,
) -> int:
    """Try to get rewards without doing the task, by many attacks."""
    from agentrl.cli import inspecting

    return inspecting.audit(
        env, settings or [], split=split, tasks=tasks, threshold=threshold, only=only or []
    )


@tools_app.callback()
def tools(context: typer.Context) -> None:
    """List the tools that are installed, or call one by hand."""
    if context.invoked_subcommand is None:
        _list_tools()


@reported
def _list_tools() -> int:
    from agentrl.cli import catalogue

    return catalogue.tools()


@tools_app.command(name="call")
@reported
def call_tool(
    tool: Annotated[
        str,
        typer.Argument(
            metavar="TOOL", help="A name, a dotted path or a file; options in braces: 'code{seconds: 5}'."
        ),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE|-", help="Arguments; - reads calls from standard input, one a line."
        ),
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="OBJECT", help="Arguments as a JSON object.")
    ] = None,
    sandbox: Annotated[
        str, typer.Option("--sandbox", help="Isolation backend; options in braces: 'docker{cpus: 1.0}'.")
    ] = "auto",
    seconds: Annotated[
        float, typer.Option("--seconds", help="Longest call, unless the tool says otherwise.")
    ] = 30.0,
    tokens: Annotated[
        int, typer.Option("--tokens", min=16, help="Length of an observation, a token as 4 bytes.")
    ] = 1024,
) -> int:
    """Call a tool by hand, as an episode would, and print the observation."""
    from agentrl.cli import trying

    return trying.call(
        tool, arguments or [], as_json=as_json, sandbox=sandbox, seconds=seconds, tokens=tokens
    )


@reported
def init(
    kind: Annotated[
        Literal["tool", "env", "reward"], typer.Argument(metavar="tool|env|reward", help="What to start.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as look_up; the file's too.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where the files go.")] = Path(),
) -> int:
    """Write a starting file for a tool, an environment or a reward, with a test that passes."""
    from agentrl.cli import starting

    return starting.init(kind, name, folder)
