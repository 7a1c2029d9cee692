"""Perplexity at context c: the same targets, with the model started c tokens before the first (paper, figure 2 right)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.build import Prepared
from bench.data.batches import context_windows
from bench.evaluate import bits_per_byte, clusters, window_nll
from bench.lab import Lab
from bench.results import At, Row


@dataclass(frozen=True)
class PerplexityByContext:
    """``windows_per_document`` non-overlapping windows of max(contexts) + targets tokens; null takes all that fit."""

    contexts: Sequence[int]
    targets: int = 1024
    windows_per_document: int | None = None

    def flops(self, prepared: Prepared) -> float:
        """Forward FLOPs of all windows at all contexts."""
        windows = (self.windows_per_document or 1) * prepared.heldout_documents
        return windows * sum(prepared.train_flops(context + self.targets) for context in self.contexts) / 3

    def measure(self, lab: Lab) -> Iterator[Row]:
        """nll and bits per byte at every context; samples are means of windows, which have equally many targets."""
        documents = lab.documents("heldout")
        windows = context_windows(documents, max(self.contexts), self.targets, self.windows_per_document)
        lm, place = lab.trained_lm(), clusters(windows, documents)
        for context in lab.remaining("nll", "context", self.contexts):
            lab.here = {"context": context}
            losses = np.stack(window_nll(lm, windows, lab.run.device.tokens_at_once, context, self.targets))
            means = losses.mean(axis=1, dtype="float64")
            at: At = {"split": "heldout", "context": context, "n_targets": losses.size, "clusters": place}
            if not lab.recorder.has("bits_per_byte", context=context):
                yield lab.row("bits_per_byte", bits_per_byte(float(means.mean()), documents), "bit/byte", at)
            yield lab.row("nll", float(means.mean()), "nat/token", at, means.tolist())
            lab.progress(sum(c for c in self.contexts if c <= context) / sum(self.contexts))
