"""Finding the model that a setting names: the embedded policy, SmolLM2, a folder, or the hub's."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from agentrl import envs
from agentrl.chat.vision import FAMILIES, takes_images
from agentrl.config import TrainConfig
from agentrl.env import Env
from agentrl.errors import DefinitionError, ModelUnsupported, NotFound
from agentrl.registry import nearest, source_folder
from agentrl.train import smollm2, tiny_vision
from agentrl.train.cache import cached, environment_digest
from agentrl.train.warmup import OnProgress, warmup

log = logging.getLogger(__name__)

POLICY = "policy"
"""In a domain's folder: the model folder of the small policy that was warmed up on it."""

EMBEDDED = Path(envs.__file__).resolve().parent / "math" / POLICY
"""Math's, with which those of other environments begin."""


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How the shipped policy is taught another environment; see :func:`agentrl.train.warmup.warmup`."""

    vocabulary: int = 1024
    steps: int = 300
    demonstrations: int = 2400
    batch_size: int = 32
    learning_rate: float = 2e-3


FINE_TUNING = FineTuning()
"""Under two minutes on two cores."""


@dataclass(frozen=True, slots=True)
class Schooling:
    """How the policy that sees is made, from nothing; see :func:`agentrl.train.warmup.warmup`."""

    steps: int = 1200
    demonstrations: int = 4000
    batch_size: int = 32
    learning_rate: float = 2e-3


SCHOOLING = Schooling()

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def find_model(config: TrainConfig, env: Env, *, progress: OnProgress | None = None) -> Path:
    """The folder of the model that ``config.model`` names, made or fetched if need be.

    Args:
        config: ``model`` is ``embedded``, ``embedded-vl``, ``smollm2``, a folder or a name on the hub;
            ``seed`` counts where a model has to be trained.
        env: what an embedded policy is to know the format of.
        progress: told how a training goes on, if there is one.

    Raises:
        ModelUnsupported: the model is incomplete, cannot be fetched or converted, or takes text only where
            the environment shows images.
        NotFound: there is no such folder.
        AgentRLError: the environment's demonstrations failed; see :func:`agentrl.train.warmup.warmup`.
    """
    name = config.model
    if name in BUILT_IN:
        if env.images and name not in SEEING:
            raise _blind(name, env)
        return BUILT_IN[name](env, config.seed, progress)
    folder = Path(name).expanduser()
    if folder.exists():
        return _seeing(check_folder(folder).resolve(), env)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise NotFound(
            f"There is no model {name!r}: it is no folder here, and a name on the hub reads owner/name. "
            f"{nearest(name, list(BUILT_IN))}"
        )
    return _seeing(check_folder(_from_hub(name)), env)


def _seeing(folder: Path, env: Env) -> Path:
    """The folder, if its model can be shown what the environment shows."""
    if env.images and not takes_images(str(folder)):
        raise _blind(str(folder), env)
    return folder


def _blind(model: str, env: Env) -> ModelUnsupported:
    return ModelUnsupported(
        f"Environment {env.name} shows images, and model={model} takes text only. Use model=embedded-vl, or "
        f"a vision-language model of the kinds {', '.join(FAMILIES)}."
    )


def check_folder(folder: Path) -> Path:
    """``folder``, if it holds what a model needs.

    Raises:
        ModelUnsupported: naming all that is missing.
    """
    if not folder.is_dir():
        raise ModelUnsupported(f"model={folder} is a file; give the folder that holds the model.")
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        missing.append("tokenizer (tokenizer.json)")
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        missing.append("weights (*.safetensors)")
    if not missing:
        return folder
    hint = ""
    if any(folder.glob("global_step_*")) or (folder / "verl.yaml").is_file():
        hint = " It looks like a training run: `agentrl export RUN OUT` writes its model."
    elif any(folder.glob("*.gguf")):
        hint = " GGUF files are for other engines: give the model in Hugging Face's form."
    elif (folder / "adapter_config.json").is_file():
        hint = " It looks like a LoRA adapter: merge it into its base model first."
    raise ModelUnsupported(f"The model folder {str(folder)!r} has no {' and no '.join(missing)}.{hint}")


def _embedded(env: Env, seed: int, progress: OnProgress | None) -> Path:
    """The shipped policy where it knows the environment; else one fine-tuned on its demonstrations."""
    if not (EMBEDDED / "config.json").is_file():
        raise ModelUnsupported(
            f"The embedded policy is missing from this installation ({EMBEDDED}). Install agentrl again, "
            "or name another model: model=smollm2, a folder, or a name on the hub."
        )
    shipped = source_folder(env) / POLICY
    if (shipped / "config.json").is_file() and not getattr(env, "data", None):
        return shipped
    if not _has_expert(env):
        log.warning(
            "Environment %s has no expert to learn from, so the embedded policy does not know its tools or "
            "format, and will hardly solve a task. Define expert(), or name another model.",
            env.name,
        )
        return EMBEDDED
    settings = {"seed": seed, **asdict(FINE_TUNING)}
    digest = environment_digest(env, EMBEDDED, settings)
    return cached(f"{env.name}-{digest}", partial(_fine_tune, env, seed, progress))


def _fine_tune(env: Env, seed: int, progress: OnProgress | None, out: Path) -> None:
    warmup(
        env, out, seed=seed, steps=FINE_TUNING.steps, demonstrations=FINE_TUNING.demonstrations,
        batch_size=FINE_TUNING.batch_size, learning_rate=FINE_TUNING.learning_rate, start=EMBEDDED,
        vocabulary=FINE_TUNING.vocabulary, progress=progress,
    )  # fmt: skip


def _embedded_vl(env: Env, seed: int, progress: OnProgress | None) -> Path:
    """A small policy that sees, warmed up on the environment's demonstrations."""
    if not env.images:
        raise DefinitionError(
            f"model=embedded-vl is for environments that show images, and {env.name} does not declare any: "
            "set images = True in it, or use model=embedded."
        )
    shipped = source_folder(env) / POLICY
    if takes_images(str(shipped)) and not getattr(env, "data", None):
        return shipped
    settings = {"seed": seed, **asdict(SCHOOLING)}
    digest = environment_digest(env, Path(tiny_vision.__file__), settings)
    return cached(f"{env.name}-vl-{digest}", partial(_school, env, seed, progress))


