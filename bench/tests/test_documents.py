"""Files to documents: every format alike, one document at a time; a bad file names its cure."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.data import DataError
from bench.data.sources import read
from bench.data.text import Text, is_text, read_file, stem
from bench.tests.test_corpus import books

PACKS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("pack", PACKS)
def test_text_and_json_lines_in_every_form(pack: str, tmp_path: Path) -> None:
    packed = PACKS[pack]
    (tmp_path / f"a.txt{pack}").write_bytes(packed("één\r\n".encode()))
    rows: list[dict[str, Any]] = [{"id": 7, "text": "één\r\n\u2028x"}, {"text": " "}, {"text": "two", "other": 1}]
    (tmp_path / f"b.jsonl{pack}").write_bytes(packed("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()))
    assert list(read_file(tmp_path / f"a.txt{pack}")) == [Text("a", "één\r\n")]
    assert list(read_file(tmp_path / f"b.jsonl{pack}")) == [Text("7", "één\r\n\u2028x"), Text(f"b.jsonl{pack}:3", "two")]
    with pytest.raises(DataError, match=r":1 has no text 'body'; set data\.column to one of: id, text"):
        list(read_file(tmp_path / f"b.jsonl{pack}", "body"))


def test_names_tell_the_format() -> None:
    assert [stem(name) for name in ("a.b.txt.xz", "c.jsonl", "d.parquet")] == ["a.b", "c", "d"]
    assert [is_text(name) for name in ("a.txt.zst", "a.parquet", "a.parquet.gz", "a.pdf", "txt", "a.gz")] == [True, True] + [
        False
    ] * 4


def test_a_file_is_read_one_document_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nnot JSON\n')
    documents = read_file(tmp_path / "a.jsonl")
    assert next(documents).text == "one"
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 is not JSON"):
        next(documents)


BAD = {
    "empty.txt": (b"", r"empty\.txt is empty; fill it"),
    "blank.txt": (b" \n\n", r"blank\.txt is empty; fill it"),
    "latin.txt": ("é".encode("latin-1"), r"latin\.txt is not UTF-8 \(byte 0.*iconv.* latin\.txt`"),
    "latin.txt.xz": (lzma.compress("é".encode("latin-1")), r"latin\.txt\.xz is not UTF-8.*iconv.* latin\.txt`"),
    "latin.jsonl": (b'{"text": "\xe9"}', r"latin\.jsonl is not UTF-8"),
    "cut.txt.xz": (lzma.compress(b"text" * 100)[:-9], r"cut\.txt\.xz is no whole \.xz file"),
    "cut.txt.gz": (gzip.compress(b"text" * 100)[:-9], r"cut\.txt\.gz is no whole \.gz file"),
    "cut.txt.bz2": (bz2.compress(b"text" * 100)[:-9], r"cut\.txt\.bz2 is no whole \.bz2 file"),
    "plain.txt.xz": (b"text", r"plain\.txt\.xz is no whole \.xz file"),
    "plain.txt.gz": (b"text", r"plain\.txt\.gz is no whole \.gz file"),
    "list.jsonl": (b'["text"]', r"list\.jsonl, line 1 is no JSON object"),
    "number.jsonl": (b'{"text": 3}', r"number\.jsonl:1 has no text 'text'"),
    "book.pdf": (b"text", r"no text 'book\.pdf' in .*it holds no \.txt"),
}


@pytest.mark.parametrize("file", BAD)
def test_bad_files_name_the_cure(file: str, tmp_path: Path) -> None:
    told, message = BAD[file]
    (tmp_path / file).write_bytes(told)
    data = books(tmp_path, path=str(tmp_path), heldout=[file])
    with pytest.raises(DataError, match=message):
        list(read(data, ["heldout"]))
