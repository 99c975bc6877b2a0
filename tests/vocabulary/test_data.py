"""Rows from files: every malformed one is named by its line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from agentrl import DataError, read_rows

BAD = [
    (b'{"question": "a"', "not valid JSON"),
    (b'["question"]', "a row must be an object, not list"),
    (b'{"Question": "a"}', "the row lacks 'question', 'answer' .it has 'Question'."),
    (b"{}", "it has nothing"),
    (b'{"question": "\xff"}', "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
]
GOOD = b'{"question": "q", "answer": 1}'


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_rows_are_read_with_all_their_columns_and_empty_lines_skipped(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"rows{suffix}", GOOD, b"", b"  \r", b'\t{"question": "\xc3\xa9", "answer": null}\r'
    )
    rows = [{"question": "q", "answer": 1}, {"question": "é", "answer": None}]
    assert list(read_rows(path, ["question"])) == rows
    assert list(read_rows(str(path))) == rows


@pytest.mark.parametrize(("line", "words"), BAD)
def test_a_malformed_row_stops_with_its_line_after_the_rows_before(
    tmp_path: Path, line: bytes, words: str
) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, b"", line, GOOD)
    rows = read_rows(path, ["question", "answer"])
    assert next(rows)["question"] == "q"
    with pytest.raises(DataError, match=rf"rows\.jsonl line 3: .*{words}"):
        next(rows)


def test_malformed_rows_can_be_skipped_and_are_each_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "rows.jsonl", *(line for line, _ in BAD), GOOD)
    with caplog.at_level(logging.WARNING):
        assert list(read_rows(path, ["question", "answer"], on_error="skip")) == [json.loads(GOOD)]
    told = [record.getMessage() for record in caplog.records]
    assert [message.partition(": ")[0].rpartition(" ")[2] for message in told] == list("123456")


def test_parquet_rows_are_checked_and_counted_too(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"q": "a", "n": [1]}, {"q": "b", "n": []}]), path)
    assert list(read_rows(path, ["q"])) == [{"q": "a", "n": [1]}, {"q": "b", "n": []}]
    with pytest.raises(DataError, match="line 1: the row lacks 'answer'"):
        next(read_rows(path, ["answer"]))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        next(read_rows(write(tmp_path / "a.parquet", b"no parquet")))
    path = tmp_path / "b.parquet"
    parquet.write_table(pyarrow.table({"q": [f"text {i}" for i in range(1000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[40:400] = bytes(360)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        list(read_rows(path))


def test_a_file_that_is_missing_or_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file '.*none\.jsonl'"):
        next(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no data file"):
        next(read_rows(tmp_path))
    with pytest.raises(DataError, match=r"rows\.csv is of no kind that can be read"):
        next(read_rows(write(tmp_path / "rows.csv", b"a,b")))
