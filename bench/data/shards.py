"""Tokens on disk. A shard is some whole documents one after another, each with BOS and EOS, in three files.

    NAME.bin             token ids, uint8, uint16 or uint32 by the vocabulary, little-endian
    NAME.sentences.npy   64 bits a sentence: of held-out documents all, of others those that held-out documents have too
    NAME.json            checksum, documents (name, first token, tokens of the text, its bytes); written last

Each is written whole or not at all, so that a shard is there when its .json is.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt, UInt64

from bench.data import DataError
from bench.data.overlap import sentence_hashes
from bench.data.sources import digest
from bench.data.text import Text
from bench.data.tokenizer import Tokenizer, dtype_of
from bench.results import write_atomic


@dataclass(frozen=True)
class Document:
    """``tokens`` of the text, without BOS and EOS; ``n_bytes`` the length of the text in UTF-8, for bits per byte."""

    name: str
    tokens: UInt[np.ndarray, " T"]
    n_bytes: int


@dataclass(frozen=True)
class Shard:
    """A shard that was written: ``stem`` is its path without suffix."""

    stem: Path

    @property
    def is_whole(self) -> bool:
        """Whether it was written to its end."""
        return self.about_file.exists()

    @property
    def about_file(self) -> Path:
        """NAME.json."""
        return self.stem.with_suffix(".json")

    @cached_property
    def about(self) -> dict[str, Any]:
        """What NAME.json says."""
        about: dict[str, Any] = json.loads(self.about_file.read_text())
        return about

    @property
    def characters(self) -> int:
        """Of the text of its documents."""
        return int(self.about["characters"])

    def tokens(self, vocab: int) -> UInt[np.ndarray, " T"]:
        """All ids, memory-mapped.

        Raises:
            DataError: a byte of them has changed.
        """
        file = self.stem.with_suffix(".bin")
        if not file.exists() or digest(file) != self.about["sha256"]:
            raise DataError(f"{file} is damaged; delete the folder {file.parent}, and it is made again")
        return np.memmap(file, dtype=np.dtype(dtype_of(vocab)).newbyteorder("<"), mode="r")

    def documents(self, vocab: int) -> list[Document]:
        """Its documents, their tokens memory-mapped."""
        tokens = self.tokens(vocab)
        return [Document(name, tokens[start : start + n], n_bytes) for name, start, n, n_bytes in self.about["documents"]]

    def sentences(self) -> UInt64[np.ndarray, " S"]:
        """NAME.sentences.npy."""
        hashes: np.ndarray = np.load(self.stem.with_suffix(".sentences.npy"))
        return hashes


def write_shard(
    stem: Path, texts: Sequence[Text], tokenizer: Tokenizer, known: UInt64[np.ndarray, " N"] | None = None
) -> Shard:
    """Tokens and sentences of some documents; ``known``: sentences of held-out ones, None where these are they."""
    hashes = [sentence_hashes(text.text) for text in texts]
    found = np.concatenate(hashes)
    kept = found if known is None else np.intersect1d(found, known)
    tokens, documents = _framed(texts, tokenizer)
    content, sentences = tokens.astype(np.dtype(dtype_of(tokenizer.vocab)).newbyteorder("<")).tobytes(), io.BytesIO()
    np.save(sentences, kept)
    _write(stem.with_suffix(".bin"), content)
    _write(stem.with_suffix(".sentences.npy"), sentences.getvalue())
    about = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "tokens": len(tokens),
        "characters": sum(len(text.text) for text in texts),
        "documents": documents,
        "sentences": [len(one) for one in hashes],
    }
    write_atomic(stem.with_suffix(".json"), json.dumps(about))
    return Shard(stem)


def _framed(texts: Sequence[Text], tokenizer: Tokenizer) -> tuple[Integer[np.ndarray, " T"], list[tuple[str, int, int, int]]]:
    dtype = dtype_of(tokenizer.vocab)
    begin, end = np.array([] if tokenizer.bos is None else [tokenizer.bos], dtype), np.array([tokenizer.eos], dtype)
    pieces, documents, place = [], [], 0
    for text in texts:
        tokens = tokenizer.encode(text.text)
        documents.append((text.id, place + len(begin), len(tokens), len(text.text.encode("utf-8"))))
        pieces += [begin, tokens, end]
        place += len(begin) + len(tokens) + 1
    return np.concatenate(pieces), documents


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as raw:
        raw.write(content)
        raw.flush()
        os.fsync(raw.fileno())
    temporary.replace(file)


class Stream:
    """Token ids of several arrays as one sequence, read in stretches."""

    def __init__(self, parts: Sequence[Integer[np.ndarray, " T"]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, size: int) -> Integer[np.ndarray, " T"]:
        """Tokens ``start`` .. ``start + size - 1``."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, start + size, side="left"))
        start -= int(self._ends[first - 1]) if first else 0
        parts = self._parts[first : last + 1]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts))[start : start + size]
