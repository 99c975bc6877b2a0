"""``agentrl swarm``: where runs share episodes over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from agentrl.cli.common import reported

app = typer.Typer(help="Share episodes between runs over HTTP.", no_args_is_help=True)


@app.callback()
def swarm() -> None:
    """Share episodes between runs over HTTP."""


@app.command()
@reported
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8100,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="AGENTRL_TOKEN", help="What runs must show; needed beyond loopback."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Groups that are kept, the newest.")] = 1024,
) -> int:
    """Keep the groups that runs post, for the others to take."""
    from agentrl.serve.swarm import run_board

    run_board(host, port, token, most=most)
    return 0
