"""The scan of Mamba-2 by mamba-ssm's Triton kernels: sequences in the chunks of 256 tokens that its layer takes, and a step.

Their offsets have 32 bits: larger batches, such as 16 x 32,768 tokens of a 1.3B layer, go through in pieces.
"""

import torch
from jaxtyping import Float
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from torch import Tensor

from kernels.opaque import opaque
from kernels.pieces import pieces

CHUNK = 256


@opaque
def forward(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    dt_bias: Float[Tensor, " H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " H"],
) -> Float[Tensor, "B T H P"]:
    """As the reference."""
    parts = [
        mamba_chunk_scan_combined(
            *(x[rows], dt[rows], a, b[rows, :, None], c[rows, :, None], CHUNK), D=d, dt_bias=dt_bias, dt_softplus=True
        )
        for rows in pieces(x.shape[0], max(x.stride(0), dt.stride(0)))
    ]
    return _joined(parts)


@opaque
@torch.no_grad()
def prefill(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    dt_bias: Float[Tensor, " H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " H"],
    state: Float[Tensor, "B H P N"],
) -> Float[Tensor, "B T H P"]:
    """As the reference."""
    parts = []
    for rows in pieces(x.shape[0], max(x.stride(0), dt.stride(0))):
        part, last = mamba_chunk_scan_combined(
            *(x[rows], dt[rows], a, b[rows, :, None], c[rows, :, None], CHUNK),
            D=d,
            dt_bias=dt_bias,
            dt_softplus=True,
            initial_states=state[rows],
            return_final_states=True,
        )
        state[rows] = last
        parts.append(part)
    return _joined(parts)


@opaque
@torch.no_grad()
def step(
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    dt_bias: Float[Tensor, " H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    d: Float[Tensor, " H"],
    state: Float[Tensor, "B H P N"],
) -> Float[Tensor, "B H P"]:
    """As the reference. What all of a head shares is expanded with stride 0, by which the kernel knows it."""
    _, _, width, states = state.shape
    y: Tensor = selective_state_update(
        *(state, x, dt[..., None].expand_as(x), a[:, None, None].expand(-1, width, states), b[:, None], c[:, None]),
        D=d[:, None].expand(-1, width),
        dt_bias=dt_bias[:, None].expand(-1, width),
        dt_softplus=True,
    )
    return y


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
