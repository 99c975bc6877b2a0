"""Tasks from the rows of any dataset, by the names of its columns."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

from agentrl import ConfigError, Env, Message, Splits, Task, Template, read_rows, read_split, say

Row = Mapping[str, Any]


class Dataset(Env):
    r"""A task for each row of a dataset.

    Prompts are Jinja templates: a text, or a file whose name ends in ``.j2`` or ``.jinja``. They see the
    row's columns, but not the answer's.

    Args:
        data: a folder, a file or a hub id, as :func:`agentrl.read_split` takes them.
        prompt_column: what is asked, for the default ``template``.
        answer_column: what rewards compare with, as ``task.answer``; ``None`` if there is no such thing.
        answer_pattern: a regular expression with one group that picks the answer out of the column's text,
            such as ``#### (.+)``; a row that it does not match is malformed.
        template: the user's message; default: the prompt column.
        prompt: the system prompt, if any. It sees ``prompt`` (the user's message) and ``metadata``.
        examples: few-shot rows, or a file of them: each opens the dialogue as a question and its answer,
            written by ``template`` and ``example_template``.
        example_template: what the assistant says in an example, with all columns; default: the answer.
        tools: names of tools, as in any environment.
        tools_column: a list of the names of the tools that a row's episodes may use, or empty for all.
        rewards: names of rewards (``agentrl.rewards.math:correct``, ``./mine.py:exact``); or functions.
        id_column: the task's id.
        metadata_columns: columns to keep in ``task.metadata``, for rewards and tools.
        config: the hub's name of a part of the dataset.
        on_bad_row: what to do about a malformed row: ``stop`` or ``skip``.

    Raises:
        ConfigError: an option does not fit.
        DefinitionError: a template is not valid.
    """

    prompt: str | Template | None = r"Answer in \boxed{}."

    def __init__(
        self,
        data: str,
        prompt_column: str = "question",
        answer_column: str | None = "answer",
        answer_pattern: str | None = None,
        template: str | None = None,
        prompt: str | None = None,
        examples: str | Sequence[Row] = (),
        example_template: str | None = None,
        tools: Sequence[Any] = (),
        tools_column: str | None = None,
        rewards: Sequence[Any] = ("agentrl.rewards.math:correct",),
        id_column: str | None = None,
        metadata_columns: Sequence[str] = (),
        config: str | None = None,
        on_bad_row: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__(tools=_listed("tools", tools), rewards=_listed("rewards", rewards))
        if prompt is not None:
            self.prompt = Template(prompt)
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        self.data, self.config, self.on_bad_row = data, config, on_bad_row
        self.prompt_column, self.answer_column = prompt_column, answer_column
        self.id_column, self.tools_column = id_column, tools_column
        self.metadata_columns = tuple(_listed("metadata_columns", metadata_columns))
        self._answer_pattern = _pattern(answer_pattern)
        self._template = Template(template) if template else None
        self._example_template = Template(example_template) if example_template else None
        self._examples = self._read_examples(examples)
        self._splits = Splits(self._read, names=None)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, read once; no prompt stands in both.

        Raises:
            ConfigError: the split is unknown.
            DataError: ``data`` cannot be read.
            DefinitionError: a template names a column that there is not.
        """
        return self._splits(split)

    def _read(self, split: str, _: set[Hashable]) -> list[Task]:
        columns = _distinct(*self._said(), self.id_column, self.tools_column, *self.metadata_columns)
        rows = read_split(
            self.data, split, columns, on_error=self.on_bad_row, check=self._problem, config=self.config
        )
        return [self._task(row) for row in rows]

    def messages(self, task: Task) -> list[Message]:
        """The prompt, the examples, and the task."""
        opening = super().messages(task)
        shown = [message for row in self._examples for message in self._example(row)]
        return [*opening[:-1], *shown, opening[-1]]

    def _said(self) -> list[str]:
        """The columns that a question and its answer are made of, templates aside."""
        return _distinct(None if self._template else self.prompt_column, self.answer_column)

    def _problem(self, row: Row) -> str | None:
        """What is wrong with a row that has the columns."""
        if self.tools_column is not None and not _names_or_nothing(row[self.tools_column]):
            return f"{self.tools_column!r} must be a list of names of tools"
        return self._problem_of_words(row)

    def _problem_of_words(self, row: Row) -> str | None:
        """What is wrong with a row's question or answer."""
        if self._template is None:
            text = row[self.prompt_column]
            if not isinstance(text, str) or not text.strip():
                return f"{self.prompt_column!r} must be text"
        if self.answer_column is not None:
            answer = row[self.answer_column]
            if answer is None or (isinstance(answer, str) and not answer.strip()):
                return f"{self.answer_column!r} is empty"
            if self._answer_pattern and not self._answer_pattern.search(str(answer)):
                return f"{self.answer_column!r} does not match {self._answer_pattern.pattern!r}"
        return None

    def _task(self, row: Row) -> Task:
        metadata = {name: row[name] for name in self.metadata_columns}
        if self.tools_column is not None and row[self.tools_column]:
            metadata["tools"] = list(row[self.tools_column])
        name = "" if self.id_column is None else str(row[self.id_column])
        return Task(self._question(row), answer=self._answer(row), id=name, metadata=metadata)

    def _question(self, row: Row) -> str:
        if self._template is None:
            return str(row[self.prompt_column]).strip()
        return self._template.render(**{key: row[key] for key in row if key != self.answer_column}).strip()

    def _answer(self, row: Row) -> Any:
        if self.answer_column is None:
            return None
        answer = row[self.answer_column]
        match = self._answer_pattern.search(str(answer)) if self._answer_pattern else None
        if match is not None:
            return match[1].strip()
        return answer.strip() if isinstance(answer, str) else answer

    def _read_examples(self, examples: str | Sequence[Row]) -> list[Row]:
        columns = self._said()
        if examples and self.answer_column is None and self._example_template is None:
            raise ConfigError("Examples of a dataset without answer_column need an example_template.")
        if isinstance(examples, str):
            return list(read_rows(examples, columns, check=self._problem_of_words))
        for number, row in enumerate(examples, start=1):
            missing = [name for name in columns if name not in row]
            problem = f"it lacks {missing[0]!r}" if missing else self._problem_of_words(row)
            if problem:
                raise ConfigError(f"Example {number} does not fit: {problem}.")
        return list(examples)

    def _example(self, row: Row) -> Iterator[Message]:
        template = self._example_template
        yield {"role": "user", "content": self._question(row)}
        yield say(str(self._answer(row)) if template is None else template.render(**row).strip())


def _listed(option: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{option}={value!r} must be a list, such as {option}: [{value}].")
    return value


def _distinct(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _names_or_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as problem:
        raise ConfigError(f"answer_pattern={pattern!r} is no regular expression: {problem}.") from None
    if compiled.groups != 1:
        raise ConfigError(f"answer_pattern={pattern!r} needs one group in (…), and has {compiled.groups}.")
    return compiled
