"""The search tool beside the libraries it stands on: BM25 beside bm25s called directly, dense beside NumPy.

    python -m benchmarks.search [--passages 1000000] [--json]

A corpus of made-up passages, whose words are as unevenly frequent as a language's, is indexed by the tool (in
a process of its own, whose memory is measured) and by bm25s in memory. Then both answer the same queries in
turn. The dense search has the size of the built-in corpus of `qa`: every entry of the World Factbook, encoded
by the bundled MiniLM; beside it the same vectors are in memory and compared by one product. Nothing else
should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from agentrl import Observation, ToolContext
from agentrl.envs.qa import factbook
from agentrl.tools.retrieval.bm25 import Bm25
from agentrl.tools.retrieval.corpus import Corpus
from agentrl.tools.retrieval.dense import encoder
from agentrl.tools.search import Search

VOCABULARY, WORDS, TOPK = 200_000, 60, 3
BLOCK = 20_000


def write_passages(path: Path, count: int) -> None:
    """Passages of about a hundred words' length, drawn by Zipf's law."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(VOCABULARY)]
    chances = 1 / (np.arange(VOCABULARY) + 10.0)
    ends = np.cumsum(chances / chances.sum())
    with path.open("w") as file:
        for first in range(0, count, BLOCK):
            drawn = np.searchsorted(ends, rng.random((min(BLOCK, count - first), WORDS)))
            for number, row in enumerate(np.minimum(drawn, VOCABULARY - 1), start=first):
                text = " ".join([words[word] for word in row])
                file.write(json.dumps({"id": number, "title": f"passage {number}", "text": text}) + "\n")


def queries(corpus: Corpus, count: int) -> list[str]:
    """Five words of as many passages."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(corpus), count)
    return [" ".join(rng.choice(corpus[int(row)]["text"].split(), 5)) for row in rows]


def make_index(path: str, cache: str, told: Any) -> None:
    """In a process of its own: how long making the index takes, and how much memory."""
    began = time.perf_counter()
    Bm25(Corpus(path, cache)).search("nothing", 1)
    told.put((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def search_alone(path: str, cache: str, asked: Sequence[str], told: Any) -> None:
    """In a process of its own: the memory that searching takes which other processes cannot share."""
    import bm25s  # noqa: F401  loaded before memory is looked at

    before = anonymous_mib()
    searched = Bm25(Corpus(path, cache))
    for query in asked:
        searched.search(query, TOPK)
    told.put(anonymous_mib() - before)


def anonymous_mib() -> float:
    """Memory of this process that is no mapped file."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def apart(function: Callable[..., None], *arguments: Any) -> Any:
    """What a function tells, run in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    told = spawn.Queue()
    process = spawn.Process(target=function, args=(*arguments, told))
    process.start()
    answer = told.get()
    process.join()
    return answer


async def in_turn(
    ours: Callable[[str], Awaitable[list[str]]], theirs: Callable[[str], list[str]], asked: Sequence[str]
) -> tuple[float, float, float]:
    """Median milliseconds of both over the queries, and the share of queries with the same best document."""
    mine, other, same = [], [], 0
    for query in asked:
        began = time.perf_counter()
        found = await ours(query)
        between = time.perf_counter()
        wanted = theirs(query)
        mine.append(between - began)
        other.append(time.perf_counter() - between)
        same += found[:1] == wanted[:1]  # of equal scores, either may come first
    return 1000 * statistics.median(mine), 1000 * statistics.median(other), same / len(asked)


async def ask(tool: Any, query: str) -> list[str]:
    """Ids of the documents that the tool finds, as an episode calls it."""
    seen = Observation.of(await tool.invoke({"query": query}))
    return [document["id"] for document in seen.metadata["documents"]]


async def bm25(folder: Path, passages: int, count: int) -> dict[str, float]:
    """The tool beside bm25s."""
    import bm25s

    path, cache = folder / "passages.jsonl", str(folder / "cache")
    write_passages(path, passages)
    seconds, peak = apart(make_index, str(path), cache)
    corpus = Corpus(str(path), cache)
    asked = queries(corpus, count)
    unshared = apart(search_alone, str(path), cache, asked)
    tool = Search(corpus, topk=TOPK).spawn(ToolContext())
    began = time.perf_counter()
    documents = list(corpus.documents())
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize([one["contents"] for one in documents], show_progress=False), show_progress=False
    )
    direct_seconds = time.perf_counter() - began

    def direct(query: str) -> list[str]:
        words = bm25s.tokenize([query], return_ids=False, show_progress=False)
        rows, _ = index.retrieve(words, k=TOPK, show_progress=False)
        return [documents[int(row)]["id"] for row in rows[0]]

    await in_turn(lambda query: ask(tool, query), direct, asked[:5])
    mine, other, same = await in_turn(lambda query: ask(tool, query), direct, asked)
    return {
        "passages": passages, "index_seconds": seconds, "index_peak_mib": peak,
        "direct_index_seconds": direct_seconds, "worker_unshared_mib": unshared, "bm25_ms": mine,
        "bm25s_direct_ms": other, "bm25_ratio": mine / other, "bm25_same": same,
    }  # fmt: skip


async def dense(folder: Path, entries: int | None, count: int) -> dict[str, float]:
    """The tool beside one product of NumPy's, both with the encoding of the query."""
    path = folder / "entries.jsonl"
    with factbook.corpus_file(str(folder)).open() as lines:
        path.write_text("".join(islice(lines, entries)))
    corpus = Corpus(str(path), str(folder / "cache"))
    tool = Search(corpus, topk=TOPK, kind="dense").spawn(ToolContext())
    began = time.perf_counter()
    await ask(tool, "warm")
    seconds = time.perf_counter() - began
    [file] = (folder / "cache").rglob("vectors.npy")
    vectors, model = np.load(file), encoder("minilm")
    documents = list(corpus.documents())

    def direct(query: str) -> list[str]:
        scores = vectors @ model.encode([query], query=True)[0]
        best = np.argpartition(scores, -TOPK)[-TOPK:]
        return [documents[int(row)]["id"] for row in best[np.argsort(-scores[best])]]

    asked = [f"the highest mountain of {country}" for country in factbook.countries()[:count]]
    await in_turn(lambda query: ask(tool, query), direct, asked[:5])
    mine, other, same = await in_turn(lambda query: ask(tool, query), direct, asked)
    return {
        "documents": len(documents), "encode_seconds": seconds, "dense_ms": mine, "numpy_ms": other,
        "dense_ratio": mine / other, "dense_same": same,
    }  # fmt: skip


