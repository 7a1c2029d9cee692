"""From documents to a prepared corpus, by several processes; goes on where an interrupted call stopped.

First the held-out documents, so that the sentences which training documents share with them are known as these are read; then
validation and training. Two calls never make the same corpus: the second waits, and finds it.
"""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from bench.config import DataConfig
from bench.data import DataError
from bench.data.bpe import train_bpe
from bench.data.corpus import INDEX, TRAINED, VERSION, Corpus, Index, Split, folder_of, read_index, write_index
from bench.data.overlap import shares
from bench.data.shards import Shard, write_shard
from bench.data.sources import SPLITS, fingerprint, hash_of_text, read
from bench.data.text import Text
from bench.data.tokenizer import Tokenizer, get_tokenizer, trained_vocab
from bench.results import locked, write_atomic

# A shard ends with the document that makes it so many characters long.
SHARD_CHARACTERS = 8_000_000

Progress = Callable[[str, int, int], None]
"""What is made, and of how many documents and characters by now."""


def quiet(what: str, documents: int, characters: int) -> None:
    """No progress."""


class Told:
    """Progress as lines of text, one in five seconds."""

    every_s = 5.0

    def __init__(self) -> None:
        self.began = self.told = time.monotonic()

    def __call__(self, what: str, documents: int, characters: int) -> None:
        now = time.monotonic()
        if now - self.told > self.every_s:
            self.told = now
            print(
                f"{what}: {documents:,} documents, {characters / 1e6:,.1f} M characters, {now - self.began:.0f} s", flush=True
            )


def prepare(data: DataConfig, *, processes: int | None = None, progress: Progress = quiet) -> Corpus:
    """The corpus, made now where it is not yet; ``processes``: to tokenise in, by default one a core.

    Raises:
        DataError: it cannot be made, its vocabulary is not ``data.vocab``, or a held-out document occurs in the training text.
    """
    folder = folder_of(data)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        if not (folder / INDEX).exists():
            in_a_worker = multiprocessing.current_process().daemon  # which may have no processes of its own
            _make(data, folder, 1 if in_a_worker else processes or os.cpu_count() or 1, progress)
    corpus = Corpus(folder, read_index(folder))
    check(corpus, data)
    return corpus


def check(corpus: Corpus, data: DataConfig) -> None:
    """Raises DataError where the corpus is not what ``data`` demands."""
    _check_vocab(corpus.index.vocab, data)
    over = {name: share for name, share in corpus.index.overlap.items() if share > data.max_overlap}
    if over:
        named = ", ".join(f"'{name}' ({share:.0%})" for name, share in sorted(over.items(), key=lambda one: -one[1]))
        raise DataError(
            f"held-out documents with more than {data.max_overlap:.0%} of their sentences in the training text: {named}; take "
            "them out of data.heldout, or what holds them out of data.train, or raise data.max_overlap"
        )


def _check_vocab(found: int, data: DataConfig) -> None:
    if found != data.vocab:
        raise DataError(f"data.tokenizer={data.tokenizer} has {found} ids: set data.vocab={found} instead of {data.vocab}")


def _make(data: DataConfig, folder: Path, processes: int, progress: Progress) -> None:
    for left in folder.glob(".*.tmp"):
        left.unlink()
    trained = _trained(data, folder, progress)
    tokenizer = get_tokenizer(data.tokenizer, trained)
    _check_vocab(tokenizer.vocab, data)
    write = _Writer(folder, data.tokenizer, trained, processes, progress)
    heldout = write.all(read(data, ["heldout"]), None)
    known = np.unique(np.concatenate([np.array([], "<u8"), *(shard.sentences() for shard in heldout["heldout"])]))
    rest = write.all(read(data, ["validation", "train"]), known)
    shards = {split: [*heldout[split], *rest[split]] for split in SPLITS}
    for split in ("train", "heldout"):
        if not shards[split]:
            raise DataError(f"no document of data={data.name} is in split '{split}'; add some to data.{split}")
    seen = np.unique(np.concatenate([shard.sentences() for shard in shards["train"]]))
    splits = {split: Split.of(of) for split, of in shards.items()}
    content = folder.name.rpartition("-")[2]
    write_index(
        folder, Index(content, data.tokenizer, tokenizer.vocab, tokenizer.bos, splits, _overlap(shards["heldout"], seen))
    )


