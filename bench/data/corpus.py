"""Documents of a corpus, read whole: ``.txt`` or ``.txt.xz``, UTF-8, one file a document.

A corpus is a folder. ``path`` is either the name of a corpus that is embedded in this package (a folder beside this file;
``austen``), which always means that one, or a folder of the user's (``./austen`` for one of the same name). Or it is
``mqar:length=64,pairs=4,symbols=16``: made, not read (bench/data/mqar.py), with splits for files.
"""

import lzma
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt

from bench.data import DataError, mqar
from bench.data.tokenizer import Tokenizer

SUFFIXES = (".txt.xz", ".txt")
MADE = "mqar:"
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Document:
    """``name`` is the file's without its suffix; ``n_bytes`` the length of the text in UTF-8, for bits per byte."""

    name: str
    tokens: UInt[np.ndarray, " T"]
    n_bytes: int


def embedded() -> dict[str, Path]:
    """The corpora that come with the package: name to folder."""
    return {folder.name: folder for folder in sorted(_PACKAGE.iterdir()) if folder.is_dir() and _texts(folder)}


def load_documents(path: Path | str, files: Sequence[str], tokenizer: Tokenizer) -> list[Document]:
    """The named files of the corpus at ``path`` (see the module's docstring), in the order of ``files``.

    Raises:
        DataError: unknown corpus, no or missing file, broken .xz file, text that is empty or not UTF-8.
    """
    if is_made(path):
        return [_make(os.fspath(path).removeprefix(MADE), split, tokenizer.vocab) for split in files]
    return [Document(name, tokenizer.encode(text), len(text.encode("utf-8"))) for name, text in read_texts(path, files)]


def is_made(path: Path | str) -> bool:
    """Whether the corpus is made of token ids, not read."""
    return os.fspath(path).startswith(MADE)


def _make(options: str, split: str, vocab: int) -> Document:
    words = re.findall(r"(length|pairs|symbols)=(\d+)(?:,|$)", options)
    if ",".join("=".join(word) for word in words) != options or "length" not in dict(words):
        raise DataError(f"data.path={MADE}{options} is not possible; write it as {MADE}length=64,pairs=4,symbols=16")
    sizes = {key: int(value) for key, value in words}
    length = sizes.pop("length")
    tokens = mqar.sequences(mqar.Alphabet(vocab, **sizes), length, split)
    return Document(split, tokens, len(tokens))


def read_texts(path: Path | str, files: Sequence[str]) -> list[tuple[str, str]]:
    """Name and text of each of these files; errors as of ``load_documents``, and where there is no text."""
    if is_made(path):
        raise DataError(f"data.path={path} is made of token ids, not of text; choose data=austen, or a folder of texts")
    folder = folder_of(path)
    if not files:
        raise DataError(f"no file of {folder} is named; list some in data.train and data.heldout: {_listing(folder)}")
    return [_load(folder, file) for file in files]


def folder_of(path: Path | str) -> Path:
    """Where a corpus lies.

    Raises:
        DataError: there is none of that name.
    """
    known = embedded()
    folder = known.get(os.fspath(path)) or Path(path)
    if not folder.is_dir():
        raise DataError(
            f"there is no corpus '{path}': set data.path to a folder of .txt or .txt.xz files (looked for {folder.absolute()}) "
            f"or to an embedded corpus ({', '.join(known)})"
        )
    return folder


def _texts(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name.endswith(SUFFIXES))


def _listing(folder: Path) -> str:
    return ", ".join(_texts(folder)) or "it holds no .txt or .txt.xz file"


def _load(folder: Path, file: str) -> tuple[str, str]:
    suffix = next((suffix for suffix in SUFFIXES if file.endswith(suffix)), None)
    if suffix is None or not (folder / file).is_file():
        raise DataError(f"no text '{file}' in {folder}; name one of its .txt or .txt.xz files: {_listing(folder)}")
    text = _read(folder / file)
    if not text.strip():
        raise DataError(f"{folder / file} is empty; fill it or take it out of data.train and data.heldout")
    return file.removesuffix(suffix), text


def _read(file: Path) -> str:
    raw = file.read_bytes()
    try:
        return (lzma.decompress(raw) if file.suffix == ".xz" else raw).decode("utf-8")
    except lzma.LZMAError as error:
        raise DataError(f"{file} is no whole .xz file ({error}); restore it, or compress the text again with `xz`") from error
    except UnicodeDecodeError as error:
        cure = f"convert it, for example `iconv -f latin1 -t utf-8 {file.name.removesuffix('.xz')}`"
        raise DataError(f"{file} is not UTF-8 (byte {error.start}: {error.reason}); {cure}") from error
