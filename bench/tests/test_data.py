"""The corpus is whole and its split disjoint; batches are a function of their number; every held-out token is scored once."""

import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from bench.data import DataError
from bench.data.batches import TrainBatches, context_windows, heldout_windows
from bench.data.corpus import Document, embedded, load_documents
from bench.data.tokenizer import TOKENIZERS, get_tokenizer

ROOT = Path(__file__).parents[2]
AUSTEN = OmegaConf.load(ROOT / "conf" / "data" / "austen.yaml")
BYTES = get_tokenizer("bytes")


def toy(*sizes: int) -> list[Document]:
    """Documents whose tokens are all different, 1 .. sum(sizes), so that a token tells where it comes from."""
    ends = np.cumsum(sizes)
    ranges = [np.arange(end - size, end, dtype=np.uint16) + 1 for size, end in zip(sizes, ends, strict=True)]
    return [Document(f"toy{i}", tokens, len(tokens)) for i, tokens in enumerate(ranges)]


def austen(split: str) -> list[Document]:
    return load_documents(AUSTEN.path, OmegaConf.select(AUSTEN, split), get_tokenizer(AUSTEN.tokenizer))


def test_austen_is_whole_and_split_by_novel() -> None:
    train, heldout = austen("train"), austen("heldout")
    assert {document.name for document in heldout} == {"northanger_abbey", "persuasion"}
    assert len({document.name for document in train + heldout}) == 6 == len(list(embedded()["austen"].glob("*.xz")))
    assert sum(document.n_bytes for document in train + heldout) == pytest.approx(4.03e6, rel=0.005)
    assert AUSTEN.vocab == get_tokenizer(AUSTEN.tokenizer).vocab


@pytest.mark.parametrize("document", austen("train") + austen("heldout"), ids=lambda document: document.name)
def test_austen_paragraphs_are_lines(document: Document) -> None:
    text = BYTES.decode(document.tokens)
    assert len(document.tokens) == document.n_bytes
    lines = text.removesuffix("\n").split("\n")
    assert all(line == "" for line in lines[1::2]) and all(line == " ".join(line.split()) != "" for line in lines[::2])
    assert max(map(len, lines)) > 2000 and "\0" not in text


@pytest.mark.parametrize("text", ["", "plain", "£ é 漢 \U0001f600\n"])
def test_bytes_round_trip(text: str) -> None:
    tokens = BYTES.encode(text)
    assert tokens.dtype == np.uint8 and tokens.tolist() == list(text.encode())
    assert BYTES.decode(tokens) == text == BYTES.decode(tokens.astype(np.int64))


def test_every_tokenizer_keeps_its_name_and_vocabulary() -> None:
    for name in TOKENIZERS:
        tokenizer = get_tokenizer(name)
        assert tokenizer.name == name and tokenizer.encode("Any text\n").max() < tokenizer.vocab


def test_unknown_tokenizer_lists_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"'sentencepiece'.*bytes"):
        get_tokenizer("sentencepiece")


def test_own_folder_in_either_form_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("één\r\n".encode())
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(b"two"))
    b, a = load_documents(tmp_path, ["b.txt.xz", "a.txt"], BYTES)
    assert (a.name, a.n_bytes, BYTES.decode(a.tokens)) == ("a", 7, "één\r\n")
    assert (b.name, b.n_bytes, BYTES.decode(b.tokens)) == ("b", 3, "two")


