"""The commands. What they need is imported when they run, so that ``--help`` is quick."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from agentrl.errors import AgentRLError, UsageError

P = ParamSpec("P")

app = typer.Typer(
    help="Train and evaluate language-model agents that use tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
envs_app = typer.Typer(
    help="List the environments that are installed, or show one.", invoke_without_command=True
)
app.add_typer(envs_app, name="envs")

EnvName = Annotated[
    str,
    typer.Argument(
        metavar="ENV", help="Environment: a name, a dotted path (package.module:Class) or a file."
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, for example steps=10 or algorithm.name=ppo."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a run's name, or 'last'.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
Plain = Annotated[bool, typer.Option("--plain", help="Write plain lines even in a terminal.")]


def reported(command: Callable[P, int | None]) -> Callable[P, None]:
    """Exit with what the command returns; a mistake is a message on stderr, never a traceback.

    The exit code is 2 for what the user can mend, 1 for what a machine did.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs) or 0
        except AgentRLError as problem:
            typer.echo(f"Error: {problem}", err=True)
            code = 2 if isinstance(problem, UsageError) else 1
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            code = 130
        except BrokenPipeError:  # whoever read our output went away; there is nobody left to tell
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  the interpreter flushes it as it ends
            code = 141
        raise typer.Exit(code)

    return run


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Train and evaluate language-model agents that use tools."""
    if version:
        from agentrl import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
@reported
def train(
    env: EnvName,
    settings: Words = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved configuration, verl's included, and exit.")
    ] = False,
    plain: Plain = False,
) -> int:
    """Train a model on an environment."""
    from agentrl.cli import train as command

    return command.train(env, settings or [], dry_run=dry_run, plain=plain)


@app.command(name="eval")
@reported
def evaluate(
    env: EnvName,
    settings: Words = None,
    split: Annotated[str, typer.Option("--split", help="Which tasks: test or train.")] = "test",
    plain: Plain = False,
) -> int:
    """Measure a model on an environment, with the loop that training uses."""
    from agentrl.cli import evaluate as command

    return command.evaluate(env, settings or [], split=split, plain=plain)


@app.command()
@reported
def warmup(env: EnvName, settings: Words = None) -> int:
    """Teach a model an environment's format from its scripted expert, before training."""
    from agentrl.cli import warmup as command

    return command.warmup(env, settings or [])


@app.command()
@reported
def tools() -> int:
    """List the tools that are installed."""
    from agentrl.cli import catalogue

    return catalogue.tools()


@envs_app.callback()
def envs(context: typer.Context) -> None:
    """List the environments that are installed, or show one."""
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


@app.command()
@reported
def export(
    run: RunName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
    step: Annotated[
        int | None, typer.Option("--step", help="Of which step; default: the newest checkpoint.")
    ] = None,
    runs: Runs = Path("runs"),
) -> int:
    """Write a run's newest checkpoint as a Hugging Face model folder."""
    from agentrl.cli import runs as command

    return command.export(run, out, runs, step=step)


@app.command()
@reported
def doctor(run: RunName, runs: Runs = Path("runs")) -> int:
    """Print a run's certificate: whether it trained on exactly what was sampled."""
    from agentrl.cli import runs as command

    return command.doctor(run, runs)


@app.command()
@reported
def init(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The file to write, or a folder for my_env.py.")
    ],
) -> int:
    """Write a starter file: a tool and an environment to train on."""
    from agentrl.cli import runs as command

    return command.init(path)