def _school(env: Env, seed: int, progress: OnProgress | None, out: Path) -> None:
    warmup(env, out, seed=seed, progress=progress, **asdict(SCHOOLING))


def _has_expert(env: Env) -> bool:
    task = next(iter(env.tasks("train")), None)
    return task is not None and env.expert(task, random.Random(0)) is not None


def _from_hub(name: str) -> Path:
    """A model of the hub, in the hub's own cache.

    Raises:
        ModelUnsupported: it cannot be reached, does not exist, or may not be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except HFValidationError as problem:
        raise ModelUnsupported(f"model={name} is no name that the hub could know: {problem}") from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise ModelUnsupported(
            f"The model {name!r} is no folder here and could not be fetched from the hub "
            f"({_first_line(problem)}). Check the name, the network and, for gated models, HF_TOKEN; or "
            "download it elsewhere and give the folder."
        ) from problem


def _first_line(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {next(iter(str(problem).strip().splitlines()), '')}"


BUILT_IN: Mapping[str, Callable[[Env, int, OnProgress | None], Path]] = MappingProxyType(
    {
        "embedded": _embedded,
        "embedded-vl": _embedded_vl,
        "smollm2": lambda env, seed, progress: smollm2.find(),
    }
)
"""Models by name: ``(env, seed, progress) -> folder``."""

SEEING = frozenset({"embedded-vl"})
"""Those of them that are shown images."""
