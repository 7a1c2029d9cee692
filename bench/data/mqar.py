"""Multi-query associative recall (MQAR; Zoology, arXiv 2312.04927, section 3): pairs of a key and a value, then keys again.

    k1 v1 k2 v2 …  noise  k2 v2 …  noise  k1 v1

Keys, values and noise have alphabets of their own, so that a value is known by its kind and only which one is recalled. In
training every token is a target, not only values that were seen before; so half of the sequences are dense with questions,
which teach recall, and half are mostly noise, which teach to read over it. (Zoology masks all other targets, and draws noise
from all tokens.)
"""

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt

from bench.data import DataError

# Raised where the same options would give other sequences.
VERSION = 1
# Token ids are those of ASCII, so that a sequence is a text, of which the tokenizer ``bytes`` gives the ids back.
IDS = 128
# Share of the places that hold a question, in the half that is mostly noise.
SPARSE = 0.3
# Of each split: its seed, and how many sequences it has.
SPLITS = {"train": (1, 65_536), "heldout": (2, 256)}


@dataclass(frozen=True)
class Alphabet:
    """``symbols`` keys, as many values, and noise: ids from 1 on (0 separates documents) and below IDS.

    Raises:
        DataError: the sizes do not fit one another.
    """

    pairs: int = 4
    symbols: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= self.symbols or 2 * self.symbols + 2 > IDS:
            raise DataError(
                f"mqar: {self.pairs} pairs of {self.symbols} keys do not go into {IDS} tokens; "
                "there must be 1 pair or more, as many keys, and twice as many tokens and 2"
            )

    def mapping(self, rng: np.random.Generator, rows: int) -> Int64[np.ndarray, "rows pairs 2"]:
        """Different keys, each with a value."""
        keys = np.argsort(rng.random((rows, self.symbols)), axis=1)[:, : self.pairs]
        values = rng.integers(self.symbols, size=(rows, self.pairs)) + self.symbols
        return np.stack((keys, values), axis=-1) + 1

    def noise(self, rng: np.random.Generator, *shape: int) -> Int64[np.ndarray, "..."]:
        """Tokens that are neither keys nor values."""
        return rng.integers(2 * self.symbols + 1, IDS, size=shape)


def text(options: str, split: str) -> str:
    """The sequences of a split as characters of ASCII; options: ``length=64,pairs=4,symbols=16``, the latter two if wanted.

    Raises:
        DataError: the options are not possible, or as of ``sequences``.
    """
    words = re.findall(r"(length|pairs|symbols)=(\d+)(?:,|$)", options)
    if ",".join("=".join(word) for word in words) != options or "length" not in dict(words):
        raise DataError(f"data.path=mqar:{options} is not possible; write it as mqar:length=64,pairs=4,symbols=16")
    sizes = {key: int(value) for key, value in words}
    length = sizes.pop("length")
    return sequences(Alphabet(**sizes), length, split).tobytes().decode("ascii")


def sequences(alphabet: Alphabet, length: int, split: str) -> UInt[np.ndarray, " T"]:
    """The sequences of a split, ``length`` tokens each, one after another.

    Raises:
        DataError: no such split, or a sequence has no room for its pairs and as many questions.
    """
    if split not in SPLITS:
        raise DataError(f"mqar has no split '{split}'; name one of: {', '.join(SPLITS)}")
    if length < 4 * alphabet.pairs + 2:
        raise DataError(f"mqar: {length} tokens have no room for {alphabet.pairs} pairs and questions; lengthen the context")
    seed, rows = SPLITS[split]
    rng = np.random.default_rng(seed)
    places, mapping = length // 2, alphabet.mapping(rng, rows)
    is_dense = rng.random((rows, 1)) < 0.5
    asked = rng.integers(alphabet.pairs, size=(rows, places))
    asked[:, : alphabet.pairs] = np.arange(alphabet.pairs)
    is_pair = rng.random((rows, places)) < np.where(is_dense, 1.0, SPARSE)
    is_pair[:, : alphabet.pairs] = True
    said = np.take_along_axis(mapping, asked[..., None], axis=1)
    said = np.where(is_pair[..., None], said, alphabet.noise(rng, rows, places, 2)).reshape(rows, -1)
    start = rng.integers(np.where(is_dense, 2, length - 4 * alphabet.pairs), size=(rows, 1))  # noise before the pairs
    place = np.arange(length) - start
    after = np.take_along_axis(said, place % (2 * places), axis=1)
    whole = np.where(place < 0, alphabet.noise(rng, rows, length), after)
    return whole.astype(np.uint8).reshape(-1)
