"""The embedded corpus is whole and apart; batches are a function of their number; every held-out token is scored once."""

from collections import Counter

import numpy as np
import pytest

from bench.compose import compose_run
from bench.data import DataError
from bench.data.batches import TrainBatches, context_windows, heldout_windows
from bench.data.corpus import Corpus
from bench.data.prepare import prepare
from bench.data.shards import Document, Stream
from bench.data.sources import embedded
from bench.data.tokenizer import get_tokenizer

BYTES = get_tokenizer("bytes")


def toy(*sizes: int) -> list[Document]:
    """Documents whose tokens are all different, 1 .. sum(sizes), so that a token tells where it comes from."""
    ends = np.cumsum(sizes)
    ranges = [np.arange(end - size, end, dtype=np.uint16) + 1 for size, end in zip(sizes, ends, strict=True)]
    return [Document(f"toy{i}", tokens, len(tokens)) for i, tokens in enumerate(ranges)]


def stream(*sizes: int) -> Stream:
    """The documents of ``toy``, 0 between them, the separators in parts of their own."""
    parts = [part for document in toy(*sizes) for part in (np.zeros(1, np.uint16), document.tokens)]
    return Stream(parts[1:])


@pytest.fixture(scope="module")
def austen(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(compose_run([f"data.cache={tmp_path_factory.mktemp('cache')}"]).data)


def test_austen_is_whole_and_split_by_novel(austen: Corpus) -> None:
    train, heldout = austen.documents("train"), austen.documents("heldout")
    assert {document.name for document in heldout} == {"northanger_abbey", "persuasion"}
    assert len({document.name for document in train + heldout}) == 6 == len(list(embedded()["austen"].glob("*.xz")))
    assert sum(document.n_bytes for document in train + heldout) == pytest.approx(4.03e6, rel=0.005)
    assert set(austen.index.overlap.values()) == {0.0}


def test_austen_is_packed_as_published_runs_saw_it(austen: Corpus) -> None:
    """The byte 0 between novels and none at the end."""
    packed = b"\0".join(document.tokens.tobytes() for document in austen.documents("train"))
    assert austen.stream.read(0, len(austen.stream)).tobytes() == packed
    assert austen.train_tokens == len(austen.stream) == len(packed)


def test_austen_paragraphs_are_lines(austen: Corpus) -> None:
    for document in austen.documents("train") + austen.documents("heldout"):
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


def test_unknown_tokenizer_lists_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"'words'.*bytes, bpe_N"):
        get_tokenizer("words")


def test_a_stream_reads_across_its_parts() -> None:
    numbers = np.arange(20)
    parts = Stream(np.split(numbers, [3, 4, 11, 12]))
    assert len(parts) == 20
    for start in range(20):
        for size in range(1, 21 - start):
            assert parts.read(start, size).tolist() == numbers[start : start + size].tolist()


def test_an_epoch_has_each_target_of_the_stream_once() -> None:
    tokens = stream(11, 7, 5).read(0, 25)
    assert tokens.tolist() == [*range(1, 12), 0, *range(12, 19), 0, *range(19, 24)]
    batches = TrainBatches(stream(11, 7, 5), context=4, seed=0)
    assert batches.n_windows == 6
    rows = batches.batch(0, 6)
    assert rows.dtype == np.int64 and rows.shape == (6, 5)
    assert sorted(map(tuple, rows)) == sorted(tuple(tokens[k : k + 5]) for k in range(0, 24, 4))
    assert Counter(rows[:, 1:].flat) == Counter(tokens[1:25])


def test_each_epoch_is_another_permutation_and_each_seed_another_sequence() -> None:
    windows = [TrainBatches(stream(400), context=4, seed=seed).batch(0, 198) for seed in (0, 1)]
    for rows in windows:
        first, second = rows[:99, 0].tolist(), rows[99:, 0].tolist()
        assert sorted(first) == sorted(second) == list(range(1, 397, 4)) and first != second
    assert (windows[0] != windows[1]).any()


def test_batch_is_a_function_of_its_arguments() -> None:
    whole = TrainBatches(stream(50, 33), context=8, seed=3).batch(0, 35)
    other = TrainBatches(stream(50, 33), context=8, seed=3)
    for first in (27, 0, 9, 10, 11, 9):  # Out of order, and across epochs of 10 windows.
        for rows in (1, 3, 8):
            assert (other.batch(first, rows) == whole[first : first + rows]).all()
            assert (other.batch(first, rows, length=5) == whole[first : first + rows, :6]).all()


def test_sequence_stays_what_published_runs_saw() -> None:
    rows = TrainBatches(stream(90), context=4, seed=5).batch(20, 4)
    assert rows[:, 0].tolist() == [57, 33, 49, 17]


def test_training_text_shorter_than_a_window() -> None:
    assert TrainBatches(stream(9), context=8, seed=0).n_windows == 1
    with pytest.raises(DataError, match=r"8 tokens, fewer than the 9.*below 8, or add files to data.train"):
        TrainBatches(stream(8), context=8, seed=0)


@pytest.mark.parametrize(("first", "rows", "length"), [(-1, 1, None), (0, 0, None), (0, 1, 0), (0, 1, 9)])
def test_impossible_batches(first: int, rows: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="no batch of"):
        TrainBatches(stream(20), context=8, seed=0).batch(first, rows, length)


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
        heldout_windows([], 4)
    with pytest.raises(DataError, match="context is 0"):
        heldout_windows(toy(5), 0)
    with pytest.raises(DataError, match="per_document is 0"):
        context_windows(toy(5), 2, 1, per_document=0)


def test_processes_that_share_a_batch_see_the_same_order_as_one() -> None:
    batches = TrainBatches(stream(400), context=4, seed=1)
    for step in range(30):
        whole = batches.batch(8 * step, 8)
        for ranks in (2, 4):
            each = [batches.batch(8 * step + rank * 8 // ranks, 8 // ranks) for rank in range(ranks)]
            assert (np.concatenate(each) == whole).all()


def test_austen_has_windows_for_the_longest_context(austen: Corpus) -> None:
    windows = context_windows(austen.documents("heldout"), 32768, 1024, per_document=8)
    assert Counter(window.document for window in windows) == {0: 8, 1: 8}
