"""How much of a held-out document the training text holds: the share of its sentences that occur there.

A sentence is its words in lower case, without punctuation; one of fewer than 8 words says nothing of where it comes from, and
is left out. Of a sentence only 64 bits are kept, and of the training text only what is known from held-out documents.
"""

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import UInt64

WORDS = 8

_END = re.compile(r"[.!?]+[\"'”’)\]]*\s+|\n+")
_WORD = re.compile(r"\w+")


def sentences(text: str) -> Iterator[str]:
    """The normalised sentences of a text that have ``WORDS`` words at least."""
    for sentence in _END.split(text):
        words = _WORD.findall(sentence.lower())
        if len(words) >= WORDS:
            yield " ".join(words)


def sentence_hashes(text: str) -> UInt64[np.ndarray, " S"]:
    """Of each sentence 64 bits, in their order."""
    digests = b"".join(blake2b(sentence.encode(), digest_size=8).digest() for sentence in sentences(text))
    return np.frombuffer(digests, dtype="<u8")


def shares(hashes: Sequence[UInt64[np.ndarray, " S"]], seen: UInt64[np.ndarray, " N"]) -> list[float]:
    """Of each document the share of its sentences that are among ``seen``; 0 where it has none."""
    return [float(np.isin(one, seen).mean()) if len(one) else 0.0 for one in hashes]
