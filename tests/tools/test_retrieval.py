"""The ways to search a corpus, what is kept on disk, and the tool that reads a document."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
from pathlib import Path

import bm25s
import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agentrl import ConfigError, DataError, InfrastructureError, Observation, ToolContext, ToolError
from agentrl.tools.open_document import OpenDocument, paged
from agentrl.tools.retrieval import bm25, dense
from agentrl.tools.retrieval.bm25 import Bm25
from agentrl.tools.retrieval.corpus import Corpus, new_array
from agentrl.tools.retrieval.dense import Dense, encoder, nearest
from agentrl.tools.retrieval.hybrid import fuse
from agentrl.tools.search import Search

CORPUS = Path(__file__).parent / "corpus.jsonl"
WORDS = [f"word{number}" for number in range(60)]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made_up(path: Path, count: int) -> Path:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(0, 40))) for _ in range(count)]
    return write(path, *({"id": n, "title": f"T{n}", "text": text} for n, text in enumerate(texts)))


async def ask(tool, **arguments) -> Observation:
    return Observation.of(await tool.spawn(ToolContext()).invoke(arguments))


# ---- BM25 -------------------------------------------------------------------------------------


def test_scores_are_those_of_bm25s(tmp_path, monkeypatch):
    """Although the index is made in blocks and on the disk."""
    monkeypatch.setattr(bm25, "BLOCK", 7)
    corpus = Corpus(str(made_up(tmp_path / "corpus.jsonl", 100)), cache=str(tmp_path / "cache"))
    ours = Bm25(corpus)
    theirs = bm25s.BM25()
    theirs.index(
        bm25s.tokenize([document["contents"] for document in corpus.documents()], show_progress=False),
        show_progress=False,
    )
    for query in ("word1", "word2 word3 word3", "T7 word9", "word5 unknown"):
        known = [
            w for w in bm25s.tokenize([query], return_ids=False, show_progress=False)[0] if w != "unknown"
        ]
        wanted = theirs.get_scores(known)
        found = ours.search(query, 100)
        assert {row for row, _ in found} == set(np.flatnonzero(wanted))
        np.testing.assert_allclose(
            [score for _, score in found], np.sort(wanted)[::-1][: len(found)], rtol=1e-5
        )
        for row, score in found:
            assert score == pytest.approx(wanted[row], rel=1e-5)


def test_processes_that_start_together_make_one_index(tmp_path):
    path, cache = made_up(tmp_path / "corpus.jsonl", 500), tmp_path / "cache"
    code = f"""if True:
        from agentrl.tools.retrieval.bm25 import Bm25
        from agentrl.tools.retrieval.corpus import Corpus
        print(Bm25(Corpus({str(path)!r}, {str(cache)!r})).search("word1", 1))
    """
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=100)[0] for process in started]
    assert answers[0].startswith("[(") and answers == [answers[0]] * 2
    [home] = cache.iterdir()
    assert {part.name.partition("-")[0] for part in home.iterdir()} == {"rows", "bm25", "lock"}


def test_the_index_is_mapped_and_the_corpus_is_not_loaded(tmp_path):
    corpus = Corpus(str(made_up(tmp_path / "corpus.jsonl", 50)), cache=str(tmp_path / "cache"))
    searched = Bm25(corpus)
    searched.search("word1", 1)
    scores = searched._index.scores
    for array in (scores["data"], scores["indices"], searched._words, corpus._open().rows):
        assert isinstance(array, np.memmap)


def test_naming_a_corpus_does_not_read_it(tmp_path):
    Search(Corpus(str(CORPUS), cache=str(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()


def test_every_document_is_found_by_title_and_by_id(tmp_path):
    corpus = Corpus(str(made_up(tmp_path / "corpus.jsonl", 300)), cache=str(tmp_path / "cache"))
    assert [corpus.named(f"t{row}") for row in range(300)] == [[row] for row in range(300)]
    assert [corpus.named(str(row)) for row in range(300)] == [[row] for row in range(300)]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    corpus = Corpus(str(CORPUS), cache=str(tmp_path))
    assert len(corpus) == 5
    [home] = tmp_path.iterdir()
    (home / "making-killed").mkdir()
    Bm25(corpus).search("capital", 1)
    assert not (home / "making-killed").exists()


def test_a_cache_that_cannot_be_written_is_the_machines_failure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot be kept under"):
        len(Corpus(str(CORPUS), cache=str(tmp_path / "file")))


def test_an_array_takes_its_room_at_once(tmp_path):
    made = new_array(tmp_path / "a.npy", np.float32, (1000, 10))
    made[:] = 1
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 40_000
    with pytest.raises(OSError):
        new_array(tmp_path / "b.npy", np.float32, (1 << 50,))


# ---- dense and hybrid -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def meaning(tmp_path_factory):
    return Search(str(CORPUS), kind="dense", topk=2, cache=str(tmp_path_factory.mktemp("cache")))


async def test_dense_search_finds_what_shares_no_word(meaning):
    seen = await ask(meaning, query="the biggest world circling our star")
    assert seen.metadata["documents"][0]["title"] == "Jupiter"
    assert seen.metadata["scores"] == sorted(seen.metadata["scores"], reverse=True)
    words = Search(meaning.corpus)
    assert (await ask(words, query="biggest world circling our star")).text == "No documents match."


async def test_hybrid_search_joins_both(meaning):
    tool = Search(meaning.corpus, kind="hybrid", topk=5)
    seen = await ask(tool, query="capital of the Italian republic")
    assert seen.metadata["documents"][0]["title"] == "Rome" and len(seen.metadata["documents"]) == 5
    assert seen.metadata["scores"][0] == pytest.approx(2 / 61)


def test_vectors_are_of_length_one_whatever_they_are_encoded_with():
    texts = ["Rome", "a much longer text about the river Seine and the city of Paris " * 40, ""]
    together = encoder("minilm").encode(texts, query=False)
    alone = np.concatenate([encoder("minilm").encode([text], query=True) for text in texts])
    assert together.shape == (3, 384) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_index_of_vectors_is_in_the_corpuss_order(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "ENCODED", 2)
    corpus = Corpus(str(CORPUS), cache=str(tmp_path))
    searched = Dense(corpus)
    [(row, _)] = searched.search("Zürich", 1)
    assert corpus[row]["title"] == "Zürich"
    wanted = encoder("minilm").encode([document["contents"] for document in corpus.documents()], query=False)
    assert searched._vectors is not None
    np.testing.assert_allclose(np.array(searched._vectors), wanted, atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.integers(1, 60))
def test_blocks_find_what_all_at_once_would(seed, count, block, most):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (count, 3)).astype(np.float32)  # many are equal
    query = rng.integers(-2, 3, 3).astype(np.float32)
    wanted = sorted(range(count), key=lambda row: (-(vectors @ query)[row], row))[:most]
    before, dense.COMPARED = dense.COMPARED, block
    try:
        found = nearest(vectors, query, most)
    finally:
        dense.COMPARED = before
    scores = vectors @ query
    assert [score for _, score in found] == [scores[row] for row in wanted]
    assert len({row for row, _ in found}) == len(wanted)


def test_reciprocal_ranks_are_added():
    fused = fuse([[(7, 9.0), (3, 8.0)], [(3, 0.5), (1, 0.4), (7, 0.3)]])
    assert fused == [(3, 1 / 62 + 1 / 61), (7, 1 / 61 + 1 / 63), (1, 1 / 62)]


async def test_a_model_that_is_not_there_is_named(tmp_path):
    tool = Search(str(CORPUS), kind="dense", model="no/such-model", cache=str(tmp_path))
    with pytest.raises(ConfigError, match="'no/such-model'"):
        await ask(tool, query="capital")


def test_options_that_do_not_fit():
    with pytest.raises(ConfigError, match="bm25, dense, hybrid"):
        Search(str(CORPUS), kind="exact")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of them"):
        Search(str(CORPUS), url="http://127.0.0.1:1/retrieve")
    with pytest.raises(ConfigError, match="no address"):
        Search(url="127.0.0.1:1/retrieve")


async def test_documents_may_be_shown_in_part(tmp_path):
    tool = Search(str(CORPUS), characters=12, topk=1, cache=str(tmp_path))
    seen = await ask(tool, query="Italy")
    assert seen.text == "Doc 1 (Title: Rome) Rome is the …"
    assert seen.metadata["documents"][0]["text"] == "Rome is the capital of Italy."


# ---- another server ---------------------------------------------------------------------------


@pytest.fixture
async def serve():
    """Starts a server that gives one answer to everything; ends it."""
    runners = []

    async def start(status: int = 200, text: str = "", hang: bool = False) -> str:
        async def answer(request: web.Request) -> web.Response:
            if hang:
                await asyncio.Event().wait()
            return web.Response(status=status, text=text)

        app = web.Application()
        app.router.add_post("/retrieve", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/retrieve"

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_a_search_server_answers_as_a_corpus_would(serve):
    rows = [
        {"document": {"id": "2", "contents": '"Rome"\nRome is in Italy.'}, "score": 0.7},
        {"text": "More."},
    ]
    tool = Search(url=await serve(text=json.dumps({"result": [rows]})), topk=2)
    seen = await ask(tool, query="Italy")
    assert seen.text == "Doc 1 (Title: Rome) Rome is in Italy.\nDoc 2 (Title: ) More."
    assert seen.metadata["scores"] == [0.7, 0.0]


async def test_a_server_that_cannot_be_reached_voids_the_episode():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # not listening: connections are refused
        tool = Search(url=f"http://127.0.0.1:{reserved.getsockname()[1]}/retrieve")
        with pytest.raises(InfrastructureError, match="cannot be reached"):
            await ask(tool, query="Italy")


async def test_a_server_that_hangs_voids_the_episode(serve):
    with pytest.raises(InfrastructureError, match=r"no answer in 0\.2 s"):
        await ask(Search(url=await serve(hang=True), seconds=0.2), query="Italy")


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (500, "out of memory", InfrastructureError),
        (429, "busy", InfrastructureError),
        (404, "no such page", ConfigError),
        (422, "topk", ConfigError),
        (200, "<html>", ConfigError),
        (200, '{"result": []}', ConfigError),
        (200, '{"result": [[7]]}', ConfigError),
        (200, '{"result": [[{"document": {"name": 1}}]]}', DataError),
    ],
)
async def test_answers_that_are_none(serve, status, text, error):
    with pytest.raises(error, match=r"127\.0\.0\.1"):
        await ask(Search(url=await serve(status, text)), query="Italy")


# ---- reading a document -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Zürich", '"zürich"', " ZÜRICH", "5"])
async def test_a_document_is_opened_by_title_or_id(tmp_path, name):
    seen = await ask(OpenDocument(str(CORPUS), cache=str(tmp_path)), title=name)
    assert seen.text == "Zürich\nZürich is the largest city of Switzerland."
    assert seen.metadata == {"title": "Zürich", "page": 1, "pages": 1}


@pytest.mark.parametrize("name", ["Zurich", "", "6"])
async def test_a_document_that_is_not_there(tmp_path, name):
    with pytest.raises(ToolError, match="There is no document"):
        await ask(OpenDocument(str(CORPUS), cache=str(tmp_path)), title=name)


async def test_passages_of_one_title_are_read_together_and_in_pages(tmp_path):
    rows = [{"title": "Nile", "text": f"Passage {n}."} for n in range(5)]
    corpus = write(tmp_path / "corpus.jsonl", rows[0], {"title": "Other", "text": "No."}, *rows[1:])
    tool = OpenDocument(str(corpus), page_characters=30, cache=str(tmp_path / "cache"))
    pages = [(await ask(tool, title="nile", page=page)).text for page in (1, 2, 3)]
    assert pages[0] == "Nile\nPassage 0.\nPassage 1.\n(page 1 of 3)"
    assert pages[2] == "Nile\nPassage 4.\n(page 3 of 3)"
    with pytest.raises(ToolError, match="pages 1 to 3, and no page 4"):
        await ask(tool, title="Nile", page=4)


@given(st.text(alphabet="ab \n", max_size=200), st.integers(16, 50))
def test_pages_hold_every_word_once(text, most):
    pages = paged(text, most)
    assert all(len(page) <= most for page in pages)
    assert "".join("".join(pages).split()) == "".join(text.split())


def test_a_page_has_room_for_something(tmp_path):
    with pytest.raises(ConfigError, match="at least 16"):
        OpenDocument(str(CORPUS), page_characters=0)
