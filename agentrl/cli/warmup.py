"""``agentrl warmup``: a model learns an environment's form from its scripted expert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from rich.console import Console
from rich.text import Text

from agentrl.cli.models import follower, warmup_bars
from agentrl.cli.settings import load
from agentrl.config import Section, parse_overrides, warmup_words
from agentrl.errors import ConfigError
from agentrl.registry import find_env, nearest, source_folder

SHARED = ("seed", "data", "env_options", "on_bad_row", "sandbox", "preset")
"""Settings of a training run that a warm-up uses, too."""


class WarmupSettings(Section):
    """What a warm-up can be told beside :data:`SHARED`."""

    out: Path = Field(
        Path("models/warm"), description="the model folder to write; must not exist or be empty"
    )
    start: Path | None = Field(
        None, description="the model folder to begin with, or 'embedded'; default: a new small model"
    )
    vocabulary: int | None = Field(
        None, ge=263, description="learn one of at most so many tokens; default: that of start, or 512"
    )
    recurs: int = Field(
        40, ge=1, description="a token of it occurs in one episode of so many; fewer for more spelling"
    )
    steps: int = Field(1000, ge=1)
    demonstrations: int = Field(8000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(4e-3, gt=0)


def warmup(env: str, words: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        AgentRLError: a setting does not fit, the environment has no expert, or machines failed.
    """
    own = warmup_words(source_folder(find_env(env)))
    settings, shared = split([*own, *words])
    config, environment = load(env, shared)
    from agentrl.train.models import EMBEDDED
    from agentrl.train.runtime import open_sandbox_if_any
    from agentrl.train.warmup import warmup as fit

    console = Console()
    with warmup_bars(console) as bars:
        report = fit(
            environment,
            settings.out,
            seed=config.seed,
            steps=settings.steps,
            demonstrations=settings.demonstrations,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            start=EMBEDDED if settings.start == Path("embedded") else settings.start,
            vocabulary=settings.vocabulary,
            recurs=settings.recurs,
            sandbox=open_sandbox_if_any(config),
            progress=follower(bars),
        )
    console.print(
        Text(
            f"Wrote {settings.out}: {report.parameters:,} parameters, loss {report.loss:.3f} nats per token, "
            f"from {report.demonstrations:,} demonstrations (of which {report.expert_success:.1%} solved).\n"
            f"Train it: agentrl train {env} model={settings.out}"
        ),
        soft_wrap=True,
    )
    return 0


def split(words: Sequence[str]) -> tuple[WarmupSettings, list[str]]:
    """The warm-up's own settings, and the words that are for the environment.

    Raises:
        ConfigError: a setting is unknown here or does not fit.
    """
    asked = parse_overrides(words)
    own = {key: value for key, value in asked.items() if key in WarmupSettings.model_fields}
    known = [*WarmupSettings.model_fields, *SHARED]
    for key in asked:
        if key not in known:
            raise ConfigError(f"agentrl warmup has no setting {key}. {nearest(key, known)}")
    try:
        settings = WarmupSettings.model_validate(own)
    except ValidationError as problem:
        raise ConfigError("\n".join(_explain(error) for error in problem.errors())) from None
    return settings, [word for word in words if word.partition("=")[0].partition(".")[0] not in own]


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    return f"{name}={error['input']!r}: {error['msg']}."
