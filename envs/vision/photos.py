"""Questions about image files: easy-VQA, or a user's rows of ``image``, ``question`` and ``answer``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_split
from agentrl.tools.vision.album import SUFFIXES

OnBadRow = Literal["stop", "skip"]
EASY_VQA = "easy-vqa"
COLUMNS = ("image", "question", "answer")


def load(data: str, split: str, on_bad_row: OnBadRow = "stop") -> Iterator[Task]:
    """The tasks of a split; ``metadata["file"]`` is the image's path. No file is opened.

    Args:
        data: ``easy-vqa``, or what :func:`agentrl.read_split` takes, on this machine. Paths in the column
            ``image`` are relative to the rows' folder, and lie within it.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.

    Raises:
        ConfigError: the package easy-vqa is not installed.
        DataError: the data is missing, or a row is malformed.
    """
    if data == EASY_VQA:
        yield from _easy_vqa(split)
        return
    path = Path(data).expanduser()
    if not path.exists():
        raise DataError(
            f"There is no file or folder {data!r}. Give data={EASY_VQA}, a folder with train.jsonl, "
            "test.jsonl and the images, or one such file."
        )
    folder = (path if path.is_dir() else path.parent).resolve()
    for row in read_split(str(path), split, COLUMNS, on_error=on_bad_row, check=_checked(folder)):
        yield _task(row["question"], str(row["answer"]), folder / row["image"])


def _checked(folder: Path) -> Callable[[dict[str, Any]], str | None]:
    """Says what is wrong with a row."""

    def check(row: dict[str, Any]) -> str | None:
        image, question, answer = (row[name] for name in COLUMNS)
        if not isinstance(image, str) or not isinstance(question, str) or not question.strip():
            return "'image' and 'question' must be text"
        if not isinstance(answer, str | int | float) or not str(answer).strip():
            return "'answer' must be text or a number"
        file = (folder / image).resolve()
        if not file.is_relative_to(folder):
            return f"the image {image!r} lies outside of {str(folder)!r}"
        if file.suffix.lower() not in SUFFIXES:
            return f"the image {image!r} is none of {', '.join(SUFFIXES)}"
        return None if file.is_file() else f"there is no image {str(file)!r}"

    return check


def _easy_vqa(split: str) -> Iterator[Task]:
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise ConfigError(f"data={EASY_VQA} needs its package: pip install 'agentrl[vision]'.")
    folder = Path(found.origin).parent / "data" / split
    for question, answer, image in json.loads((folder / "questions.json").read_text()):
        yield _task(question, answer, folder / "images" / f"{image}.png")


def _task(question: str, answer: str, file: Path) -> Task:
    return Task(question.strip(), answer=answer.strip(), metadata={"file": str(file)})
