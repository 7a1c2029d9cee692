"""Documents to tokens on disk: whole after any interruption, held-out text apart; bad input is named."""

import bz2
import gzip
import hashlib
import json
import lzma
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.compose import compose_run
from bench.config import ConfigError, DataConfig, identity
from bench.data import DataError
from bench.data import prepare as preparation
from bench.data.__main__ import main
from bench.data.corpus import Corpus, find_corpus, folder_of
from bench.data.overlap import sentence_hashes, sentences, shares
from bench.data.prepare import prepare
from bench.data.sources import read
from bench.data.tokenizer import vocab_named
from bench.results import ROOT

WORDS = ["ttt", "mamba", "layer", "of", "a", "state", "reads", "é"]


def book(number: int, sentences: int = 30) -> str:
    """Sentences of twelve words, which no other book has."""
    draw = random.Random(number)
    return "\n".join(" ".join([*draw.choices(WORDS, k=11), str(draw.random())]) + "." for _ in range(sentences))


def write_books(folder: Path, train: int = 6, heldout: int = 2) -> Path:
    """Books as JSON lines, of which one file is compressed."""
    folder.mkdir()
    lines = [json.dumps({"id": f"shelf/{n}, a", "text": book(n)}) + "\n" for n in range(train + heldout)]
    (folder / "train-0.jsonl").write_text("".join(lines[: train // 2]))
    (folder / "train-1.jsonl.bz2").write_bytes(bz2.compress("".join(lines[train // 2 : train]).encode()))
    (folder / "heldout.jsonl.gz").write_bytes(gzip.compress("".join(lines[train:]).encode()))
    return folder


def books(folder: Path, **changes: Any) -> DataConfig:
    """The books in ``folder``/books, as bytes."""
    if not (folder / "books").exists():
        write_books(folder / "books")
    told = {"path": str(folder / "books"), "train": ["train*"], "heldout": ["heldout*"], "cache": str(folder / "cache")}
    return DataConfig(**{"name": "books", "vocab": 256, **told, **changes})


def content(corpus: Corpus) -> dict[str, bytes]:
    """Every file of a corpus but the lock."""
    return {file.name: file.read_bytes() for file in corpus.folder.iterdir() if file.name != ".lock"}


def test_unknown_corpus_missing_file_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no corpus 'dickens'.*embedded corpus \(austen\), or to hub:NAME"):
        prepare(books(tmp_path, path="dickens"))
    with pytest.raises(DataError, match=r"no text 'sanditon\*'.*emma\.txt\.xz"):
        prepare(books(tmp_path, path="austen", train=["sanditon*"]))
    with pytest.raises(DataError, match=r"no file.*data\.train.*emma\.txt\.xz"):
        prepare(books(tmp_path, path="austen", train=[]))
    with pytest.raises(DataError, match=r"no document to be split 'validation'; name some in data\.validation or set"):
        prepare(books(tmp_path)).documents("validation")


def test_embedded_name_wins_over_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "austen").mkdir()
    (tmp_path / "austen" / "emma.txt.xz").write_bytes(lzma.compress(b"mine"))
    monkeypatch.chdir(tmp_path)
    for path, is_mine in (("austen", False), ("./austen", True)):
        ((_, text),) = read(books(tmp_path, path=path, train=["emma.txt.xz"]), ["train"])
        assert (text.text == "mine") == is_mine


def test_a_corpus_is_its_documents_in_their_order(tmp_path: Path) -> None:
    corpus = prepare(books(tmp_path))
    documents = corpus.documents("train")
    assert [document.name for document in documents] == [f"shelf/{n}, a" for n in range(6)]
    assert [corpus.tokenizer.decode(document.tokens) for document in documents] == [book(n) for n in range(6)]
    assert [document.n_bytes for document in documents] == [len(book(n).encode()) for n in range(6)]
    assert corpus.stream.read(0, len(corpus.stream)).tobytes() == "\0".join(book(n) for n in range(6)).encode()
    split = corpus.index.splits["train"]
    assert (split.documents, split.tokens, split.n_bytes) == (6, len(corpus.stream) + 1, len(corpus.stream) - 5)
    assert split.characters == sum(len(book(n)) for n in range(6))


def test_many_shards_by_many_processes_are_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(books(tmp_path))
    monkeypatch.setattr(preparation, "SHARD_CHARACTERS", 2 * len(book(0)))
    told: list[tuple[str, int, int]] = []
    parts = prepare(books(tmp_path, cache=str(tmp_path / "other")), processes=2, progress=lambda *counts: told.append(counts))
    assert (len(whole.index.splits["train"].shards), len(parts.index.splits["train"].shards)) == (1, 3)
    assert (parts.stream.read(0, len(parts.stream)) == whole.stream.read(0, len(whole.stream))).all()
    for split in ("train", "heldout"):
        for a, b in zip(whole.documents(split), parts.documents(split), strict=True):
            assert (a.name, a.n_bytes, a.tokens.tobytes()) == (b.name, b.n_bytes, b.tokens.tobytes())
    assert told[-1] == ("bytes, train", 6, whole.index.splits["train"].characters)


def test_a_prepared_corpus_is_not_made_again(tmp_path: Path) -> None:
    corpus = prepare(books(tmp_path))
    before = {file: file.stat().st_mtime_ns for file in corpus.folder.iterdir() if file.name != ".lock"}
    assert prepare(books(tmp_path)).folder == corpus.folder
    assert {file: file.stat().st_mtime_ns for file in before} == before


KILLED = """
import os, signal, sys
from bench.data import prepare as preparation, shards
from bench.tests.test_corpus import book, books
from pathlib import Path

left = int(sys.argv[2])

def spent(write):
    def counted(*words):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*words)
    return counted

preparation.SHARD_CHARACTERS = 2 * len(book(0))
Path.replace = spent(Path.replace)
preparation.prepare(books(Path(sys.argv[1])), processes=1)
"""


def test_killed_at_any_write_it_goes_on_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_CHARACTERS", 2 * len(book(0)))
    expected = content(prepare(books(tmp_path, cache=str(tmp_path / "whole")), processes=1))
    data, kept = books(tmp_path), set[Path]()
    for writes in (0, 1, 2, 4, 3):
        words = [sys.executable, "-c", KILLED, str(tmp_path), str(writes)]
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        assert find_corpus(data) is None
        whole = {file for file in folder_of(data).glob("*.json") if file.with_suffix(".bin").exists()}
        assert kept <= whole == set(folder_of(data).glob("*.json"))
        kept = whole
    times = {file: file.stat().st_mtime_ns for file in kept}
    corpus = prepare(data, processes=1)
    assert content(corpus) == expected
    assert len(times) == 2 and {file: file.stat().st_mtime_ns for file in kept} == times


PREPARED = """
import sys
from pathlib import Path
from bench.data.prepare import prepare
from bench.tests.test_corpus import books
print(prepare(books(Path(sys.argv[1]))).index.content)
"""


def test_two_calls_at_once_make_one_corpus(tmp_path: Path) -> None:
    write_books(tmp_path / "books", train=60)
    words = [sys.executable, "-c", PREPARED, str(tmp_path)]
    both = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [one.communicate()[0].strip() for one in both]
    assert found == [prepare(books(tmp_path)).index.content] * 2


@pytest.mark.parametrize("name", ["train-000000.bin", "heldout-000000.bin", "train-000000.json", "index.json"])
def test_damage_is_noticed(name: str, tmp_path: Path) -> None:
    data = books(tmp_path)
    file = prepare(data).folder / name
    whole = file.read_bytes()
    place = len(whole) // 2
    for damaged in (whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :], whole[:-1], b""):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name} is damaged.*; delete the folder .*made again"):
            _all(data)
    file.write_bytes(whole)
    _all(data)


def _all(data: DataConfig) -> None:
    """Opens every shard."""
    corpus = prepare(data)
    assert len(corpus.stream) and corpus.documents("heldout")


def test_other_texts_tokenizers_and_splits_are_other_corpora(tmp_path: Path) -> None:
    data = books(tmp_path)
    folders = {folder_of(data)}
    changes: list[dict[str, Any]] = [
        {"validation_share": 0.5},
        {"column": "id"},
        {"take": {"train": 2}},
        {"train": ["train-0*"]},
    ]
    for change in changes:
        folders.add(folder_of(books(tmp_path, **change)))
    (tmp_path / "books" / "train-0.jsonl").write_text('{"text": "other"}\n')
    folders.add(folder_of(data))
    assert len(folders) == 6
    assert folder_of(books(tmp_path, max_epochs=1.0)) == folder_of(data)


def test_digests_stand_in_for_files_that_are_elsewhere(tmp_path: Path) -> None:
    made = prepare(books(tmp_path))
    for file in (tmp_path / "books").iterdir():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file.with_name(f"{file.name}.sha256").write_text(f"{digest}  {file.name}\n")
        file.unlink()
    found = prepare(books(tmp_path))
    assert (found.folder, found.index) == (made.folder, made.index)
    with pytest.raises(DataError, match=r"heldout\.jsonl\.gz is no whole \.gz file \(.*No such file.*; restore it"):
        prepare(books(tmp_path, cache=str(tmp_path / "other")))


def test_a_pinned_content_is_held_to(tmp_path: Path) -> None:
    found = prepare(books(tmp_path)).index.content
    assert prepare(books(tmp_path, content=found)).index.content == found
    with pytest.raises(DataError, match=f"the content of data=books is {found}, not data.content=other"):
        prepare(books(tmp_path, content="other"))


def test_the_identity_of_a_run_covers_what_names_its_data() -> None:
    run = compose_run(["data=books"])

    def of(**changes: Any) -> dict[str, Any]:
        return identity(replace(run, data=replace(run.data, **changes)))

    others: list[dict[str, Any]] = [{"content": "1"}, {"tokenizer": "bytes"}, {"validation_share": 0.1}, {"take": {"train": 1}}]
    for change in others:
        assert of(**change) != of()
    assert of(cache="x", max_overlap=1.0, max_epochs=1.0) == of()
    published = identity(compose_run([]))["data"]
    assert set(published) == {"name", "path", "train", "heldout", "tokenizer", "vocab"}


def test_vocab_follows_from_the_tokenizer(tmp_path: Path) -> None:
    names = {"bytes": 256, "bpe_300": 300, "mistral-32k": 32_000, "a.json": None, "bpe_": None, "bpe": None}
    assert {name: vocab_named(name) for name in names} == names
    assert compose_run(["data=books", "data.tokenizer=bpe_300"]).data.vocab == 300
    with pytest.raises(ConfigError, match=r"data\.tokenizer=a\.json does not say how many ids it has; set data\.vocab"):
        compose_run(["data=books", "data.tokenizer=a.json"])
    with pytest.raises(DataError, match=r"data\.tokenizer=bytes has 256 ids: set data\.vocab=256 instead of 300"):
        prepare(books(tmp_path, vocab=300))


def test_validation_is_a_share_of_training_documents_by_their_ids(tmp_path: Path) -> None:
    write_books(tmp_path / "books", train=40)
    data = books(tmp_path, validation_share=0.25)
    corpus = prepare(data)
    apart = {split: [document.name for document in corpus.documents(split)] for split in ("train", "validation")}
    assert not set(apart["train"]) & set(apart["validation"])
    assert len(apart["train"]) + len(apart["validation"]) == 40
    assert 4 <= len(apart["validation"]) <= 16
    (tmp_path / "books" / "train-0.jsonl").unlink()
    fewer = [document.name for document in prepare(data).documents("validation")]
    assert fewer == [name for name in apart["validation"] if name in {f"shelf/{n}, a" for n in range(20, 40)}]


def test_take_stops_at_so_many_documents(tmp_path: Path) -> None:
    corpus = prepare(books(tmp_path, take={"train": 4, "heldout": 1}))
    assert [len(corpus.documents(split)) for split in ("train", "heldout")] == [4, 1]


def test_sentences_are_words_without_case_and_punctuation() -> None:
    text = "It WAS, to him, a great loss; he said so!\n\nNo. “Nine words are here as you can see, sir?” he asked then"
    assert list(sentences(text)) == ["it was to him a great loss he said so", "nine words are here as you can see sir"]
    seen = sentence_hashes("IT was to him a great loss, he said; so.")
    assert shares([sentence_hashes(text), sentence_hashes("")], seen) == [0.5, 0.0]


def test_a_held_out_book_in_the_training_text_is_named(tmp_path: Path) -> None:
    folder = write_books(tmp_path / "books")
    copied = book(6, 30).replace("\n", " ").upper().split(". ")[:12]
    with (folder / "train-0.jsonl").open("a") as file:
        file.write(
            json.dumps({"id": "anthology", "text": "An introduction that is long enough to be one. " + ". ".join(copied)})
            + "\n"
        )
    with pytest.raises(
        DataError, match=r"more than 5% of their sentences in the training text: 'shelf/6, a' \(40%\); take them out"
    ):
        prepare(books(tmp_path))
    corpus = prepare(books(tmp_path, max_overlap=0.5))
    assert corpus.index.overlap == {"shelf/6, a": 0.4, "shelf/7, a": 0.0}


def brute_force(data: DataConfig) -> dict[str, float]:
    train = {sentence for split, text in read(data, ["train"]) for sentence in sentences(text.text)}
    found = {}
    for _, text in read(data, ["heldout"]):
        own = list(sentences(text.text))
        found[text.id] = sum(sentence in train for sentence in own) / len(own)
    return found


def test_overlap_is_that_of_all_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHARD_CHARACTERS", 3000)
    folder, draw = tmp_path / "books", random.Random(1)
    folder.mkdir()
    pool = book(0, 200).split("\n")
    for name, documents in (("train", 30), ("heldout", 9)):
        rows = [{"id": f"{name}{n}", "text": "\n".join(draw.sample(pool, draw.randrange(5, 40)))} for n in range(documents)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[: documents // 2]))
        (folder / f"{name}-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[documents // 2 :]))
    data = books(tmp_path, max_overlap=1.0)
    overlap = prepare(data, processes=1).index.overlap
    assert overlap == pytest.approx(brute_force(data))
    assert 0 < min(overlap.values()) < max(overlap.values()) <= 1


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.data", *words])
    return main()


def test_the_command_prepares_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = books(tmp_path)
    words = [f"data.path={data.path}", f"data.cache={data.cache}", "data.tokenizer=bytes", "data.validation_share=0"]
    assert command(monkeypatch, "prepare", "books", *words) == 0
    out = capsys.readouterr().out
    assert "data.content=" in out
    assert "6 documents" in out and "2 documents" in out and "1.000 bytes a token" in out and "0.00% on average" in out
    assert command(monkeypatch, "show", "books", *words, "--windows", "1", "--length", "20") == 0
    assert f"--- held-out 'shelf/6, a'\n{book(6).encode()[:20].decode()}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "novels"], "novels"),
        (["prepare", "books", "data.pth=x"], "there is no key 'data.pth'"),
        (["prepare", "books", "data.path=/nowhere"], "there is no corpus '/nowhere'"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err
