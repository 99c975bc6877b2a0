"""From the words of a command line to a configuration and its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.config import TrainConfig, load_config, merged, parse_overrides, validate
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.registry import find_env, source_folder
from agentrl.store import RunFolder


def load(name: str, words: Sequence[str]) -> tuple[TrainConfig, Env]:
    """The configuration for an environment, and the environment made with it.

    The environment's folder holds settings of its own, among them options of the environment: so
    it is found first, and made again if those options differ.

    Raises:
        UsageError: there is no such environment, or a setting is unknown or does not fit.
    """
    asked = parse_overrides(words)
    options = _options(asked)
    env = find_env(name, options)
    config = load_config(name, words, folder=source_folder(env))
    if config.environment_options != options:
        env = find_env(name, config.environment_options)
    return config, env


def load_resumed(name: str, words: Sequence[str]) -> tuple[TrainConfig, Env, RunFolder]:
    """The configuration of a run that is gone on with, its environment, and its folder.

    Its settings are the run's own; the words may change them, to train for more steps for example.

    Raises:
        UsageError: there is no such run, it is of another environment, or a setting does not fit.
    """
    asked = parse_overrides(words)
    root = str(asked.get("runs", TrainConfig.model_fields["runs"].default))
    run = RunFolder.open(str(asked["resume"]), root)
    saved = run.read_config()
    if saved.get("env") != name:
        raise ConfigError(
            f"Run {str(run.path)!r} trains {saved.get('env')!r}, not {name!r}. "
            "Name its environment, or another run."
        )
    config = validate({**merged(saved, asked), "env": name})
    return config, find_env(name, config.environment_options), run


def refuse(words: Sequence[str], unused: Sequence[str], command: str) -> None:
    """An error for settings that a command does not use: they would have no effect.

    Raises:
        ConfigError: naming them.
    """
    found = sorted(set(parse_overrides(words)) & set(unused))
    if found:
        raise ConfigError(
            f"agentrl {command} does not use {', '.join(found)}; "
            f"leave {'it' if len(found) == 1 else 'them'} out."
        )


def _options(asked: Mapping[str, Any]) -> dict[str, Any]:
    given = asked.get("env_options", {})
    options = dict(given) if isinstance(given, Mapping) else {}
    return {"data": asked["data"], **options} if asked.get("data") is not None else options
