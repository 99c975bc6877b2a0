"""Questions in a file, a folder or on the hub: HotpotQA's rows, or any with a question and an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, Task, read_split
from agentrl.envs.qa.factbook import write_corpus
from agentrl.tools.retrieval.corpus import cache_folder

OnBadRow = Literal["stop", "skip"]
Row = Mapping[str, Any]
SPLITS = ("train", "test")
HUB_CONFIG = "distractor"
"""Of HotpotQA: the rows bring the paragraphs that the corpus is made of."""


class Questions:
    """Where tasks and their corpus come from.

    Args:
        data: a folder, a file or a hub id, as :func:`agentrl.read_split` takes them; in a folder perhaps with
            ``corpus.jsonl``.
        on_bad_row: ``skip`` logs malformed rows, each with its number; ``stop`` raises.
    """

    def __init__(self, data: str, on_bad_row: OnBadRow = "stop") -> None:
        self._data, self._path, self._on_bad_row = data, Path(data).expanduser(), on_bad_row

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split.

        Raises:
            DataError: the data is missing or cannot be reached, or a row is malformed.
        """
        return [made for row in self._rows(split) if isinstance(made := _task(row), Task)]

    def corpus(self, cache: str | None = None) -> Path:
        """The corpus that comes with the questions: ``corpus.jsonl``, or made of the rows' own paragraphs.

        Args:
            cache: where a corpus that has to be made is kept; by default ``~/.cache/agentrl/qa``.

        Raises:
            ConfigError: the data brings none.
            DataError: the data is missing or cannot be reached, or a row is malformed.
        """
        beside = (self._path if self._path.is_dir() else self._path.parent) / "corpus.jsonl"
        if self._path.exists() and beside.is_file():
            return beside
        folder = Path(cache).expanduser() if cache else cache_folder("qa")
        path = folder / f"paragraphs-{self._stamp()}.jsonl"
        if not path.is_file():
            write_corpus(path, self._paragraphs(row for split in SPLITS for row in self._rows(split)))
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

    def _rows(self, split: str) -> Iterator[Row]:
        def problem(row: Row) -> str | None:
            made = _task(row)
            return made if isinstance(made, str) else None

        return read_split(self._data, split, on_error=self._on_bad_row, check=problem, prefer=HUB_CONFIG)


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
