"""The convolution of a Mamba-1 layer of the case's width D = heads x head_dim: E = 2 D channels, 4 taps."""

from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from kernels.op import Case, Inputs, Stepping

TAPS = 4


class CausalConv(Stepping):
    """Channels are the heads."""

    head_axis: ClassVar[dict[str, int]] = {"x": 2, "weight": 0, "bias": 0}
    time_inputs: ClassVar[tuple[str, ...]] = ("x",)
    reference: ClassVar[str] = "kernels.causal_conv.reference"

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """Parameters in the case's dtype too."""
        channels = 2 * case.heads * case.head_dim
        shapes = {"x": (case.batch, case.context, channels), "weight": (channels, 1, TAPS), "bias": (channels,)}
        return {
            name: torch.randn(shape, generator=generator, device=generator.device, dtype=case.dtype)
            for name, shape in shapes.items()
        }

    def sample(self, tokens: int, heads: int) -> list[int]:
        """Eight channels, evenly spaced."""
        return torch.linspace(0, heads - 1, 8).long().unique().tolist()

    def start(self, module: ModuleType, x: Inputs, case: Case, phases: Tensor) -> Tensor:
        return x["x"].new_zeros(case.batch, TAPS - 1, x["bias"].shape[0])

    def visible(self, state: Tensor) -> Inputs:
        return {"past": state.transpose(1, 2)}

    def matmul_flops(self, case: Case) -> int:
        """It has no matrix products."""
        return 0

    def step_bytes(self, case: Case) -> float:
        """The state read and written; x, y."""
        return case.batch * case.dtype.itemsize * 2 * case.heads * case.head_dim * (2 * (TAPS - 1) + 2)
