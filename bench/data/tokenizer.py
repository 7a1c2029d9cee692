"""Text to token ids and back; ``data.tokenizer`` names one.

    bytes        one token a byte of UTF-8
    bpe_4096     byte-level BPE of so many pieces, trained on the training documents (bench/data/bpe.py); any number
    mistral-32k  the 32,000 pieces of sentencepiece that come with mistral-common, of the kind and size of the paper's
    a file       a model of sentencepiece, or .json of the package tokenizers

A document is framed as by the code of the paper (arXiv 2407.04620): BOS, text, EOS. Bytes have no BOS, and end one with the
byte 0, which plain text does not hold.
"""

import importlib.util
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt

from bench.data import DataError, optional

# What a tokenizers file may call the tokens that begin and end a document.
BEGINS = ("<s>", "<bos>", "<|begin_of_text|>")
ENDS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>")


@runtime_checkable  # For the checks of shapes that the tests switch on.
class Tokenizer(Protocol):
    """Ids are 0 .. vocab - 1; ``encode`` adds no token that the text does not hold, ``bos`` and ``eos`` least of all."""

    @property
    def name(self) -> str: ...

    @property
    def vocab(self) -> int: ...

    @property
    def bos(self) -> int | None: ...

    @property
    def eos(self) -> int: ...

    def encode(self, text: str) -> UInt[np.ndarray, " T"]: ...

    def decode(self, tokens: Integer[np.ndarray, " T"]) -> str: ...


class ByteTokenizer:
    """One token per byte of UTF-8."""

    name = "bytes"
    vocab = 256
    bos = None
    eos = 0

    def encode(self, text: str) -> UInt[np.ndarray, " T"]:
        """The bytes of ``text`` as a read-only uint8 array."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)

    def decode(self, tokens: Integer[np.ndarray, " T"]) -> str:
        """The text of ids 0 .. 255; bytes that are not UTF-8, as a model may write them, become U+FFFD."""
        return tokens.astype(np.uint8).tobytes().decode("utf-8", errors="replace")


class SentencePiece:
    """A model of the package sentencepiece."""

    def __init__(self, name: str, file: Path) -> None:
        package = optional("sentencepiece", f"data.tokenizer={name}")
        try:
            self._model: Any = package.SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise DataError(f"data.tokenizer={name}: {file} is no model of sentencepiece ({error})") from error
        self.name, self.vocab = name, int(self._model.vocab_size())
        self.bos = _or_none(self._model.bos_id())
        self.eos = _end(name, _or_none(self._model.eos_id()))

    def encode(self, text: str) -> UInt[np.ndarray, " T"]:
        """Pieces of ``text``."""
        return np.array(self._model.encode(text), dtype=dtype_of(self.vocab))

    def decode(self, tokens: Integer[np.ndarray, " T"]) -> str:
        """The text, without the space that sentencepiece puts first."""
        return str(self._model.decode(tokens.tolist()))


class TokenizersFile:
    """A file of the package tokenizers."""

    def __init__(self, name: str, file: Path) -> None:
        package = optional("tokenizers", f"data.tokenizer={name}")
        try:
            self._own: Any = package.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            raise DataError(f"data.tokenizer={name}: {file} is no file of the package tokenizers ({error})") from error
        self._own.encode_special_tokens = True  # "</s>" in a text is text
        ids = self._own.get_vocab()
        self.name, self.vocab = name, max(ids.values()) + 1
        self.bos = next((ids[word] for word in BEGINS if word in ids), None)
        self.eos = _end(name, next((ids[word] for word in ENDS if word in ids), None))

    def encode(self, text: str) -> UInt[np.ndarray, " T"]:
        """Pieces of ``text``."""
        (encoding,) = self._own.encode_batch_fast([text], add_special_tokens=False)
        return np.array(encoding.ids, dtype=dtype_of(self.vocab))

    def decode(self, tokens: Integer[np.ndarray, " T"]) -> str:
        """The text, special tokens by their names."""
        return str(self._own.decode(tokens.tolist(), skip_special_tokens=False))


def get_tokenizer(name: str, trained: Path | None = None) -> Tokenizer:
    """The tokenizer of that name; ``trained``: the file of one that was trained on its data.

    Raises:
        DataError: there is none, or what it needs is missing or damaged.
    """
    if name == "bytes":
        return ByteTokenizer()
    if name == "mistral-32k":
        return SentencePiece(name, _mistral_file())
    if trained_vocab(name) is not None:
        if trained is None or not trained.exists():
            raise DataError(f"data.tokenizer={name} is trained on its data; make it: python -m bench.data prepare DATA")
        return TokenizersFile(name, trained)
    if not Path(name).is_file():
        known = "bytes, bpe_N (bpe_4096), mistral-32k, or a file of sentencepiece or of tokenizers (.json)"
        raise DataError(f"there is no tokenizer '{name}'; choose data.tokenizer from: {known}")
    return TokenizersFile(name, Path(name)) if name.endswith(".json") else SentencePiece(name, Path(name))


def trained_vocab(name: str) -> int | None:
    """N of ``bpe_N``, None for another name."""
    kind, _, number = name.partition("_")
    return int(number) if kind == "bpe" and number.isdecimal() else None


def vocab_named(name: str) -> int | None:
    """How many ids a tokenizer has, where its name alone says so."""
    return {"bytes": 256, "mistral-32k": 32_000}.get(name) or trained_vocab(name)


def dtype_of(vocab: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest unsigned integer that holds all ids."""
    return np.uint8 if vocab <= 1 << 8 else np.uint16 if vocab <= 1 << 16 else np.uint32


def _mistral_file() -> Path:
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or not spec.submodule_search_locations:
        optional("mistral_common", "data.tokenizer=mistral-32k")
        raise AssertionError  # it was imported though it has no place
    return Path(spec.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"


def _or_none(number: int) -> int | None:
    return number if number >= 0 else None


def _end(name: str, number: int | None) -> int:
    if number is None:
        raise DataError(
            f"data.tokenizer={name} has no token that ends a document: one of {', '.join(ENDS)}; add it to the file"
        )
    return number
