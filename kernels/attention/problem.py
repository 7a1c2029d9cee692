"""Causal attention on random inputs, and its definition without any library's kernel."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.op import Case, Inputs, Problem

# Scores of so many queries are made at once that they have at most this many elements.
_ELEMENTS = 1 << 26


class Attention(Problem):
    """q, k, v of unit variance."""

    head_axis: ClassVar[dict[str, int]] = dict.fromkeys(("q", "k", "v"), 2)
    reference: ClassVar[str] = "kernels.attention.reference"

    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        shape = (case.batch, case.context, case.heads, case.head_dim)
        return {n: torch.randn(shape, generator=generator, device=generator.device, dtype=case.dtype) for n in "qkv"}

    def define(self, x: Inputs) -> Tensor:
        """softmax(Q K' / sqrt(F), causal) V, queries in pieces that backward makes again: memory is linear in T."""
        wide = torch.promote_types(x["q"].dtype, torch.float32)
        q, k, v = (tensor.to(wide).transpose(1, 2) for tensor in x.values())
        length = max(1, _ELEMENTS // (k.numel() // k.shape[3]))
        pieces = [
            checkpoint(_answer, queries, k, v, n * length, use_reentrant=False)
            for n, queries in enumerate(q.split(length, dim=2))
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2).to(x["q"].dtype)

    def matmul_flops(self, case: Case) -> int:
        """Q K' and P V over the pairs that a query may see."""
        return case.batch * case.heads * case.context * (case.context + 1) // 2 * 4 * case.head_dim


def _answer(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """Outputs of the queries from position ``start`` on, [B, H, piece, F]."""
    seen = start + q.shape[2]
    late = torch.ones(q.shape[2], seen, dtype=torch.bool, device=q.device).triu(start + 1)
    scores = (q @ k[:, :, :seen].transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(late, -math.inf)
    return torch.softmax(scores, dim=-1) @ v[:, :, :seen]
