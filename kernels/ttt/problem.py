"""What the TTT operations compute, on random inputs: gates and initial weights of the size that the paper starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from kernels.op import Case, Inputs, Stepping
from kernels.ttt.flops import token_flops
from kernels.ttt.state import InnerState, LayerNorm


@dataclass(frozen=True)
class TTT(Stepping):
    """``expand``: widths of the inner model's layers in head dims, from input to output. base_lr: of the gate rho."""

    expand: tuple[int, ...]
    base_lr: float
    time_inputs: ClassVar[tuple[str, ...]] = ("q", "k", "v", "rho")
    is_cyclic: ClassVar[bool] = True
    reference: ClassVar[str] = "kernels.ttt.reference"
    head_axis: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("q", "k", "v", "rho"), 2),
        **dict.fromkeys(("weight_1", "weight_2", "bias_1", "bias_2", "norm_weight", "norm_bias"), 0),
    }

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """q, k, v in the case's dtype, all else in float32: parameters, and the gate that is made of them."""
        b, t, h, f, device = case.batch, case.context, case.heads, case.head_dim, generator.device
        wide = torch.promote_types(case.dtype, torch.float32)

        def normal(*shape: int, dtype: torch.dtype = wide) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

        x = {name: normal(b, t, h, f, dtype=case.dtype) for name in ("q", "k", "v")}
        x["rho"] = self.base_lr / f * normal(b, t, h).sigmoid()
        count = torch.arange(1, case.mini_batch + 1, device=device, dtype=wide)
        x["tau"] = (1 / count + 0.02 * normal(case.mini_batch)).clamp_min(0)
        shapes = list(pairwise(f * e for e in self.expand))
        x |= {f"weight_{n}": 0.02 * normal(h, i, o) for n, (i, o) in enumerate(shapes, 1)}
        x |= {f"bias_{n}": 0.02 * normal(h, o) for n, (_, o) in enumerate(shapes, 1)}
        return x | {"norm_weight": 1 + 0.1 * normal(h, f), "norm_bias": 0.1 * normal(h, f)}

    def forward(self, module: ModuleType, x: Inputs) -> Tensor:
        views = (x["q"], x["k"], x["v"], x["rho"], x["tau"])
        out: Tensor = module.forward(*views, _layers(x, "weight"), _layers(x, "bias"), _norm(x))
        return out

    def start(self, module: ModuleType, x: Inputs, case: Case, phases: Tensor) -> InnerState:
        weights, biases = _layers(x, "weight"), _layers(x, "bias")
        state: InnerState = module.init_state(weights, biases, case.batch, case.mini_batch, case.dtype)
        for slots in (state.rho, *state.inputs, *state.grads):
            slots.zero_()  # open pairs that change nothing
        self.place(state, phases)
        return state

    def place(self, state: InnerState, phases: Tensor) -> None:
        state.position.copy_(phases)

    def prefill(self, module: ModuleType, x: Inputs, state: InnerState) -> Tensor:
        out: Tensor = module.prefill(x["q"], x["k"], x["v"], x["rho"], x["tau"], _norm(x), state)
        return out

    def step(self, module: ModuleType, x: Inputs, state: InnerState) -> Tensor:
        out: Tensor = module.step(x["q"], x["k"], x["v"], x["rho"], x["tau"], _norm(x), state)
        return out

    def visible(self, state: InnerState) -> Inputs:
        """Weights and biases, and the pairs of the open mini-batch, zero in the slots after them."""
        size = state.rho.shape[2]
        is_open = (torch.arange(size, device=state.rho.device) < (state.position % size)[:, None])[:, None]
        found = {f"weight_{n}": w for n, w in enumerate(state.dense(), 1)}
        found |= {f"bias_{n}": b for n, b in enumerate(state.biases, 1)}
        found["rho"] = torch.where(is_open, state.rho, 0)
        for name, held in (("input", state.inputs), ("grad", state.grads)):
            found |= {f"{name}_{n}": torch.where(is_open[..., None], slots, 0) for n, slots in enumerate(held, 1)}
        return found

    def matmul_flops(self, case: Case) -> int:
        shapes = pairwise(case.head_dim * e for e in self.expand)
        return case.batch * case.context * case.heads * token_flops(shapes, case.mini_batch)

    def step_bytes(self, case: Case) -> float:
        """W is read; of C slots (C - 1)/2 are read, one is written; once in C tokens W is written, its remainder too."""
        f, c, size = case.head_dim, case.mini_batch, case.dtype.itemsize
        shapes = list(pairwise(f * e for e in self.expand))
        weights = sum(i * o for i, o in shapes) * size
        slot = sum(i + o for i, o in shapes) * size
        remainders = weights if size == 2 else 0
        biases = 4 * sum(o for _, o in shapes)
        state = weights + biases + slot * ((c - 1) / 2 + 1) + (weights + biases + 2 * remainders) / c
        return case.batch * case.heads * (state + 4 * f * size)


def _layers(x: Inputs, name: str) -> tuple[Tensor, ...]:
    """The inner layers' tensors of one kind, from the first layer on."""
    found: Sequence[str] = sorted(key for key in x if key.startswith(f"{name}_"))
    return tuple(x[key] for key in found)


def _norm(x: Inputs) -> LayerNorm:
    return LayerNorm(x["norm_weight"], x["norm_bias"])
