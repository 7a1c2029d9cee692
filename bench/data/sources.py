"""Where documents come from: files of a folder, or the Hugging Face hub; which split they belong to; what names their content.

``data.path`` is the name of a corpus that is embedded in this package (a folder beside this file; ``austen``), a folder of the
user's (``./austen`` for one of the same name), ``hub:NAME``, a data set that the package datasets streams, or
``mqar:length=64,pairs=4,symbols=16``, which is made (bench/data/mqar.py). ``data.train``, ``data.validation`` and
``data.heldout`` name files, by patterns such as ``train-*.jsonl.bz2``, or splits of the hub's or of what is made.

NAME.sha256, as sha256sum writes it, stands for a file NAME that is elsewhere: what was prepared of it is found.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from bench.config import DataConfig
from bench.data import DataError, mqar, optional
from bench.data.text import Text, is_text, read_file, texts_of

SPLITS = ("train", "validation", "heldout")
HUB, MADE = "hub:", "mqar:"
STANDS_IN = ".sha256"

_PACKAGE = Path(__file__).parent


def embedded() -> dict[str, Path]:
    """The corpora that come with the package: name to folder."""
    return {folder.name: folder for folder in sorted(_PACKAGE.iterdir()) if folder.is_dir() and _texts(folder)}


def read(data: DataConfig, splits: Sequence[str]) -> Iterator[tuple[str, Text]]:
    """The documents of what ``data`` names for these splits, each with the split that it belongs to.

    Of the training documents, those that the hash of their id picks belong to validation (``data.validation_share``).

    Raises:
        DataError: something is missing, damaged or without text.
    """
    for split in splits:
        for text in islice(_read(data, split), data.take.get(split)):
            yield "validation" if split == "train" and _lot(text.id) < data.validation_share else split, text


def fingerprint(data: DataConfig, splits: Sequence[str]) -> str:
    """Names the content of these splits, by the bytes of files or the revision of the hub, and by what is taken of it.

    Raises:
        DataError: it is not here, or the hub's revision is not given.
    """
    told: list[Any] = [data.column, data.validation_share, [data.take.get(split) for split in splits]]
    if data.path.startswith(HUB):
        told.append([data.path, data.hub, _hub_files(data), [_named(data, split) for split in splits]])
    elif data.path.startswith(MADE):
        told.append([data.path, mqar.VERSION, [_named(data, split) for split in splits]])
    else:
        told.append([[(file.name, _told_digest(file)) for file in _files(data, split)] for split in splits])
    return hash_of_text(json.dumps(told, sort_keys=True))


def check_here(data: DataConfig) -> None:
    """Raises DataError where a file is not here; the hub is not asked."""
    if not data.path.startswith((HUB, MADE)):
        for split in SPLITS:
            _files(data, split)


def digest(file: Path) -> str:
    """SHA-256 of a file's bytes; read again only where it has changed."""
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


def hash_of_text(text: str) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told_digest(file: Path) -> str:
    """``digest``, or what stands in for a file that is not here."""
    return digest(file) if file.exists() else file.with_name(file.name + STANDS_IN).read_text().split()[0]


@cache
def _digest(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _lot(id_: str) -> float:
    """A number from 0 to 1 that the id alone decides."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "big") / 2**64


def _named(data: DataConfig, split: str) -> list[str]:
    return {"train": data.train, "validation": data.validation, "heldout": data.heldout}[split]


def _read(data: DataConfig, split: str) -> Iterator[Text]:
    if data.path.startswith(HUB):
        for name in _named(data, split):
            yield from _read_hub(data, name)
    elif data.path.startswith(MADE):
        yield from (Text(name, mqar.text(data.path.removeprefix(MADE), name)) for name in _named(data, split))
    else:
        for file in _files(data, split):
            yield from read_file(file, data.column)


def _files(data: DataConfig, split: str) -> list[Path]:
    folder = _folder(data.path)
    if not (named := _named(data, split)) and split != "validation":
        raise DataError(f"no file of {folder} is named; list some in data.train and data.heldout: {_listing(folder)}")
    return [file for pattern in named for file in _matching(folder, pattern)]


def _folder(path: str) -> Path:
    known = embedded()
    folder = known.get(path) or Path(path)
    if not folder.is_dir():
        raise DataError(
            f"there is no corpus '{path}': set data.path to a folder of texts (looked for {folder.absolute()}), "
            f"to an embedded corpus ({', '.join(known)}), or to hub:NAME"
        )
    return folder


def _matching(folder: Path, pattern: str) -> list[Path]:
    found = {file for file in folder.glob(pattern) if file.is_file()}
    found |= {file.with_suffix("") for file in folder.glob(pattern + STANDS_IN)}
    files = sorted(file for file in found if is_text(file.name))
    if not files:
        raise DataError(f"no text '{pattern}' in {folder}; name one of: {_listing(folder)}")
    return files


def _texts(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if is_text(file.name))


def _listing(folder: Path) -> str:
    return ", ".join(_texts(folder)[:20]) or "it holds no .txt, .jsonl or .parquet file"


def _read_hub(data: DataConfig, split: str) -> Iterator[Text]:
    name, datasets = data.path.removeprefix(HUB), optional("datasets", f"data.path={data.path}")
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True, **data.hub)
        yield from texts_of(((f"{split}:{n}", row) for n, row in enumerate(rows, 1)), data.column)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        cure = "check data.path, data.hub and the network; what is prepared already is not read again"
        raise DataError(f"split '{split}' of {data.path} cannot be read: {error}; {cure}") from error


def _hub_files(data: DataConfig) -> list[tuple[str, str]]:
    """Local files that are read through datasets, which have no revision: their names and digests."""
    told = data.hub.get("data_files", [])
    names = [name for value in (told.values() if isinstance(told, dict) else [told]) for name in _listed(value)]
    files = [(name, Path(name)) for name in names]
    if all(file.is_file() for _, file in files) and files:
        return [(name, digest(file)) for name, file in files]
    if "revision" not in data.hub:
        raise DataError(f"{data.path} has no revision: set +data.hub.revision=COMMIT, which names the content that is read")
    return []


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
