"""The inner loss before and after the update of each mini-batch, by layer and position (paper, figures 4 and 14)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bench.build import Prepared
from bench.config import ConfigError
from bench.data.batches import context_windows
from bench.evaluate import clusters
from bench.lab import Lab
from bench.results import At, Row
from models.lm import LM, Branch
from models.ttt import TTT


@dataclass(frozen=True)
class InnerLoss:
    """Windows of ``context`` tokens, averaged over heads and over buckets of ``bucket`` positions."""

    context: int = 2048
    bucket: int = 64
    windows_per_document: int | None = None

    def flops(self, prepared: Prepared) -> float:
        """Forward FLOPs of all windows, twice: the losses take about as much again."""
        windows = (self.windows_per_document or 1) * prepared.heldout_documents
        return 2 * windows * prepared.train_flops(self.context) / 3

    def measure(self, lab: Lab) -> Iterator[Row]:
        """inner_loss at weights w0, before (start of the mini-batch) and after (its end); samples are means of windows.

        Raises:
            ConfigError: the model has no TTT layer.
        """
        documents = lab.documents("heldout")
        windows = context_windows(documents, self.context, 1, self.windows_per_document)
        tokens = torch.from_numpy(np.stack([w.tokens[: self.context] for w in windows]).astype(np.int64)).to(lab.device)
        losses, place = list(inner_losses(lab.trained_lm(), tokens)), clusters(windows, documents)
        if not losses:
            raise ConfigError(
                f"'{lab.run.model.name}' has no inner loss; choose a TTT model: model=ttt_linear or model=ttt_mlp"
            )
        for layer, by_weights in enumerate(losses):
            for weights, loss in by_weights.items():
                for edge in range(self.bucket, self.context + 1, self.bucket):
                    if not lab.recorder.has("inner_loss", layer=layer, weights=weights, position=edge):
                        means = loss[:, edge - self.bucket : edge].mean((1, 2)).double()
                        at: At = {
                            "layer": layer,
                            "weights": weights,
                            "position": edge,
                            "context": self.context,
                            "clusters": place,
                        }
                        yield lab.row("inner_loss", float(means.mean()), "1", at, means.tolist())


@torch.no_grad()
def inner_losses(lm: LM, tokens: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """Of every TTT layer, from input to output, the loss of each token and head [B, T, H] at w0, before and after."""
    h = lm.embedding(tokens)
    for branch in lm.branches:
        assert isinstance(branch, Branch)
        if isinstance(branch.mixer, TTT):
            yield branch.mixer.inner_losses(branch.norm(h))
        h = branch(h)
