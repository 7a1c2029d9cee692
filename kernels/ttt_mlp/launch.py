"""What the launchers of TTT-MLP's kernels share: sizes, modes, warps."""

import torch
from torch import Tensor

from kernels.ttt.launch import INTERPRETED, PRECISION, Operands, Tiles, triton_dtype

HEAD_DIMS = (16, 32, 64)


def tiles_of(q: Tensor, tau: Tensor) -> Tiles:
    """Sizes of tiles.

    Raises:
        ValueError: there is no kernel of this head dim or mini-batch.
    """
    if q.dtype == torch.float32 and q.shape[-1] == 64 and tau.shape[0] == 64:
        raise ValueError("no float32 TTT-MLP kernel for head dim 64 and mini-batches of 64 tokens; choose impl: reference")
    if q.shape[-1] not in HEAD_DIMS:
        raise ValueError(f"no TTT-MLP kernel for head dim {q.shape[-1]}, only {HEAD_DIMS}; choose impl: reference")
    return Tiles.of(q.shape[-1], tau.shape[0])


def sizes(tiles: Tiles) -> dict[str, int]:
    """Of every kernel."""
    return {"F": tiles.F, "N": 4 * tiles.F, "C": tiles.C, "CHUNK": tiles.CHUNK}


def modes(q: Tensor) -> dict[str, object]:
    """Of the kernels that compute what the forward pass computes."""
    operand = Operands.of(q).forward
    return {"OPERAND": triton_dtype(operand), "PRECISION": PRECISION, "FAST": operand == torch.float16 and not INTERPRETED}


def warps(tiles: Tiles) -> int:
    """Of a program that holds W1 and W2 in float32: 128 KiB at head dim 64, half the registers of a multiprocessor."""
    return 8 if tiles.F == 64 else 4
