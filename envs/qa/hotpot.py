"""Questions in a file, a folder or on the hub: HotpotQA's rows, or any with a question and an answer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_rows
from agentrl.envs.qa.factbook import write_corpus
from agentrl.tools.retrieval.corpus import cache_folder

logger = logging.getLogger(__name__)

OnBadRow = Literal["stop", "skip"]
Row = Mapping[str, Any]
NAMES = {"train": ("train",), "test": ("test", "dev", "validation")}
SUFFIXES = (".jsonl", ".json", ".parquet")
HUB_SPLIT = {"train": "train", "test": "validation"}
HUB_CONFIG = "distractor"
"""Of HotpotQA: the rows bring the paragraphs that the corpus is made of."""


class Questions:
    """Where tasks and their corpus come from.

    Args:
        data: a folder with ``train.jsonl`` and ``dev.jsonl`` or ``test.jsonl`` (or ``.parquet``) and perhaps
            ``corpus.jsonl``; one such file, of which every eighth row is for ``test``; or a hub id such as
            ``hotpotqa/hotpot_qa``.
        on_bad_row: ``skip`` logs malformed rows, each with its number; ``stop`` raises.

    Raises:
        DataError: there is no such file or folder.
    """

    def __init__(self, data: str, on_bad_row: OnBadRow = "stop") -> None:
        self._data, self._path, self._on_bad_row = data, Path(data).expanduser(), on_bad_row
        self._is_hub = not self._path.exists()
        local = self._path.is_absolute() or data.startswith((".", "~")) or self._path.suffix in SUFFIXES
        if self._is_hub and (local or data.count("/") != 1):
            raise DataError(
                f"There is no file or folder {data!r}. Give data= a folder with train.jsonl and dev.jsonl, "
                "one such file, or a hub id like hotpotqa/hotpot_qa."
            )

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split.

        Raises:
            DataError: the data is missing or cannot be reached, or a row is malformed.
        """
        made: list[Task] = []
        for where, row in self._rows(split):
            task = row if isinstance(row, str) else _task(row)
            if isinstance(task, Task):
                made.append(task)
            elif self._on_bad_row == "skip":
                logger.warning("skipped %s: %s", where, task)
            else:
                raise DataError(
                    f"{where}: {task}. Mend the line, or pass on_bad_row=skip to leave such rows out."
                )
        if self._path.is_file():
            return [task for at, task in enumerate(made) if (at % 8 == 7) == (split == "test")]
        return made

    def corpus(self, cache: str | None = None) -> Path:
        """The corpus that comes with the questions: ``corpus.jsonl``, or made of the rows' own paragraphs.

        Args:
            cache: where a corpus that has to be made is kept; by default ``~/.cache/agentrl/qa``.

        Raises:
            ConfigError: the data brings none.
        """
        beside = (self._path if self._path.is_dir() else self._path.parent) / "corpus.jsonl"
        if not self._is_hub and beside.is_file():
            return beside
        folder = Path(cache).expanduser() if cache else cache_folder("qa")
        path = folder / f"paragraphs-{self._stamp()}.jsonl"
        if not path.is_file():
            splits = ("train",) if self._path.is_file() else tuple(NAMES)
            rows = (row for split in splits for _, row in self._rows(split) if not isinstance(row, str))
            write_corpus(path, self._paragraphs(rows))
        return path

    def _stamp(self) -> str:
        """Names the state of the data."""
        files = [self._path] if self._path.is_file() else sorted(self._path.glob("*"))
        state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(json.dumps([self._data, *state]).encode()).hexdigest()[:16]

    def _paragraphs(self, rows: Iterable[Row]) -> Iterator[Mapping[str, str]]:
        """Every paragraph that stands in a row, once."""
        seen: set[bytes] = set()
        for row in rows:
            for title, text, _ in _contexts(row):
                digest = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield {"id": str(len(seen) - 1), "title": title, "text": text}
        if not seen:
            raise ConfigError(
                f"data={self._data!r} brings no corpus.jsonl and no paragraphs. Name a file of documents "
                "with env_options.corpus=, or a search server with env_options.url=."
            )

    def _rows(self, split: str) -> Iterator[tuple[str, Row | str]]:
        """(place, row or what is wrong with it)"""
        if self._is_hub:
            yield from _from_hub(self._data, split)
            return
        path = self._path if self._path.is_file() else _split_file(self._path, split)
        if path.suffix == ".parquet":
            yield from ((f"{path} row {number}", row) for number, row in enumerate(read_rows(path), start=1))
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path} line {number}", _parsed(line)


