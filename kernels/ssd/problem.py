"""The scan of a Mamba-2 layer of the case's width D = heads x head_dim: twice the heads, N = 128, one group of B and C."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from kernels.op import Case, Inputs, Problem

STATES = 128


class SSD(Problem):
    """b and c are shared by all heads."""

    head_axis: ClassVar[dict[str, int]] = {"x": 2, "dt": 2, "a": 0, "d": 0}
    reference: ClassVar[str] = "kernels.ssd.reference"

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """a uniform in (-16, -1), dt log-uniform from 1e-3 to 1e-1, d = 1 (mamba2.py)."""
        wide = torch.promote_types(case.dtype, torch.float32)
        heads, device = 2 * case.heads, generator.device

        def normal(*shape: int) -> Tensor:
            return torch.randn(case.batch, case.context, *shape, generator=generator, device=device, dtype=case.dtype)

        def uniform(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.rand(*shape, generator=generator, device=device, dtype=dtype)

        dt = (math.log(1e-3) + uniform(case.batch, case.context, heads, dtype=case.dtype) * math.log(100)).exp()
        a = -1 - 15 * uniform(heads, dtype=wide)
        d = torch.ones(heads, device=device, dtype=wide)
        return {"x": normal(heads, case.head_dim), "dt": dt, "a": a, "b": normal(STATES), "c": normal(STATES), "d": d}

    def matmul_flops(self, case: Case) -> int:
        """The least: each token's state update and answer, P x N per head."""
        return case.batch * case.context * 2 * case.heads * 4 * case.head_dim * STATES
