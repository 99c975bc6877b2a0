"""The commands. What they need is imported when they run, so that ``--help`` is quick."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from agentrl.cli import algorithms, swarm, writers
from agentrl.cli.common import EnvName, Words, reported
from agentrl.threads import share_cores

app = typer.Typer(
    help="Train and evaluate language-model agents that use tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
sandbox_app = typer.Typer(
    help="Show the isolation that this machine offers, check it, or run a snippet in it.",
    invoke_without_command=True,
)
app.add_typer(sandbox_app, name="sandbox")


class LogFormat(StrEnum):
    """How a server logs."""

    json = "json"
    text = "text"
    none = "none"


RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a run's name, or 'last'.")]
BackendOptions = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options of the backend.")
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
Plain = Annotated[bool, typer.Option("--plain", help="Write plain lines even in a terminal.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Train and evaluate language-model agents that use tools."""
    share_cores()
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
def serve(
    tools: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOOL", help="Tools to offer, as 'code{seconds: 5}'; default: all installed."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="AGENTRL_TOKEN", help="What callers must show; needed beyond loopback."
        ),
    ] = None,
    sandbox: Annotated[
        str, typer.Option("--sandbox", help="Isolation backend; options in braces: 'docker{cpus: 1.0}'.")
    ] = "auto",
    sessions: Annotated[int, typer.Option("--sessions", help="Sessions that may be open.")] = 1024,
    idle: Annotated[float, typer.Option("--idle", help="Seconds after which an idle session ends.")] = 900,
    lifetime: Annotated[
        float, typer.Option("--lifetime", help="Seconds after which any session ends.")
    ] = 7200,
    at_once: Annotated[int, typer.Option("--at-once", help="Calls that may ever run at once.")] = 512,
    queue: Annotated[int, typer.Option("--queue", help="Calls that may wait.")] = 4096,
    seconds: Annotated[float, typer.Option("--seconds", help="Longest call of a tool without a limit.")] = 60,
    drain: Annotated[float, typer.Option("--drain", help="Seconds that running calls get at the end.")] = 30,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, help="Servers behind this one; default: none, or with --ray one on each node."
        ),
    ] = 0,
    ray: Annotated[bool, typer.Option("--ray", help="Workers are spread over a Ray cluster.")] = False,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="The cluster, as HOST:PORT; default: this machine's.")
    ] = None,
    log: Annotated[
        LogFormat, typer.Option("--log", help="Logs on stderr; none: warnings only.")
    ] = LogFormat.json,
) -> int:
    """Offer tools over HTTP, in the sandbox, to any client of the protocols it speaks."""
    from agentrl.cli import serve as command
    from agentrl.serve.local import SessionLimits
    from agentrl.serve.server import ServeSettings

    settings = ServeSettings(
        tools=tools or [],
        address=host,
        port=port,
        token=token,
        sandbox=sandbox,
        limits=SessionLimits(most=sessions, idle_seconds=idle, total_seconds=lifetime),
        most_at_once=at_once,
        queue=queue,
        call_seconds=seconds,
        drain_seconds=drain,
    )
    if ray or ray_address:
        return command.run_cluster(settings, log, workers, ray_address)
    if workers:
        return command.run_processes(settings, log, workers)
    return command.run(settings, log)


@app.command()
@reported
def warmup(env: EnvName, settings: Words = None) -> int:
    """Teach a model an environment's format from its scripted expert, before training."""
    from agentrl.cli import warmup as command

    return command.warmup(env, settings or [])


app.add_typer(writers.tools_app, name="tools")
app.add_typer(writers.envs_app, name="envs")
app.add_typer(algorithms.app, name="algorithms")
app.add_typer(swarm.app, name="swarm")


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
def tune(
    env: EnvName,
    settings: Words = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> int:
    """Train a population of runs, of which the worst copy the best, on Ray Tune."""
    from agentrl.cli import tune as command

    return command.tune(env, settings or [], as_json=as_json)


@app.command()
@reported
def fit(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs, or CSV or JSON lines files with two columns: compute, reward."
        ),
    ],
    metric: Annotated[
        str, typer.Option("--metric", help="A name in metrics.jsonl, or eval/success or eval/reward.")
    ] = "reward/mean",
    compute: Annotated[
        Literal["hours", "tokens", "steps"],
        typer.Option("--compute", help="Hours of all devices, sampled tokens, or steps."),
    ] = "hours",
    start: Annotated[
        float | None,
        typer.Option("--start", help="Reward before training; default: as measured, else fitted."),
    ] = None,
    drop: Annotated[
        float, typer.Option("--drop", metavar="SHARE", help="Of each run's points, left out at its start.")
    ] = 0.1,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, as a PNG, SVG or PDF.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    runs: Runs = Path("runs"),
) -> int:
    """Predict the reward that more compute would come to, from what runs measured."""
    from agentrl.cli import fit as command

    return command.fit(
        sources, runs, metric=metric, compute=compute, start=start, drop=drop, plot=plot, as_json=as_json
    )


