"""One token of the convolution and SiLU in one launch: each input is read once and moved where the next token wants it.

Bytes a channel: S inputs read and written, x, y; beside them K weights and a bias for all rows.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kernels.opaque import opaque

BLOCK = 512


@triton.jit
def _token(x_ptr, past_ptr, weight_ptr, bias_ptr, out_ptr, row, E, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid [E / BLOCK, B]; a thread alone touches its channels' inputs."""
    e, batch = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    inside = e < E
    past_ptr += batch * (TAPS - 1) * E + e
    newest = tl.load(x_ptr + batch * row + e, mask=inside, other=0.0)
    acc = tl.load(bias_ptr + e, mask=inside, other=0.0).to(tl.float32)
    for tap in tl.static_range(TAPS):
        x = newest
        if tap < TAPS - 1:
            x = tl.load(past_ptr + tap * E, mask=inside, other=0.0)
        if tap > 0:
            tl.store(past_ptr + (tap - 1) * E, x, mask=inside)
        acc += x.to(tl.float32) * tl.load(weight_ptr + e * TAPS + tap, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + batch * E + e, (acc * tl.sigmoid(acc)).to(out_ptr.dtype.element_ty), mask=inside)


@opaque
@torch.no_grad()
def step(
    x: Float[Tensor, "B E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"], past: Float[Tensor, "B S E"]
) -> Float[Tensor, "B E"]:
    """As the reference.

    Raises:
        ValueError: ``past`` is not contiguous, so that it could not be moved on in place.
    """
    if not past.is_contiguous():
        raise ValueError(f"past has strides {past.stride()}; make it contiguous")
    x = x if x.stride(1) == 1 else x.contiguous()
    (batch, channels), out = x.shape, torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _token[triton.cdiv(channels, BLOCK), batch](
        x, past, weight.contiguous(), bias, out, x.stride(0), channels, TAPS=weight.shape[2], BLOCK=BLOCK
    )
    return out
