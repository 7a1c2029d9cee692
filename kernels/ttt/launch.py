"""What the launchers of the TTT kernels share: sizes of tiles, dtypes of operands, limits, the device."""

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
CHUNK = 64
"""Tokens between two weights that are kept."""
MINI_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Tiles:
    """Sizes of one launch: F features padded to BF, mini-batches of C tokens in tiles of BC, chunks of CHUNK tokens."""

    F: int
    BF: int
    C: int
    BC: int
    CHUNK: int

    @classmethod
    def of(cls, head_dim: int, mini_batch: int, largest: int = 128) -> "Tiles":
        """Tiles of a head dim and mini-batch.

        Raises:
            ValueError: the kernels have no tiles of this size.
        """
        if mini_batch not in MINI_BATCHES:
            raise ValueError(f"no kernel for mini-batches of {mini_batch} tokens, only {MINI_BATCHES}; choose impl: reference")
        if head_dim > largest:
            raise ValueError(f"no kernel for head dim {head_dim}, only up to {largest}; choose impl: reference")
        return cls(head_dim, max(16, triton.next_power_of_2(head_dim)), mini_batch, max(16, mini_batch), CHUNK)

    def are_even(self, length: int) -> bool:
        """Whether ``length`` tokens fill all tiles, so that no load needs a mask."""
        return length % self.CHUNK == 0 and self.F == self.BF and self.C == self.BC


def operand_dtype(x: Tensor) -> torch.dtype:
    """Of matrix operands for inputs like ``x``: float16 for 16 bits, eight times as exact as bfloat16; float32 stays.

    Raises:
        TypeError: neither 16-bit nor float32.
    """
    if x.dtype == torch.float32:
        return torch.float32
    if x.dtype in (torch.float16, torch.bfloat16):
        return torch.float16
    raise TypeError(f"the Triton kernels take float32, bfloat16 and float16, not {x.dtype}; choose impl: reference")


def gradient_scale(dout: Tensor) -> Tensor:
    """Powers of two, float32 [B H], that take the largest of dout [B T H F], of each sequence and head, into [1/2, 1).

    A backward pass is linear in dout. Scaled, it keeps to the range of float16 operands, however small a loss's gradient is.
    Of a dout that is not finite the scale is NaN, and so are all gradients.
    """
    largest = torch.linalg.vector_norm(dout, math.inf, dim=(1, 3), dtype=torch.float32)
    exponent = torch.frexp(largest).exponent.where(largest > 0, 0)
    return torch.ldexp(largest * 0 + 1, -exponent)


PRECISION = "tf32x3"
"""Of products of float32 operands: three tf32 products, right to about 1e-6."""

_TRITON = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """Triton's name of a dtype."""
    return _TRITON[dtype]


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors; 1 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may have, 99 KiB on consumer cards, 227 KiB on an H100; interpreted, no limit."""
    if device.type != "cuda":
        return 1 << 30
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]