def _overlap(heldout: Iterable[Shard], seen: UInt64[np.ndarray, " N"]) -> dict[str, float]:
    found: dict[str, float] = {}
    for shard in heldout:
        each = np.split(shard.sentences(), np.cumsum(shard.about["sentences"])[:-1])
        for (name, *_), share in zip(shard.about["documents"], shares(each, seen), strict=True):
            found[name] = max(share, found.get(name, 0.0))
    return found


def _trained(data: DataConfig, folder: Path, progress: Progress) -> Path | None:
    """The file of a tokenizer that is trained on the training documents, kept for all corpora that have the same ones."""
    vocab = trained_vocab(data.tokenizer)
    if vocab is None:
        return None
    kept = Path(data.cache) / f"{data.tokenizer}-{hash_of_text(json.dumps([VERSION, fingerprint(data, ['train'])]))}.json"
    if not kept.exists():
        texts = (text for split, text in read(data, ["train"]) if split == "train")
        write_atomic(kept, train_bpe(_counted(texts, f"{data.tokenizer}, learning", progress), vocab))
    shutil.copy(kept, folder / TRAINED)
    return folder / TRAINED


def _counted(texts: Iterable[Text], what: str, progress: Progress) -> Iterator[str]:
    characters = 0
    for number, text in enumerate(texts, 1):
        yield text.text
        characters += len(text.text)
        progress(what, number, characters)


class _Writer:
    """Documents to shards: whole ones by worker processes, what is left over here, so that a small corpus starts none."""

    def __init__(self, folder: Path, tokenizer: str, trained: Path | None, processes: int, progress: Progress) -> None:
        self.folder, self.tokenizer, self.trained = folder, tokenizer, trained
        self.processes, self.progress = processes, progress

    def all(self, texts: Iterable[tuple[str, Text]], known: UInt64[np.ndarray, " N"] | None) -> dict[str, list[Shard]]:
        """The shards of every split, in the order of its documents."""
        made: dict[str, list[Shard]] = {split: [] for split in SPLITS}
        counts = dict.fromkeys(SPLITS, (0, 0))
        for split, shard in self._written(texts, known):
            documents, characters = counts[split]
            counts[split] = documents + len(shard.about["documents"]), characters + shard.characters
            self.progress(f"{self.tokenizer}, {split}", *counts[split])
            made[split].append(shard)
        return {split: sorted(shards, key=lambda shard: shard.stem.name) for split, shards in made.items()}

    def _written(
        self, texts: Iterable[tuple[str, Text]], known: UInt64[np.ndarray, " N"] | None
    ) -> Iterator[tuple[str, Shard]]:
        running: dict[Future[Shard], str] = {}
        with ExitStack() as stack:
            pool = cache(lambda: stack.enter_context(ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"))))
            for split, number, batch, is_full in _batches(texts):
                shard = Shard(self.folder / f"{split}-{number:06d}")
                if shard.is_whole:
                    yield split, shard
                elif is_full and self.processes > 1:
                    running[pool().submit(_write, shard.stem, batch, self.tokenizer, self.trained, known)] = split
                else:
                    yield split, _write(shard.stem, batch, self.tokenizer, self.trained, known)
                if len(running) > 2 * self.processes:  # more would wait in memory
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            for future, split in running.items():
                yield split, future.result()


def _batches(texts: Iterable[tuple[str, Text]]) -> Iterator[tuple[str, int, list[Text], bool]]:
    """Split, number of the shard in it, documents, and whether they make a whole shard."""
    waiting: dict[str, list[Text]] = {split: [] for split in SPLITS}
    numbers, sizes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for split, text in texts:
        waiting[split].append(text)
        sizes[split] += len(text.text)
        if sizes[split] >= SHARD_CHARACTERS:
            yield split, numbers[split], waiting[split], True
            waiting[split], sizes[split], numbers[split] = [], 0, numbers[split] + 1
    for split, left in waiting.items():
        if left:
            yield split, numbers[split], left, False


_tokenizer: Callable[[str, Path | None], Tokenizer] = cache(get_tokenizer)


def _write(
    stem: Path, texts: list[Text], tokenizer: str, trained: Path | None, known: UInt64[np.ndarray, " N"] | None
) -> Shard:
    return write_shard(stem, texts, _tokenizer(tokenizer, trained), known)
