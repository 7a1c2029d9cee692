"""Text to token ids and back; a tokenizer is chosen by its name (``tokenizer:`` in conf/data)."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt

from bench.data import DataError


@runtime_checkable  # For the checks of shapes that the tests switch on.
class Tokenizer(Protocol):
    """Ids are 0 .. vocab - 1; ``encode`` adds no token that the text does not hold."""

    @property
    def name(self) -> str: ...

    @property
    def vocab(self) -> int: ...

    def encode(self, text: str) -> UInt[np.ndarray, " T"]: ...

    def decode(self, tokens: Integer[np.ndarray, " T"]) -> str: ...


class ByteTokenizer:
    """One token per byte of UTF-8."""

    name = "bytes"
    vocab = 256

    def encode(self, text: str) -> UInt[np.ndarray, " T"]:
        """The bytes of ``text`` as a read-only uint8 array."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)

    def decode(self, tokens: Integer[np.ndarray, " T"]) -> str:
        """The text of ids 0 .. 255; bytes that are not UTF-8, as a model may write them, become U+FFFD."""
        return tokens.astype(np.uint8).tobytes().decode("utf-8", errors="replace")


TOKENIZERS: dict[str, type[Tokenizer]] = {"bytes": ByteTokenizer}


def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name.

    Raises:
        DataError: no such tokenizer; lists those that exist.
    """
    if name not in TOKENIZERS:
        raise DataError(f"there is no tokenizer '{name}'; choose data.tokenizer from: {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name]()
