"""Documents of files, one at a time, never a corpus as text in memory.

    .txt      the file is one document
    .jsonl    a JSON object a line
    .parquet  a row a document

The first two plain or compressed (.gz, .bz2, .xz, .zst); UTF-8. A row holds its text in one column, and may hold an ``id``.
"""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.data import DataError, optional

PACKED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Text:
    """One document, and what names it: its ``id``, or its file and its number there."""

    id: str
    text: str


def read_file(file: Path, column: str = "text") -> Iterator[Text]:
    """The documents of a file that ``is_text``, in its order.

    Raises:
        DataError: it is damaged or not UTF-8, or holds no text where there should be one.
    """
    with _explained(file):
        yield from _READERS[_kind(file.name)](file, column)


def is_text(name: str) -> bool:
    """Whether a file of this name can be read."""
    return _kind(name) in _READERS and not (name.endswith(PACKED) and _kind(name) == ".parquet")


def stem(name: str) -> str:
    """The name without what says its format."""
    return _unpacked_name(name).removesuffix(_kind(name))


def texts_of(rows: Iterable[tuple[str, Mapping[str, Any]]], column: str) -> Iterator[Text]:
    """The documents of rows that are named by their place; rows whose text is blank are left out.

    Raises:
        DataError: a row has no such column, or no text in it.
    """
    for place, row in rows:
        text = row.get(column)
        if not isinstance(text, str):
            raise DataError(f"{place} has no text '{column}'; set data.column to one of: {', '.join(map(str, row))}")
        if text.strip():
            yield Text(str(row.get("id", place)), text)


def _whole(file: Path, _: str) -> Iterator[Text]:
    with _unpacked(file) as raw:
        text = raw.read().decode("utf-8")
    if not text.strip():
        raise DataError(f"{file} is empty; fill it, or take it out of data.train, data.validation and data.heldout")
    yield Text(stem(file.name), text)


def _lines(file: Path, column: str) -> Iterator[Text]:
    with io.TextIOWrapper(_unpacked(file), encoding="utf-8", newline="\n") as lines:
        yield from texts_of(((f"{file.name}:{n}", _parsed(line, file, n)) for n, line in enumerate(lines, 1)), column)


def _parsed(line: str, file: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {number} is not JSON ({error}); mend it or take it out") from error
    if not isinstance(row, dict):
        raise DataError(f'{file}, line {number} is no JSON object; give one a line: {{"id": …, "text": …}}')
    return row


def _table(file: Path, column: str) -> Iterator[Text]:
    with optional("pyarrow.parquet", f"reading {file}").ParquetFile(file) as table:
        wanted = (
            [name for name in table.schema_arrow.names if name in {"id", column}]
            if column in table.schema_arrow.names
            else None
        )
        rows = (row for batch in table.iter_batches(batch_size=16, columns=wanted) for row in batch.to_pylist())
        yield from texts_of(((f"{file.name}:{n}", row) for n, row in enumerate(rows, 1)), column)


_READERS: dict[str, Callable[[Path, str], Iterator[Text]]] = {".txt": _whole, ".jsonl": _lines, ".parquet": _table}


def _unpacked_name(name: str) -> str:
    return name.removesuffix(next((suffix for suffix in PACKED if name.endswith(suffix)), ""))


def _kind(name: str) -> str:
    return Path(_unpacked_name(name)).suffix


def _unpacked(file: Path) -> IO[bytes] | gzip.GzipFile:
    match file.suffix:
        case ".gz":
            return gzip.open(file)
        case ".bz2":
            return bz2.open(file)
        case ".xz":
            return lzma.open(file)
        case ".zst":  # pyarrow notices a file that was cut short
            return optional("pyarrow", f"reading {file}").input_stream(str(file), compression="zstd")
    return file.open("rb")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """What goes wrong in reading ``file``, in words that name the cure."""
    try:
        yield
    except DataError:
        raise
    except UnicodeDecodeError as error:
        cure = f"convert it, for example `iconv -f latin1 -t utf-8 {_unpacked_name(file.name)}`"
        raise DataError(f"{file} is not UTF-8 (byte {error.start}: {error.reason}); {cure}") from error
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{file} is no whole {file.suffix} file ({error}); restore it, or make it again") from error
