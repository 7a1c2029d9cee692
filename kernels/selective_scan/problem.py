"""The scan of a Mamba-1 layer of the case's width D = heads x head_dim: E = 2 D channels, N = 16, dt about as initialised.

Tensors are laid out as Mamba's convolution leaves them, time last, and given as [B, T, E] views.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from kernels.op import Case, Inputs, Stepping

STATES = 16


@dataclass(frozen=True)
class SelectiveScan(Stepping):
    """Channels are the heads: b and c are shared by all of them. Without the gate that other operations have not either."""

    is_gated: bool = False
    head_axis: ClassVar[dict[str, int]] = {"u": 2, "dt": 2, "dt_bias": 0, "a": 0, "d": 0, "z": 2}
    time_inputs: ClassVar[tuple[str, ...]] = ("u", "dt", "b", "c", "z")
    reference: ClassVar[str] = "kernels.selective_scan.reference"

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """a = -1 .. -N, d = 1, softplus(dt_bias) log-uniform from 1e-3 to 1e-1 (mamba_simple.py), float32; dt ~ N(0, 1/4)."""
        wide = torch.promote_types(case.dtype, torch.float32)
        e, device = _channels(case), generator.device

        def normal(width: int) -> Tensor:
            drawn = torch.randn(case.batch, width, case.context, generator=generator, device=device, dtype=case.dtype)
            return drawn.transpose(1, 2)

        uniform = torch.rand(e, generator=generator, device=device, dtype=wide)
        dt_bias = (math.log(1e-3) + uniform * math.log(100)).exp().expm1().log()
        a = -torch.arange(1, STATES + 1, device=device, dtype=wide).repeat(e, 1)
        d = torch.ones(e, device=device, dtype=wide)
        x = {
            "u": normal(e),
            "dt": 0.5 * normal(e),
            "dt_bias": dt_bias,
            "a": a,
            "b": normal(STATES),
            "c": normal(STATES),
            "d": d,
        }
        return x | ({"z": normal(e)} if self.is_gated else {})

    def sample(self, tokens: int, heads: int) -> list[int]:
        """Eight channels, evenly spaced."""
        return torch.linspace(0, heads - 1, 8).long().unique().tolist()

    def start(self, module: ModuleType, x: Inputs, case: Case, phases: Tensor) -> Tensor:
        return torch.zeros(case.batch, *x["a"].shape, dtype=x["a"].dtype, device=x["a"].device)

    def prefill(self, module: ModuleType, x: Inputs, state: Tensor) -> Tensor:
        out: Tensor = module.prefill(**x, state=state)
        return out

    def step(self, module: ModuleType, x: Inputs, state: Tensor) -> Tensor:
        out: Tensor = module.step(**x, state=state)
        return out

    def visible(self, state: Tensor) -> Inputs:
        return {"h": state}

    def matmul_flops(self, case: Case) -> int:
        """It has no matrix products."""
        return 0

    def step_bytes(self, case: Case) -> float:
        """The float32 state read and written; u, dt, b, c, y, and z where it is gated."""
        e = _channels(case)
        return case.batch * (2 * 4 * e * STATES + case.dtype.itemsize * ((3 + self.is_gated) * e + 2 * STATES))


def _channels(case: Case) -> int:
    return 2 * case.heads * case.head_dim
