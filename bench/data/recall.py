"""Examples of recall at length, made to an exact number of tokens: something is said at a depth of a context, then asked for.

needle, multikey_needle and variable_tracking are texts after RULER (arXiv 2404.06654, section 3), worded so that a base model
need only go on: the question ends as the statement began. RULER's values have 7 digits, its keys are words or ids too, and it
asks an assistant. mqar (bench/data/mqar.py) is of token ids, and asks for every pair at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from bench.data import DataError
from bench.data.mqar import Alphabet
from bench.data.tokenizer import Tokenizer

Tokens = Integer[np.ndarray, " T"]

WORDS = (
    *("anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle", "ladder"),
    *("market", "needle", "orange", "pencil", "quiver", "ribbon", "saddle", "temple", "utopia", "valley", "window", "yellow"),
)
NOISE = "The river is wide and the road is long. A boat goes by and a bird sings. Then it is quiet again. "
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Keys of a multi-key needle, the one that is asked for included; variables of a chain, the first included; both as RULER.
KEYS, CHAIN = 4, 5


@dataclass(frozen=True)
class Example:
    """``context`` [T] ends with the question. ``parts`` of the ``answer`` [A] that follows are each right, whole, or wrong."""

    context: Tokens
    answer: Tokens
    parts: tuple[slice, ...] = (slice(None),)

    def share(self, likeliest: Bool[np.ndarray, " A"]) -> float:
        """The share of parts that greedy decoding gives, where it would give these tokens of the answer."""
        return sum(bool(likeliest[part].all()) for part in self.parts) / len(self.parts)


@dataclass(frozen=True)
class Source:
    """What examples are made of: the tokenizer of their texts, what surrounds them, and the alphabet of mqar."""

    tokenizer: Tokenizer
    haystack: Tokens
    alphabet: Alphabet

    def weave(
        self, rng: np.random.Generator, context: int, said: Sequence[tuple[float, str]], question: str, answer: str
    ) -> Example:
        """Statements, each at its depth (0 first, 1 last) of a stretch of the haystack, then the question.

        Raises:
            DataError: the context is too short for them.
        """
        statements = [(depth, self.tokenizer.encode(text)) for depth, text in sorted(said)]
        asked = self.tokenizer.encode(question)
        answered = self.tokenizer.encode(question + answer)[len(asked) :]
        room = context - len(asked) - sum(len(tokens) for _, tokens in statements)
        if room < 0:
            raise DataError(f"a context of {context} tokens lacks {-room} for what is said and asked; lengthen it")
        start = rng.integers(len(self.haystack))
        hay = self.haystack.take(np.arange(start, start + room), mode="wrap")
        pieces = np.split(hay, [round(depth * room) for depth, _ in statements])
        woven = [part for piece, (_, tokens) in zip(pieces, statements, strict=False) for part in (piece, tokens)]
        return Example(np.concatenate((*woven, pieces[-1], asked)), answered)


def needle(source: Source, rng: np.random.Generator, context: int, depth: float, keys: int = 1) -> Example:
    """One number is asked for, of ``keys`` that stand in the text; the others at random depths."""
    words, numbers = rng.choice(WORDS, keys, replace=False), rng.choice(np.arange(1000, 10_000), keys, replace=False)
    depths = [depth, *rng.random(keys - 1)]
    stems = [f" The special magic number for {word} is:" for word in words]
    said = [(at, f"{stem} {number}.") for at, stem, number in zip(depths, stems, numbers, strict=True)]
    return source.weave(rng, context, said, stems[0], f" {numbers[0]}")


def multikey_needle(source: Source, rng: np.random.Generator, context: int, depth: float) -> Example:
    """A needle among others like it."""
    return needle(source, rng, context, depth, KEYS)


def variable_tracking(source: Source, rng: np.random.Generator, context: int, depth: float) -> Example:
    """A value is given to a variable at ``depth``, and handed on from one to the next; asked for are all that have it."""
    names = ["".join(letters) for letters in rng.choice(list(LETTERS), (CHAIN, 5))]
    value = rng.integers(10_000, 100_000)
    depths = [depth, *sorted(depth + (1 - depth) * rng.random(CHAIN - 1))]
    given = [str(value), *(f"VAR {name}" for name in names)]
    said = [(at, f" VAR {name} = {what}.") for at, name, what in zip(depths, names, given, strict=False)]
    return source.weave(rng, context, said, f" These variables have the value {value}:", f" {' '.join(names)}")


def mqar(source: Source, rng: np.random.Generator, context: int, depth: float) -> Example:
    """The pairs stand together at ``depth`` of noise, and are all asked for after it, in a random order.

    Raises:
        DataError: the context is too short for the pairs.
    """
    (pairs,) = source.alphabet.mapping(rng, 1)
    room = context - pairs.size - 1
    if room < 0:
        raise DataError(f"a context of {context} tokens lacks {-room} for {len(pairs)} pairs and a question; lengthen it")
    before, after = np.split(source.alphabet.noise(rng, room), [round(depth * room)])
    asked = rng.permutation(pairs).reshape(-1)
    values = tuple(slice(place, place + 1) for place in range(0, pairs.size - 1, 2))
    return Example(np.concatenate((before, pairs.reshape(-1), after, asked[:1])), asked[1:], values)


TASKS: Mapping[str, Callable[[Source, np.random.Generator, int, float], Example]] = {
    "mqar": mqar,
    "needle": needle,
    "multikey_needle": multikey_needle,
    "variable_tracking": variable_tracking,
}