@app.command()
@reported
def budget(
    sources: Annotated[list[str], typer.Argument(metavar="RUN...", help="Evaluations.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it, as a PNG, SVG or PDF.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    runs: Runs = Path("runs"),
) -> int:
    """Compare what evaluations solve with as many sampled tokens: many short attempts, or few long ones."""
    from agentrl.cli import budget as command

    return command.budget(sources, runs, plot=plot, as_json=as_json)


app.command()(writers.init)


@app.command()
@reported
def simulate(
    scenario: Annotated[
        str | None, typer.Argument(metavar="SCENARIO", help="A name or a YAML file; without it, the names.")
    ] = None,
    settings: Words = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Also draw queues and ages, as a PNG or PDF."),
    ] = None,
) -> int:
    """Run the real scheduler in virtual time: what a configuration would do on a cluster."""
    from agentrl.cli import simulate as command

    if scenario is None:
        return command.overview()
    return command.simulate(scenario, settings or [], as_json=as_json, plot_to=plot)


@sandbox_app.callback()
def sandbox(context: typer.Context) -> None:
    """Show the isolation that this machine offers, check it, or run a snippet in it."""
    if context.invoked_subcommand is None:
        _list_sandboxes()


@reported
def _list_sandboxes() -> int:
    from agentrl.cli import sandbox as command

    return command.overview()


@sandbox_app.command()
@reported
def check(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", help="A name, a dotted path (package.module:Class) or a file.")
    ],
    options: BackendOptions = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GROUP", help="A group or check; may be repeated.")
    ] = None,
    attacks: Annotated[
        Path | None, typer.Option("--attacks", metavar="FILE", help="More attacks, as JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object at the end.")] = False,
) -> int:
    """Check that a sandbox backend keeps what every backend promises, attacks included."""
    from agentrl.cli import sandbox as command

    return command.check(backend, options or [], only=only or [], attacks=attacks, as_json=as_json)


@sandbox_app.command()
@reported
def image(
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="PACKAGE", help="Debian packages in it; default: numpy's.")
    ] = None,
    from_registry: Annotated[
        bool, typer.Option("--from-registry", help="Start from Docker Hub's debian:12-slim, not debootstrap.")
    ] = False,
) -> int:
    """Build the image that the docker backend runs sessions in."""
    from agentrl.cli import sandbox as command

    return command.image(packages or [], from_registry=from_registry)


@sandbox_app.command(name="exec")
@reported
def execute(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The snippet; - reads standard input.")],
    options: BackendOptions = None,
    backend: Annotated[str, typer.Option("--backend", help="A backend's name, path or file.")] = "auto",
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds of wall time.")] = 10.0,
    lang: Annotated[
        Literal["python", "bash"], typer.Option("--lang", help="What to run it with.")
    ] = "python",
    cpu: Annotated[
        float | None, typer.Option("--cpu", metavar="S", help="Seconds of CPU time; default: the timeout.")
    ] = None,
    memory: Annotated[int, typer.Option("--memory", metavar="MB", help="MiB of memory.")] = 512,
    processes: Annotated[int, typer.Option("--processes", help="Processes and threads.")] = 32,
    disk: Annotated[int, typer.Option("--disk", metavar="MB", help="MiB of files.")] = 64,
    inodes: Annotated[int, typer.Option("--inodes", help="Files and folders.")] = 4096,
    open_files: Annotated[int, typer.Option("--open-files", help="Descriptors per process.")] = 128,
    output: Annotated[
        int, typer.Option("--output", metavar="BYTES", help="Bytes of stdout and of stderr that are kept.")
    ] = 65_536,
    network: Annotated[bool, typer.Option("--network", help="With a network, where there is one.")] = False,
) -> int:
    """Run one snippet in a sandbox and print its typed result as a JSON object."""
    from agentrl.cli import sandbox as command
    from agentrl.sandbox import Limits

    limits = Limits(
        wall_seconds=timeout, cpu_seconds=timeout if cpu is None else cpu, memory_mb=memory,
        processes=processes, disk_mb=disk, inodes=inodes, open_files=open_files, output_bytes=output,
        network=network,
    )  # fmt: skip
    return command.run(file, options or [], backend=backend, language=lang, limits=limits)
