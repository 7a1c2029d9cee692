"""Perplexity by position: one pass over each window, averaged in buckets of the position (paper, figure 2 right)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.build import Prepared
from bench.data.batches import context_windows
from bench.evaluate import clusters, window_nll
from bench.lab import Lab
from bench.results import At, Row


@dataclass(frozen=True)
class PerplexityByPosition:
    """Windows of ``context`` tokens and one more; the bucket of edge e holds positions e/2 < p <= e, the first all up to it.

    The position of a target is the number of tokens before it in the window.
    """

    context: int
    first_edge: int = 64
    windows_per_document: int | None = None

    def flops(self, prepared: Prepared) -> float:
        """Forward FLOPs of all windows."""
        return (self.windows_per_document or 1) * prepared.heldout_documents * prepared.train_flops(self.context) / 3

    def measure(self, lab: Lab) -> Iterator[Row]:
        """nll of every bucket; samples are means of windows."""
        documents = lab.documents("heldout")
        windows = context_windows(documents, self.context, 1, self.windows_per_document)
        edges = [self.first_edge]
        while edges[-1] < self.context:
            edges.append(min(2 * edges[-1], self.context))
        missing = lab.remaining("nll", "position", edges)
        if not missing:
            return
        losses = np.stack(window_nll(lab.trained_lm(), windows, lab.run.device.tokens_at_once))
        for low, edge in zip([0, *edges], edges, strict=False):
            if edge in missing:
                means = losses[:, low:edge].mean(axis=1, dtype="float64")
                n, place = losses[:, low:edge].size, clusters(windows, documents)
                at: At = {"split": "heldout", "context": self.context, "position": edge, "n_targets": n, "clusters": place}
                yield lab.row("nll", float(means.mean()), "nat/token", at, means.tolist())
