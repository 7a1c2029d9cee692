"""Windows of tokens: for training an endless sequence known from its seed alone, for evaluation every target once.

A window of n inputs holds n + 1 tokens: inputs ``tokens[:-1]``, targets ``tokens[1:]``.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from bench.data import DataError
from bench.data.shards import Document, Stream


class TrainBatches:
    """All documents as one stream, cut to windows of ``context`` inputs, shuffled anew each epoch.

    Documents are packed as by the code of the paper (arXiv 2407.04620): each with its BOS and EOS, windows across their ends,
    which no state heeds. Window k covers ``stream[k * context : k * context + context + 1]``: neighbours share a token, so each
    token but the first is a target once an epoch, save at most ``context - 1`` at the end of the stream that fill no window.
    ``unscored``: the token, BOS, that is no target, as nothing tells that a document begins.

    Raises:
        DataError: the stream is shorter than one window.
    """

    def __init__(self, stream: Stream, context: int, seed: int, unscored: int | None = None) -> None:
        _check(context=context)
        self._stream, self._context, self._seed, self.unscored = stream, context, seed, unscored
        self.n_windows = (len(self._stream) - 1) // context
        if self.n_windows < 1:
            raise DataError(
                f"the training text has {len(self._stream)} tokens, fewer than the {context + 1} of one window; "
                f"shorten the training context below {len(self._stream)}, or add files to data.train"
            )

    def batch(self, first: int, rows: int, length: int | None = None) -> Int64[np.ndarray, "B T"]:
        """Windows ``first`` .. ``first + rows - 1`` of the endless sequence, each cut to its first ``length`` inputs.

        Shape [rows, length + 1]; ``length`` is ``context`` if not given. A function of its arguments
        alone: a run that resumes at window ``first`` sees what an uninterrupted one sees, and processes that share a batch
        take their rows of it.

        Raises:
            ValueError: ``first`` is negative, ``rows`` is under 1, or ``length`` is not in 1 .. context.
        """
        length = self._context if length is None else length
        if first < 0 or rows < 1 or not 1 <= length <= self._context:
            raise ValueError(f"no batch of {rows} windows from {first}, {length} inputs each (context {self._context})")
        starts = [self._window(number) * self._context for number in range(first, first + rows)]
        return np.stack([self._stream.read(start, length + 1) for start in starts]).astype(np.int64)

    def _window(self, number: int) -> int:
        epoch, place = divmod(number, self.n_windows)
        return int(_permutation(self._seed, epoch, self.n_windows)[place])


@dataclass(frozen=True)
class Window:
    """A stretch of one document: ``tokens[0]`` is its token ``start``; ``document`` is its place in the list of documents."""

    document: int
    start: int
    tokens: Int64[np.ndarray, " T"]


def heldout_windows(documents: Sequence[Document], context: int) -> list[Window]:
    """Windows of ``context`` inputs that have each token of each document, but its first, as a target exactly once.

    The last window of a document is as short as what is left; none crosses a document's end.

    Raises:
        DataError: a document has a single token, so nothing to predict.
    """
    _check_documents(documents)
    _check(context=context)
    windows = []
    for index, document in enumerate(documents):
        if len(document.tokens) < 2:
            raise DataError(f"document '{document.name}' has one token: nothing to predict; take it out of data.heldout")
        starts = range(0, len(document.tokens) - 1, context)
        windows += [_cut(documents, index, start, context + 1) for start in starts]
    return windows


def context_windows(documents: Sequence[Document], context: int, targets: int, per_document: int | None = None) -> list[Window]:
    """Windows of ``context`` tokens followed by ``targets`` targets: the first target has exactly ``context`` before it.

    They do not overlap. A document is cut to as many equal parts as it has room for, at most ``per_document``, and each part
    begins with a window. To score the same targets after a shorter context c, take ``tokens[-(c + targets):]``.

    Warns:
        UserWarning: some documents are too short, and which.

    Raises:
        DataError: every document is too short; names the longest.
    """
    _check_documents(documents)
    _check(context=context, targets=targets, per_document=1 if per_document is None else per_document)
    _report_short(documents, context, targets)
    size = context + targets
    windows = []
    for index, document in enumerate(documents):
        n = len(document.tokens)
        parts = n // size if per_document is None else min(n // size, per_document)
        windows += [_cut(documents, index, i * n // parts, size) for i in range(parts)]
    return windows


def _report_short(documents: Sequence[Document], context: int, targets: int) -> None:
    need = f"a context of {context} and {targets} targets need {context + targets} tokens in one document"
    short = [document for document in documents if len(document.tokens) < context + targets]
    if len(short) == len(documents):
        longest = max(documents, key=lambda document: len(document.tokens))
        raise DataError(
            f"{need}; the longest, '{longest.name}', has {len(longest.tokens)}. "
            "Shorten the context or the targets, or add a longer document to data.heldout"
        )
    if short:
        names = ", ".join(f"'{document.name}' ({len(document.tokens)})" for document in short)
        warnings.warn(f"{need}; left out as too short: {names}", stacklevel=3)


def _cut(documents: Sequence[Document], index: int, start: int, size: int) -> Window:
    return Window(index, start, documents[index].tokens[start : start + size].astype(np.int64))


@lru_cache(maxsize=2)  # A batch may span two epochs.
def _permutation(seed: int, epoch: int, n: int) -> Int64[np.ndarray, " n"]:
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.setflags(write=False)
    return order


def _check_documents(documents: Sequence[Document]) -> None:
    if not documents:
        raise DataError("there is no document; list some in data.heldout")


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise DataError(f"{name} is {number}; it must be 1 or more")