def _parsed(line: bytes) -> Row | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as problem:
        return f"not valid JSON ({problem})"
    return row if isinstance(row, dict) else f"a row must be an object, not {type(row).__name__}"


def _split_file(folder: Path, split: str) -> Path:
    for candidate in (folder / f"{name}{suffix}" for name in NAMES[split] for suffix in SUFFIXES):
        if candidate.is_file():
            return candidate
    expected = " or ".join(f"{name}.jsonl" for name in NAMES[split])
    raise DataError(f"Folder {str(folder)!r} has no file for the {split} split: it needs {expected}.")


def _from_hub(name: str, split: str) -> Iterator[tuple[str, Row]]:
    try:
        import datasets
    except ImportError as problem:
        raise ConfigError(
            f"There is no folder {name!r} here, and loading it from the hub needs `pip install datasets`."
        ) from problem
    try:
        config = HUB_CONFIG if HUB_CONFIG in datasets.get_dataset_config_names(name) else None
        rows = datasets.load_dataset(name, config, split=HUB_SPLIT[split])
    except Exception as problem:  # offline, unknown, gated: the hub's client raises many kinds
        raise DataError(
            f"There is no folder {name!r} here, and the hub's data set {name!r} (split {HUB_SPLIT[split]}) "
            f"could not be loaded: {type(problem).__name__}: {problem}. Check the name and the network, or "
            "download it elsewhere and pass data=<folder> with train.jsonl and dev.jsonl."
        ) from problem
    yield from ((f"{name} ({split}) row {number}", row) for number, row in enumerate(rows, start=1))


# ---- the forms of rows ------------------------------------------------------------------------


def _task(row: Row) -> Task | str:
    """The row's task, or what is wrong with the row."""
    question = row.get("question", row.get("question_text"))
    if not isinstance(question, str) or not question.strip():
        return "'question' (or 'question_text') must be text"
    answers = _answers(row)
    if not answers:
        return "it needs an answer: 'answer', 'answers', 'golden_answers' or 'answers_objects', as text"
    answer: str | list[str] = answers[0] if len(answers) == 1 else answers
    try:
        titles = list(dict.fromkeys(title for title, _, supports in _contexts(row) if supports))
    except (TypeError, KeyError, AttributeError, ValueError) as problem:
        return f"its paragraphs cannot be read ({type(problem).__name__}: {problem})"
    return Task(question.strip(), answer=answer, metadata={"titles": titles})


def _answers(row: Row) -> list[str]:
    """The texts that are right."""
    found = row.get("answer", row.get("answers", row.get("golden_answers")))
    if found is None and isinstance(row.get("answers_objects"), list):
        objects = row["answers_objects"]
        found = [span for one in objects if isinstance(one, dict) for span in one.get("spans") or ()]
    listed = found if isinstance(found, list | tuple) else [found]
    return [one.strip() for one in listed if isinstance(one, str) and one.strip()]


def _contexts(row: Row) -> Iterator[tuple[str, str, bool]]:
    """(title, text, whether the answer rests on it) of the paragraphs that a row brings."""
    for one in row.get("contexts") or ():
        yield one["title"], one["paragraph_text"], bool(one.get("is_supporting"))
    context = row.get("context")
    if isinstance(context, Mapping):  # as the hub has it
        supporting = set((row.get("supporting_facts") or {}).get("title", ()))
        for title, sentences in zip(context["title"], context["sentences"], strict=True):
            yield title, "".join(sentences), title in supporting
