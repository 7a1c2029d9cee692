"""What a model makes of continuations: how likely each token is, and what it would write itself.

Contexts of different lengths go through a model together, though a prefill takes no padding: of each context a whole number of
``GRAIN`` tokens is its *stem*, equal lengths of which form a batch, and the rest is read together with the continuation, where
what pads shorter rows comes last, so that no token sees it. The state after a stem is made once, and every continuation of it,
as the choices of a question, goes on from a copy. Neither the order of the requests nor the size of a batch changes a
result, but by rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from models.lm import LM
from models.mixer import State, take_rows

Tokens = Integer[np.ndarray, " T"]

GRAIN = 64
# A stem is read in pieces of so many tokens, all rows together, which bounds the memory of activations.
PIECE = 65_536
PADDING = -1


@dataclass(frozen=True)
class Score:
    """Of each token of a continuation: negative log-likelihood (nat), and whether greedy decoding would write it there."""

    nll: Float[np.ndarray, " T"]
    likeliest: Bool[np.ndarray, " T"]

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would write the continuation, whole.

        It would exactly if every token is the likeliest after the true ones before it: no decoding is needed to tell.
        """
        return bool(self.likeliest.all())


@dataclass(frozen=True)
class _Batch:
    """The state after stems of one length, and the requests that go on from it: (row of the state, index, tail)."""

    state: list[State]
    requests: list[tuple[int, int, Tokens]]


def score(lm: LM, pairs: Sequence[tuple[Tokens, Tokens]], rows: int) -> list[Score]:
    """Of every (context, continuation), each of one token or more, the score; ``rows`` sequences at a time."""
    found: dict[int, Score] = {}
    for batch in _batches(lm, [context for context, _ in pairs], rows, room=max((len(c) for _, c in pairs), default=0)):
        ordered = sorted(batch.requests, key=lambda request: len(request[2]) + len(pairs[request[1]][1]))
        for start in range(0, len(ordered), rows):
            part = ordered[start : start + rows]
            whole = [np.concatenate((tail, pairs[index][1])).astype(np.int64) for _, index, tail in part]
            targets = [_mask(tokens[1:], len(pairs[index][1])) for tokens, (_, index, _) in zip(whole, part, strict=True)]
            state = take_rows(batch.state, _device(lm, [row for row, _, _ in part]))
            nll, likeliest = lm.score(_pad(lm, [tokens[:-1] for tokens in whole], 0), _pad(lm, targets, PADDING), state)
            ends = np.cumsum([len(pairs[index][1]) for _, index, _ in part])[:-1]
            each = zip(part, np.split(nll.cpu().numpy(), ends), np.split(likeliest.cpu().numpy(), ends), strict=True)
            found |= {index: Score(loss, hit) for (_, index, _), loss, hit in each}
    return [found[index] for index in range(len(pairs))]


def generate(
    lm: LM, contexts: Sequence[Tokens], most: int, has_ended: Callable[[int, Sequence[int]], bool], rows: int
) -> list[list[int]]:
    """What greedy decoding writes after each context, ``most`` tokens or until ``has_ended(index, tokens)``."""
    found: list[list[int]] = [[] for _ in contexts]
    for batch in _batches(lm, contexts, rows, room=most):
        for start in range(0, len(batch.requests), rows):
            part = batch.requests[start : start + rows]
            state = take_rows(batch.state, _device(lm, [row for row, _, _ in part]))
            _write(lm, state, [tail for _, _, tail in part], [(index, found[index]) for _, index, _ in part], most, has_ended)
    return found


def _write(
    lm: LM,
    state: list[State],
    tails: Sequence[Tokens],
    rows: Sequence[tuple[int, list[int]]],
    most: int,
    has_ended: Callable[[int, Sequence[int]], bool],
) -> None:
    """Steps all rows together: each first through its tail, then through what it writes itself."""
    token = [int(tail[0]) for tail in tails]
    open_rows = set(range(len(tails)))
    place = 0
    while open_rows:
        likeliest = lm.step(_device(lm, token), state).argmax(-1).tolist()
        place += 1
        token = [int(tail[place]) if place < len(tail) else new for tail, new in zip(tails, likeliest, strict=True)]
        for row in [row for row in open_rows if place >= len(tails[row])]:
            index, written = rows[row]
            written.append(token[row])
            if len(written) >= most or has_ended(index, written):
                open_rows.remove(row)


def _batches(lm: LM, contexts: Sequence[Tokens], rows: int, room: int) -> Iterator[_Batch]:
    """The contexts by their stems, equal ones once; the states have room for a tail and ``room`` tokens more."""
    stems: dict[bytes, list[int]] = {}
    for index, context in enumerate(contexts):
        stem = np.asarray(context[: _stem(context)], dtype=np.int64)
        stems.setdefault(stem.tobytes(), []).append(index)
    for size, same in groupby(sorted(stems.items(), key=lambda item: len(item[0])), key=lambda item: len(item[0])):
        alike = list(same)
        for start in range(0, len(alike), rows):
            part = alike[start : start + rows]
            state = lm.init_state(len(part), size // 8 + GRAIN + room)
            _prefill(lm, np.stack([np.frombuffer(stem, dtype=np.int64) for stem, _ in part]), state)
            users = [(row, index) for row, (_, indices) in enumerate(part) for index in indices]
            yield _Batch(state, [(row, index, contexts[index][_stem(contexts[index]) :]) for row, index in users])


def _stem(context: Tokens) -> int:
    """The stem's length; at least one token of the context is left for the tail."""
    return (len(context) - 1) // GRAIN * GRAIN


def _prefill(lm: LM, tokens: Integer[np.ndarray, "B T"], state: list[State]) -> None:
    for piece in torch.from_numpy(tokens).split(max(1, PIECE // len(tokens)), dim=1):
        if piece.shape[1]:
            lm.prefill(piece.to(lm.embedding.weight.device), state)


def _mask(targets: Tokens, scored: int) -> Tokens:
    """The targets with all but the last ``scored`` marked as not to be scored."""
    return np.where(np.arange(len(targets)) < len(targets) - scored, PADDING, targets)


def _pad(lm: LM, rows: Sequence[Tokens], value: int) -> Tensor:
    longest = max(map(len, rows))
    return _device(lm, np.stack([np.pad(row, (0, longest - len(row)), constant_values=value) for row in rows]))


def _device(lm: LM, values: Iterable[int] | Tokens) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64), device=lm.embedding.weight.device)
