"""Loss and gradients of a micro-batch as one CUDA graph: small models train as fast as their kernels, whatever Python takes."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bench import distributed
from bench.config import ConfigError

Backward = Callable[[Int[Tensor, "B T"], float], Float[Tensor, ""]]
"""Adds the gradients of tokens' loss times a weight to those of the parameters; returns the product, detached."""

# Calls before the capture, until what is compiled or tuned when first called is.
WARM_UP = 2


class Replayed:
    """``eager`` as a CUDA graph, of the first shape and weight that it meets; another is left to ``eager``.

    Raises:
        ConfigError: the device is no GPU, or there are several processes, whose exchange is not captured.
    """

    def __init__(self, eager: Backward, model: nn.Module, device: torch.device) -> None:
        if device.type != "cuda":
            raise ConfigError(
                f"train.graph=true wants a GPU, not device.type={device.type}; leave it out, or choose device=h100"
            )
        if distributed.size() > 1:
            raise ConfigError(f"train.graph=true is for one process, not {distributed.size()}; leave it out")
        self.eager, self.model, self.graph = eager, model, torch.cuda.CUDAGraph()
        self.tokens: Tensor | None = None

    def __call__(self, tokens: Int[Tensor, "B T"], weight: float) -> Float[Tensor, ""]:
        if self.tokens is None:
            self._capture(tokens, weight)
        assert self.tokens is not None
        if tokens.shape != self.tokens.shape or weight != self.weight:
            return self.eager(tokens, weight)
        if any(p.grad is not gradient for p, gradient in self.gradients):  # dropped since: a new step
            torch._foreach_zero_([gradient for _, gradient in self.gradients])
            for p, gradient in self.gradients:
                p.grad = gradient
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.loss.clone()

    def _capture(self, tokens: Tensor, weight: float) -> None:
        """The graph adds to gradients that stay where they are: those that the last call before it leaves."""
        self.tokens, self.weight, stream = tokens.clone(), weight, torch.cuda.Stream(tokens.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.eager(self.tokens, weight)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph, stream=stream):
            self.loss = self.eager(self.tokens, weight)
        self.gradients = [(p, p.grad) for p in self.model.parameters() if p.grad is not None]
        for p, _ in self.gradients:
            p.grad = None
