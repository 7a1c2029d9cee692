"""Parquet, .zst, and data sets of the hub, through local files: the same path but for the network. Needs extra data."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.compose import compose_run
from bench.config import DataConfig
from bench.data import DataError
from bench.data.corpus import find_corpus, folder_of
from bench.data.prepare import prepare
from bench.data.sources import read
from bench.data.text import Text, read_file
from bench.tests.test_corpus import book


def write_table(file: Path, first: int, n: int, **columns: list[Any]) -> Path:
    told: dict[str, list[Any]] = {
        "id": [f"book{k}" for k in range(first, first + n)],
        "text": [book(k) for k in range(first, first + n)],
    }
    pq.write_table(pa.table({**told, **columns}), file)
    return file


def hub(folder: Path, **changes: Any) -> DataConfig:
    """A data set of two splits, as conf/data/pg19.yaml has them, from local files by the package datasets."""
    files = {"train": str(write_table(folder / "a.parquet", 0, 5)), "test": str(write_table(folder / "b.parquet", 5, 2))}
    told = {"train": ["train"], "heldout": ["test"], "hub": {"data_files": files}, "cache": str(folder / "cache")}
    return DataConfig(**{"name": "hub", "path": "hub:parquet", "vocab": 256, **told, **changes})


def packed(file: Path, content: bytes) -> bytes:
    with pa.output_stream(str(file), compression="zstd") as stream:
        stream.write(content)
    return file.read_bytes()


def test_parquet_by_its_columns(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", 0, 40, text=["one", " ", *["two"] * 38], other=list(range(40)))
    documents = list(read_file(file))
    assert documents[:2] == [Text("book0", "one"), Text("book2", "two")] and len(documents) == 39
    with pytest.raises(DataError, match=r"a\.parquet:1 has no text 'body'; set data\.column to one of: id, text, other"):
        list(read_file(file, "body"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet is no whole \.parquet file"):
        list(read_file(file))


def test_zst_is_read_and_one_that_is_cut_is_noticed(tmp_path: Path) -> None:
    whole = packed(tmp_path / "a.jsonl.zst", b'{"text": "one"}\n' * 5000)
    assert len(list(read_file(tmp_path / "a.jsonl.zst"))) == 5000
    packed(tmp_path / "b.txt.zst", "één".encode())
    assert list(read_file(tmp_path / "b.txt.zst")) == [Text("b", "één")]
    for content in (whole[:-4], b"plain"):
        (tmp_path / "a.jsonl.zst").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.jsonl\.zst is no whole \.zst file"):
            list(read_file(tmp_path / "a.jsonl.zst"))


def test_splits_of_a_data_set_are_streamed(tmp_path: Path) -> None:
    corpus = prepare(hub(tmp_path))
    assert [document.name for document in corpus.documents("train")] == [f"book{n}" for n in range(5)]
    assert [corpus.tokenizer.decode(document.tokens) for document in corpus.documents("heldout")] == [book(5), book(6)]
    assert find_corpus(hub(tmp_path)) is not None


def test_they_are_read_only_so_far_as_they_are_taken(tmp_path: Path) -> None:
    data = hub(tmp_path, take={"train": 2})
    assert [text.id for _, text in read(data, ["train"])] == ["book0", "book1"]


def test_the_same_documents_of_files_and_of_the_hub_are_the_same_tokens(tmp_path: Path) -> None:
    streamed = prepare(hub(tmp_path))
    files = {"path": str(tmp_path), "train": ["a.parquet"], "heldout": ["b.parquet"], "hub": {}}
    read_here = prepare(hub(tmp_path, **files))
    assert streamed.folder != read_here.folder
    assert streamed.index.splits["train"].shards == read_here.index.splits["train"].shards


def test_the_content_is_that_of_the_files_or_of_the_revision(tmp_path: Path) -> None:
    data = hub(tmp_path)
    before = folder_of(data)
    write_table(tmp_path / "a.parquet", 9, 5)
    assert folder_of(data) != before
    far = {"path": "hub:owner/name", "vocab": 256}
    with pytest.raises(DataError, match=r"hub:owner/name has no revision: set \+data\.hub\.revision=COMMIT"):
        folder_of(hub(tmp_path, **far, hub={}))
    assert len({folder_of(hub(tmp_path, **far, hub={"revision": revision})) for revision in ("a", "b")}) == 2


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 'dev' of hub:parquet cannot be read: .*Available splits"):
        list(read(hub(tmp_path, heldout=["dev"]), ["heldout"]))
    with pytest.raises(DataError, match=r"train:1 has no text 'body'"):
        list(read(hub(tmp_path, column="body"), ["train"]))


@pytest.mark.parametrize("name", ["pg19", "pile", "slimpajama"])
def test_recipes_pin_what_they_read_and_hold_a_split_out(name: str) -> None:
    data = compose_run([f"data={name}"]).data
    assert data.path.startswith("hub:") and len(data.hub["revision"]) == 40
    assert (data.train, data.validation, data.heldout) == (["train"], ["validation"], ["test"])
    assert (data.tokenizer, data.vocab) == ("mistral-32k", 32_000)
    assert find_corpus(data) is None  # and no network is asked
