"""What the launchers of TTT-MLP's kernels share: sizes, modes, warps."""

import torch
from torch import Tensor

from kernels.ttt.launch import INTERPRETED, PRECISION, Tiles, operand_dtype, triton_dtype

IN_REGISTERS = (16, 32, 64)
"""Head dims whose weights a program holds in registers; of other multiples of 16 they lie in memory."""


def tiles_of(q: Tensor, tau: Tensor) -> Tiles:
    """Sizes of tiles.

    Raises:
        ValueError: there is no kernel of this head dim or mini-batch.
    """
    head_dim, mini_batch = q.shape[-1], tau.shape[0]
    if head_dim % 16:
        raise ValueError(f"no TTT-MLP kernel for head dim {head_dim}, only multiples of 16; choose impl: reference")
    largest = 16 if head_dim not in IN_REGISTERS else 32 if head_dim == 64 else 64
    if q.dtype == torch.float32 and mini_batch > largest:
        raise ValueError(
            f"no float32 TTT-MLP kernel for head dim {head_dim} and mini-batches of {mini_batch} tokens; choose impl: reference"
        )
    return Tiles.of(head_dim, mini_batch)


def sizes(tiles: Tiles) -> dict[str, int]:
    """Of every kernel."""
    return {"F": tiles.F, "N": 4 * tiles.F, "C": tiles.C, "CHUNK": tiles.CHUNK}


def padding(tiles: Tiles) -> dict[str, int]:
    """Of kernels whose features are padded and whose hidden units come in tiles."""
    return {"BF": tiles.BF, "BN": 64}


def products(q: Tensor) -> dict[str, object]:
    """Of every kernel: the products of inputs like q."""
    return {"OPERAND": triton_dtype(operand_dtype(q)), "PRECISION": PRECISION}


def modes(q: Tensor) -> dict[str, object]:
    """Of the kernels that compute what the forward pass computes."""
    return products(q) | {"FAST": operand_dtype(q) == torch.float16 and not INTERPRETED}


def warps(tiles: Tiles) -> int:
    """Of a walk: W1 and W2 in float32 are 128 KiB at head dim 64, half the registers of a multiprocessor, and more above.

    Narrower heads have two warps: for four Triton 3.6 makes warp-group products, and in 16 bits those of tiles narrower than
    64 read beyond their shared memory (compute-sanitizer, H100).
    """
    return 8 if tiles.F >= 64 else 2
