"""The search tool, on real corpora."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentrl import DataError, Observation, ToolContext, ToolError
from agentrl.errors import ConfigError
from agentrl.registry import find_tool
from agentrl.tools.search import Search

CORPUS = Path(__file__).parent / "corpus.jsonl"


async def search(tool: Search, query: str, **more: int) -> Observation:
    return Observation.of(await tool.spawn(ToolContext()).invoke({"query": query, **more}))


@pytest.fixture
def tool(tmp_path):
    return Search(str(CORPUS), cache=str(tmp_path))


async def test_the_best_documents_are_shown_and_told(tool):
    seen = await search(tool, "What is the capital of Italy?", topk=2)
    assert seen.text.splitlines()[0] == "Doc 1 (Title: Rome) Rome is the capital of Italy."
    assert len(seen.metadata["documents"]) == 2
    assert seen.metadata["documents"][0] == {
        "id": "2",
        "title": "Rome",
        "text": "Rome is the capital of Italy.",
        "contents": '"Rome"\nRome is the capital of Italy.',
    }
    assert seen.metadata["scores"] == sorted(seen.metadata["scores"], reverse=True)


async def test_titles_count_and_words_may_have_any_letters(tool):
    assert (await search(tool, "zürich")).metadata["documents"][0]["id"] == "5"


async def test_nothing_found_is_said(tool):
    seen = await search(tool, "xylophone")
    assert seen.text == "No documents match." and not seen.error and seen.metadata["documents"] == []


async def test_more_than_there_are(tool):
    assert len((await search(tool, "capital largest", topk=100)).metadata["documents"]) == 5


@pytest.mark.parametrize("topk", [0, 101])
async def test_topk_is_bounded(tool, topk):
    with pytest.raises(ToolError, match="between 1 and 100"):
        await search(tool, "capital", topk=topk)


async def test_the_index_is_made_once_for_all_sessions_and_kept(tool, tmp_path):
    found = await asyncio.gather(*(search(tool, "planet") for _ in range(200)))
    assert {seen.metadata["documents"][0]["id"] for seen in found} == {"4"}
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(made) == 7 and not list(tmp_path.rglob("making-*"))
    again = Search(str(CORPUS), cache=str(tmp_path))
    assert (await search(again, "planet")).metadata["documents"][0]["id"] == "4"
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}


async def test_another_content_has_another_index(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    for city in ("Oslo", "Bergen"):
        corpus.write_text(f'{{"text": "{city} lies in Norway"}}\n')
        tool = Search(str(corpus), cache=str(tmp_path / "cache"))
        assert (await search(tool, "Norway")).metadata["documents"][0]["text"].startswith(city)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "has to be an object, not list"),
        ('{"id": 1}', "needs 'text' or 'contents'"),
        ('{"text": 3}', "'text' has to be text, not int"),
    ],
)
async def test_a_row_that_is_no_document_is_named(tmp_path, row, words):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "fine"}\n\n' + row + "\n")
    with pytest.raises(DataError, match=f"corpus.jsonl:3: .*{words}"):
        await search(Search(str(corpus), cache=str(tmp_path / "cache")), "fine")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name != "lock" and path.is_file()]


@pytest.mark.parametrize(
    ("content", "words"), [("", "0 documents"), ("\n \n", "0 documents"), ('{"text": "a"}', "no words")]
)
async def test_a_corpus_with_nothing_in_it(tmp_path, content, words):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(content)
    with pytest.raises(DataError, match=words):
        await search(Search(str(corpus), cache=str(tmp_path / "cache")), "a")


def test_a_corpus_has_to_be_named(tmp_path):
    with pytest.raises(DataError, match="no file"):
        Search(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="needs the option 'corpus'"):
        find_tool(Search)