async def measure(passages: int, entries: int | None, count: int, where: str | None) -> dict[str, float]:
    """Both comparisons, in a folder that is removed."""
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        found = await bm25(folder, passages, count)
        print(f"BM25 over {passages:,} passages, median of {count} queries")
        print(
            f"  the tool {found['bm25_ms']:.2f} ms, bm25s directly {found['bm25s_direct_ms']:.2f} ms: ",
            end="",
        )
        print(f"{found['bm25_ratio']:.2f} times; the same best document for {found['bm25_same']:.0%}")
        print(f"  index: {found['index_seconds']:.0f} s, peak {found['index_peak_mib']:.0f} MiB; ", end="")
        print(f"bm25s in memory {found['direct_index_seconds']:.0f} s; ", end="")
        print(f"a worker's own memory {found['worker_unshared_mib']:.0f} MiB", flush=True)
    with tempfile.TemporaryDirectory(dir=where) as name:
        found |= await dense(Path(name), entries, count)
        print(f"Dense over {found['documents']:,} documents, median of the queries")
        print(f"  the tool {found['dense_ms']:.2f} ms, NumPy {found['numpy_ms']:.2f} ms: ", end="")
        print(f"{found['dense_ratio']:.2f} times; the same best document for {found['dense_same']:.0%}")
        print(f"  encoding: {found['encode_seconds']:.0f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, help="of the Factbook, for the dense search; by default all")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--folder", help="where the corpus and the indexes are made; by default the temporary folder"
    )
    parser.add_argument("--json", action="store_true", help="end with the figures as a JSON object")
    options = parser.parse_args()
    found = asyncio.run(measure(options.passages, options.entries, options.queries, options.folder))
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
