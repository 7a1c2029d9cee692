"""Log-likelihoods of held-out windows, in float32 or wider, with logits never held whole."""

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch

from bench.data.batches import Window
from bench.data.shards import Document
from models.lm import LM


@torch.no_grad()
def window_nll(
    lm: LM, windows: Sequence[Window], tokens_at_once: int, context: int | None = None, targets: int | None = None
) -> list[np.ndarray]:
    """Per window, the nll (nat, float32) of its last ``targets`` tokens (default: all but the first).

    The model starts ``context`` tokens before the first target (default: at the window's start). Windows of one length go
    through it together, as many as have no more than ``tokens_at_once``.
    """
    alike: dict[int, list[int]] = {}
    for place, window in enumerate(windows):
        alike.setdefault(len(window.tokens), []).append(place)
    found: dict[int, np.ndarray] = {}
    for length, places in alike.items():
        scored = length - 1 if targets is None else targets
        first = 0 if context is None else length - scored - context
        rows = max(1, tokens_at_once // (length - first))
        for start in range(0, len(places), rows):
            some = places[start : start + rows]
            held = np.stack([windows[place].tokens[first:] for place in some]).astype(np.int64)
            tokens = torch.from_numpy(held).to(lm.embedding.weight.device)
            found |= zip(some, lm.nll(tokens[:, :-1], tokens[:, -scored:]).cpu().numpy(), strict=True)
    return [found[place] for place in range(len(windows))]


def clusters(windows: Sequence[Window], documents: Sequence[Document]) -> str:
    """How many consecutive windows belong to which document: ``persuasion:911,northangerabbey:870``; no name has a comma."""
    runs = groupby(windows, key=lambda window: window.document)
    return ",".join(f"{documents[number].name.replace(',', ';')}:{len(list(same))}" for number, same in runs)


def bits_per_byte(nll: float, documents: Sequence[Document]) -> float:
    """From nat per token, by the tokens and bytes of these documents."""
    tokens, n_bytes = (sum(counts) for counts in zip(*((len(d.tokens), d.n_bytes) for d in documents), strict=True))
    return nll / math.log(2) * tokens / n_bytes
