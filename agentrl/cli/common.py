"""What all commands share: how they end, and arguments that several of them take."""

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
