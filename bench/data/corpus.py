"""A corpus that is prepared: memory-mapped tokens of its splits, from a folder that says what they are made of."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from bench.config import DataConfig
from bench.data import DataError
from bench.data.shards import Document, Shard, Stream
from bench.data.sources import SPLITS, digest, fingerprint, hash_of_text
from bench.data.tokenizer import Tokenizer, get_tokenizer
from bench.results import write_atomic

# Raised where the same texts would be written as other shards.
VERSION = 1

INDEX, TRAINED = "index.json", "tokenizer.json"


@dataclass(frozen=True)
class Split:
    """What a split amounts to: ``tokens`` with BOS and EOS, ``shards`` by name with the SHA-256 of their .json."""

    documents: int
    tokens: int
    characters: int
    n_bytes: int
    shards: dict[str, str]

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "Split":
        """Of the shards of a split."""
        about = [shard.about for shard in shards]
        return cls(
            documents=sum(len(one["documents"]) for one in about),
            tokens=sum(one["tokens"] for one in about),
            characters=sum(one["characters"] for one in about),
            n_bytes=sum(n_bytes for one in about for *_, n_bytes in one["documents"]),
            shards={shard.stem.name: digest(shard.about_file) for shard in shards},
        )


@dataclass(frozen=True)
class Index:
    """index.json: ``content`` names what the corpus was made of; ``overlap``: see bench.data.overlap, by held-out document."""

    content: str
    tokenizer: str
    vocab: int
    bos: int | None
    splits: dict[str, Split]
    overlap: dict[str, float]


@dataclass(frozen=True)
class Corpus:
    """Nothing is read, nor its checksum compared, before it is asked for."""

    folder: Path
    index: Index

    @property
    def train_tokens(self) -> int:
        """Length of ``stream``."""
        return self.index.splits["train"].tokens - 1

    @cached_property
    def stream(self) -> Stream:
        """The training documents one after another, each with BOS and EOS, but for the last EOS, which nothing follows."""
        parts = [shard.tokens(self.index.vocab) for shard in self._shards("train")]
        return Stream([*parts[:-1], parts[-1][:-1]])

    def documents(self, split: str) -> list[Document]:
        """Documents of a split: train, validation or heldout.

        Raises:
            DataError: it has none, or a file of it is damaged.
        """
        shards = self._shards(split)
        if not shards:
            cure = f"name some in data.{split}" + " or set data.validation_share" * (split == "validation")
            raise DataError(f"there is no document to be split '{split}'; {cure}")
        return [document for shard in shards for document in shard.documents(self.index.vocab)]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """That of its tokens."""
        return get_tokenizer(self.index.tokenizer, self.folder / TRAINED)

    def keep_tokenizer(self, folder: Path) -> None:
        """Puts a tokenizer that was trained on this corpus beside the model that will read with it."""
        if (self.folder / TRAINED).exists():
            shutil.copy(self.folder / TRAINED, folder / TRAINED)

    def _shards(self, split: str) -> list[Shard]:
        shards = {Shard(self.folder / name): told for name, told in self.index.splits[split].shards.items()}
        for shard, told in shards.items():
            if not shard.is_whole or digest(shard.about_file) != told:
                raise DataError(f"{shard.about_file} is damaged; delete the folder {self.folder}, and it is made again")
        return list(shards)


def folder_of(data: DataConfig) -> Path:
    """Where the prepared corpus lies or will lie: named by its content, its tokenizer and how both are written.

    Raises:
        DataError: the content is not here, or not that of ``data.content``.
    """
    tokenizer = digest(Path(data.tokenizer)) if Path(data.tokenizer).is_file() else data.tokenizer
    key = hash_of_text(json.dumps([VERSION, tokenizer, fingerprint(data, SPLITS)]))
    if data.content not in ("", key):
        raise DataError(
            f"the content of data={data.name} is {key}, not data.content={data.content}: restore it, or set the other"
        )
    return Path(data.cache) / f"{data.name}-{key}"


def find_corpus(data: DataConfig) -> Corpus | None:
    """The corpus if it is prepared and what it was made of is still here; makes nothing."""
    try:
        folder = folder_of(data)
    except DataError:
        return None
    return Corpus(folder, read_index(folder)) if (folder / INDEX).exists() else None


def read_index(folder: Path) -> Index:
    """index.json of a folder.

    Raises:
        DataError: it is no index.
    """
    try:
        told = json.loads((folder / INDEX).read_text())
        return Index(**{**told, "splits": {name: Split(**split) for name, split in told["splits"].items()}})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder / INDEX} is damaged ({error}); delete the folder {folder}, and it is made again") from error


def write_index(folder: Path, index: Index) -> None:
    """index.json, atomically: with it the corpus is prepared."""
    write_atomic(folder / INDEX, json.dumps(asdict(index), indent=1))
