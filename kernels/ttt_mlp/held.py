"""The weights of TTT-MLP as a state or the model holds them, made into what a walk moves, and back: one pass each way.

Held: W1 [F, N], W2 [N, F], b1, b2, exact or in halves and remainders. Moved, in float32: W1' [N, F], as tiles of ``chain`` lie,
and W2 and b2 centred over their outputs; what that takes away is kept beside them and put back in the end.

A program takes BN of the N hidden units of a head: columns of W1, rows of W2, so that it has all outputs of each. Features are
padded to BF in registers. Bytes a head, each way and in either form: 16 F N.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.ttt.blocks import joined, store_split
from kernels.ttt.launch import Tiles
from kernels.ttt_mlp.launch import padding

Tensors = tuple[Tensor, ...]


@triton.jit
def _places(F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr):
    """Which head of which sequence; features f, hidden units n; where their weights lie in [F, N] and in [N, F]."""
    tile, f = tl.program_id(0) % (N // BN), tl.arange(0, BF)
    n = tile * BN + tl.arange(0, BN)
    return (tl.program_id(0) // (N // BN)).to(tl.int64), f, n, f[:, None] * N + n[None, :], n[:, None] * F + f[None, :]


@triton.jit
def _start(
    weight1_ptr, weight2_ptr, rest1_ptr, rest2_ptr, bias1_ptr, bias2_ptr,
    w1_ptr, w2_ptr, b1_ptr, b2_ptr, mean_ptr, bias_mean_ptr,
    H: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    BATCHED: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Grid [B H N / BN]. BATCHED: what is held has a batch dimension."""
    cell, f, n, across, along = _places(F, BF, N, BN)
    here, which, is_feature = cell * N * F, cell if BATCHED else cell % H, f < F
    there = which * N * F
    w1 = joined(weight1_ptr + there, rest1_ptr + there, across, is_feature[:, None], SPLIT)
    w2 = joined(weight2_ptr + there, rest2_ptr + there, along, is_feature[None, :], SPLIT)
    mean = tl.sum(w2, 1) / F
    tl.store(w1_ptr + here + along, tl.trans(w1), mask=is_feature[None, :])
    tl.store(w2_ptr + here + along, w2 - mean[:, None], mask=is_feature[None, :])
    tl.store(mean_ptr + cell * N + n, mean)
    tl.store(b1_ptr + cell * N + n, tl.load(bias1_ptr + which * N + n).to(tl.float32))
    if tl.program_id(0) % (N // BN) == 0:
        b2 = tl.load(bias2_ptr + which * F + f, mask=is_feature, other=0.0).to(tl.float32)
        bias_mean = tl.sum(b2, 0) / F
        tl.store(b2_ptr + cell * F + f, b2 - bias_mean, mask=is_feature)
        tl.store(bias_mean_ptr + cell, bias_mean)


@triton.jit(do_not_specialize=["T"])
def _finish(
    weight1_ptr, weight2_ptr, rest1_ptr, rest2_ptr, bias1_ptr, bias2_ptr,
    w1_ptr, w2_ptr, b1_ptr, b2_ptr, mean_ptr, bias_mean_ptr, position_ptr, T,
    H: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Grid [B H N / BN]."""
    cell, f, n, across, along = _places(F, BF, N, BN)
    here, is_feature = cell * N * F, f < F
    w1 = tl.load(w1_ptr + here + along, mask=is_feature[None, :], other=0.0)
    w2 = tl.load(w2_ptr + here + along, mask=is_feature[None, :], other=0.0) + tl.load(mean_ptr + cell * N + n)[:, None]
    store_split(weight1_ptr + here, rest1_ptr + here, across, tl.trans(w1), is_feature[:, None], SPLIT)
    store_split(weight2_ptr + here, rest2_ptr + here, along, w2, is_feature[None, :], SPLIT)
    tl.store(bias1_ptr + cell * N + n, tl.load(b1_ptr + cell * N + n))
    if tl.program_id(0) % (N // BN) == 0:
        b2 = tl.load(b2_ptr + cell * F + f, mask=is_feature, other=0.0) + tl.load(bias_mean_ptr + cell)
        tl.store(bias2_ptr + cell * F + f, b2, mask=is_feature)
        if cell % H == 0:
            tl.store(position_ptr + cell // H, tl.load(position_ptr + cell // H) + T)


@dataclass(frozen=True)
class Held:
    """Weights and biases as they are held. All tensors are contiguous."""

    tiles: Tiles
    weights: Tensors
    """W1 [_ H F N], W2 [_ H N F], with or without a batch dimension"""
    biases: Tensors
    """b1 [_ H N], b2 [_ H F]"""
    remainders: Sequence[Tensor] = ()
    """Of W1 and W2, where those are halves"""

    def start(self, batch: int) -> tuple[Tensors, Tensors]:
        """What ``batch`` walks move, w1 (transposed), w2, b1, b2, and what centring took from w2 [B H N] and b2 [B H]."""
        (heads, wide, narrow), batched = self.weights[1].shape[-3:], self.weights[1].ndim == 4
        shapes = [(wide, narrow), (wide, narrow), (wide,), (narrow,), (wide,), ()]
        moved = tuple(self.biases[0].new_empty(batch, heads, *shape, dtype=torch.float32) for shape in shapes)
        self._launch(_start, moved, BATCHED=batched)
        return moved[:4], moved[4:]

    def finish(self, moved: Tensors, means: Tensors, position: Tensor, tokens: int) -> None:
        """Puts what ``tokens`` tokens moved back, in place, and advances ``position`` [B] by them."""
        self._launch(_finish, (*moved, *means, position), tokens)

    def _launch(self, kernel: Any, tensors: Tensors, *tokens: int, **modes: bool) -> None:
        hidden, blocks = tensors[2], padding(self.tiles)
        kernel[(hidden.numel() // blocks["BN"],)](
            *self.weights, *(self.remainders or self.weights), *self.biases, *tensors, *tokens,
            H=hidden.shape[1], F=self.tiles.F, N=hidden.shape[2], **blocks, SPLIT=bool(self.remainders), **modes,
            num_warps=4 if self.tiles.BF <= 64 else 8,
        )  # fmt: skip
