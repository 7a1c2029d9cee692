"""Gate and norm of a Mamba-2 layer of the case's width D = heads x head_dim, over E = 2 D channels."""

from typing import ClassVar

import torch

from kernels.op import Case, Inputs, Problem


class GatedNorm(Problem):
    """The channels of a token are normed together, so a comparison takes all of them."""

    head_axis: ClassVar[dict[str, int]] = {"y": 2, "z": 2, "weight": 0}
    reference: ClassVar[str] = "kernels.gated_norm.reference"

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """The weight in the case's dtype too."""
        channels = 2 * case.heads * case.head_dim
        shapes = {"y": (case.batch, case.context, channels), "z": (case.batch, case.context, channels), "weight": (channels,)}
        return {
            name: torch.randn(shape, generator=generator, device=generator.device, dtype=case.dtype)
            for name, shape in shapes.items()
        }

    def sample(self, tokens: int, heads: int) -> list[int]:
        """All."""
        return list(range(heads))

    def matmul_flops(self, case: Case) -> int:
        """It has no matrix products."""
        return 0