def test_embedded_name_wins_over_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "austen").mkdir()
    (tmp_path / "austen" / "emma.txt.xz").write_bytes(lzma.compress(b"mine"))
    monkeypatch.chdir(tmp_path)
    assert load_documents("austen", ["emma.txt.xz"], BYTES)[0].n_bytes > 4
    assert load_documents("./austen", ["emma.txt.xz"], BYTES)[0].n_bytes == 4


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("empty.txt", b"", r"empty\.txt is empty; fill it"),
        ("blank.txt", b" \n\n", r"blank\.txt is empty; fill it"),
        ("latin.txt", "é".encode("latin-1"), r"latin\.txt is not UTF-8 \(byte 0.*iconv"),
        ("latin.txt.xz", lzma.compress("é".encode("latin-1")), r"latin\.txt\.xz is not UTF-8.*iconv"),
        ("cut.txt.xz", lzma.compress(b"text" * 100)[:-9], r"cut\.txt\.xz is no whole \.xz file"),
        ("plain.txt.xz", b"text", r"plain\.txt\.xz is no whole \.xz file"),
        ("book.pdf", b"text", r"no text 'book\.pdf'.*it holds no \.txt"),
    ],
    ids=["empty", "blank", "latin", "latin_xz", "cut_xz", "plain_xz", "pdf"],
)
def test_bad_files_name_the_cure(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_documents(tmp_path, [file], BYTES)


def test_unknown_corpus_missing_file_and_no_file() -> None:
    with pytest.raises(DataError, match=r"no corpus 'dickens'.*embedded corpus \(austen\)"):
        load_documents("dickens", ["emma.txt.xz"], BYTES)
    with pytest.raises(DataError, match=r"no text 'sanditon\.txt'.*emma\.txt\.xz"):
        load_documents("austen", ["sanditon.txt"], BYTES)
    with pytest.raises(DataError, match=r"no file.*data\.train.*emma\.txt\.xz"):
        load_documents("austen", [], BYTES)


def test_an_epoch_has_each_target_of_the_stream_once() -> None:
    documents = toy(11, 7, 5)
    stream = [*documents[0].tokens, 0, *documents[1].tokens, 0, *documents[2].tokens]
    batches = TrainBatches(documents, context=4, seed=0)
    assert batches.n_windows == 6 and batches.epochs(9) == 1.5
    rows = batches.batch(0, 6)
    assert rows.dtype == np.int64 and rows.shape == (6, 5)
    assert sorted(map(tuple, rows)) == sorted(tuple(stream[k : k + 5]) for k in range(0, 24, 4))
    assert Counter(rows[:, 1:].flat) == Counter(stream[1:25])


def test_each_epoch_is_another_permutation_and_each_seed_another_sequence() -> None:
    windows = [TrainBatches(toy(400), context=4, seed=seed).batch(0, 198) for seed in (0, 1)]
    for rows in windows:
        first, second = rows[:99, 0].tolist(), rows[99:, 0].tolist()
        assert sorted(first) == sorted(second) == list(range(1, 397, 4)) and first != second
    assert (windows[0] != windows[1]).any()


def test_batch_is_a_function_of_its_arguments() -> None:
    whole = TrainBatches(toy(50, 33), context=8, seed=3).batch(0, 35)
    other = TrainBatches(toy(50, 33), context=8, seed=3)
    for first in (27, 0, 9, 10, 11, 9):  # Out of order, and across epochs of 10 windows.
        for rows in (1, 3, 8):
            assert (other.batch(first, rows) == whole[first : first + rows]).all()
            assert (other.batch(first, rows, length=5) == whole[first : first + rows, :6]).all()


def test_sequence_stays_what_published_runs_saw() -> None:
    rows = TrainBatches(toy(90), context=4, seed=5).batch(20, 4)
    assert rows[:, 0].tolist() == [57, 33, 49, 17]


def test_training_text_shorter_than_a_window() -> None:
    assert TrainBatches(toy(9), context=8, seed=0).n_windows == 1
    with pytest.raises(DataError, match=r"8 tokens, fewer than the 9.*below 8, or add files to data.train"):
        TrainBatches(toy(8), context=8, seed=0)


@pytest.mark.parametrize(("first", "rows", "length"), [(-1, 1, None), (0, 0, None), (0, 1, 0), (0, 1, 9)])
def test_impossible_batches(first: int, rows: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="no batch of"):
        TrainBatches(toy(20), context=8, seed=0).batch(first, rows, length)


@pytest.mark.parametrize("context", [1, 2, 3, 7, 8, 9, 100])
def test_heldout_scores_every_target_once(context: int) -> None:
    documents = toy(2, 8, 9, 10, 23)
    windows = heldout_windows(documents, context)
    for window in windows:
        tokens = documents[window.document].tokens
        assert 2 <= len(window.tokens) <= context + 1 and window.tokens.dtype == np.int64
        assert window.tokens.tolist() == tokens[window.start : window.start + len(window.tokens)].tolist()
    scored = Counter(target for window in windows for target in window.tokens[1:])
    assert scored == Counter(token for document in documents for token in document.tokens[1:])


@pytest.mark.parametrize("per_document", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("sizes", [(12,), (47, 13), (12, 24, 100)])
def test_context_windows_fit_do_not_overlap_and_spread(sizes: tuple[int, ...], per_document: int | None) -> None:
    documents, context, targets = toy(*sizes), 9, 3
    windows = context_windows(documents, context, targets, per_document)
    used = Counter(token for window in windows for token in window.tokens)
    assert set(used.values()) == {1}
    for index, document in enumerate(documents):
        starts = [window.start for window in windows if window.document == index]
        assert len(starts) == min(len(document.tokens) // 12, per_document or 100)
        gaps = np.diff([*starts, len(document.tokens)])
        assert gaps.max() - gaps.min() <= 1
    for window in windows:
        first_target = window.tokens[-targets]
        assert documents[window.document].tokens[window.start + context] == first_target and len(window.tokens) == 12


def test_documents_too_short_for_a_context_are_named() -> None:
    with pytest.raises(DataError, match=r"9 and 3 targets need 12 tokens.*longest, 'toy1', has 11.*Shorten"):
        context_windows(toy(10, 11, 4), 9, 3)
    with pytest.warns(UserWarning, match=r"left out as too short: 'toy0' \(10\), 'toy2' \(11\)$"):
        windows = context_windows(toy(10, 12, 11), 9, 3)
    assert [window.document for window in windows] == [1]


def test_nothing_to_score_or_to_cut() -> None:
    with pytest.raises(DataError, match="'toy1' has one token"):
        heldout_windows(toy(5, 1), 4)
    with pytest.raises(DataError, match="no document"):
        TrainBatches([], context=4, seed=0)
    with pytest.raises(DataError, match="context is 0"):
        heldout_windows(toy(5), 0)
    with pytest.raises(DataError, match="per_document is 0"):
        context_windows(toy(5), 2, 1, per_document=0)


def test_austen_has_windows_for_the_longest_context() -> None:
    windows = context_windows(austen("heldout"), 32768, 1024, per_document=8)
    assert Counter(window.document for window in windows) == {0: 8, 1: 8}
