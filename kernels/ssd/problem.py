"""The scan of a Mamba-2 layer of the case's width D = heads x head_dim: twice the heads, N = 128, one group of B and C."""

import math
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from kernels.op import Case, Inputs, Stepping

STATES = 128


class SSD(Stepping):
    """b and c are shared by all heads."""

    head_axis: ClassVar[dict[str, int]] = {"x": 2, "dt": 2, "dt_bias": 0, "a": 0, "d": 0}
    time_inputs: ClassVar[tuple[str, ...]] = ("x", "dt", "b", "c")
    reference: ClassVar[str] = "kernels.ssd.reference"

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """a uniform in (-16, -1), softplus(dt_bias) log-uniform from 1e-3 to 1e-1, d = 1 (mamba2.py); dt ~ N(0, 1/4)."""
        wide = torch.promote_types(case.dtype, torch.float32)
        heads, device = 2 * case.heads, generator.device

        def normal(*shape: int) -> Tensor:
            return torch.randn(case.batch, case.context, *shape, generator=generator, device=device, dtype=case.dtype)

        def uniform() -> Tensor:
            return torch.rand(heads, generator=generator, device=device, dtype=wide)

        dt_bias = (math.log(1e-3) + uniform() * math.log(100)).exp().expm1().log()
        x, dt, a, d = normal(heads, case.head_dim), 0.5 * normal(heads), -1 - 15 * uniform(), torch.ones_like(dt_bias)
        return {"x": x, "dt": dt, "dt_bias": dt_bias, "a": a, "b": normal(STATES), "c": normal(STATES), "d": d}

    def start(self, module: ModuleType, x: Inputs, case: Case, phases: Tensor) -> Tensor:
        heads, dtype = x["a"].shape[0], torch.promote_types(case.dtype, torch.float32)
        return x["x"].new_zeros(case.batch, heads, case.head_dim, STATES, dtype=dtype)

    def visible(self, state: Tensor) -> Inputs:
        return {"h": state}

    def matmul_flops(self, case: Case) -> int:
        """The least: each token's state update and answer, P x N per head."""
        return case.batch * case.context * 2 * case.heads * 4 * case.head_dim * STATES

    def step_bytes(self, case: Case) -> float:
        """The float32 state read and written; x, dt, b, c, y."""
        heads = 2 * case.heads
        token = case.dtype.itemsize * (heads * (2 * case.head_dim + 1) + 2 * STATES)
        return case.batch * (2 * 4 * heads * case.head_dim * STATES + token)
